"""The diffusion prior: reading Stable Diffusion checkpoints, ControlNet, half precision and the CUDA-graph path."""
