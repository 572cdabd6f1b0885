"""Rendering of Gaussians: one contract, a CPU and a gsplat backend, and the fusion of rendered depth into a mesh."""
