"""File formats of Gaussians, point clouds and meshes: pure functions from values to bytes and back."""
