"""The 3D scene: Gaussians, the cameras that view them, and how their number changes during training."""
