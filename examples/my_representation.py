"""A grid of voxels: density and colour at its corners, interpolated linearly and composited along the rays."""

import torch
from torch.nn.functional import grid_sample, softplus

from sctd.render.contract import Rendering

CORNERS, STEPS, BOX = 48, 80, 1.0  # along an edge; along a ray; half the edge in world units


class Voxels:
    rates = {"density": (0.5, 0.1), "colour": (0.1, 0.02)}  # of Adam, at the start and at the end
    SETTINGS = {"initialization.kind": "ball"}  # recipe keys, as for --set; without Point-E

    def start(self, initial, generator):
        """A grey blob. `initial` are the Gaussians that the recipe starts from."""
        along = torch.linspace(-BOX, BOX, CORNERS)
        radius = torch.stack(torch.meshgrid(along, along, along, indexing="ij")).norm(dim=0)
        return {"density": 10 * (1 - radius[None] / 0.5), "colour": torch.zeros(3, CORNERS, CORNERS, CORNERS)}

    def render(self, tensors, cameras, background):
        """rgb on the background, alpha and accumulated depth; differentiable in the tensors."""
        grid = torch.cat([tensors["density"], tensors["colour"]])
        one = torch.ones(cameras.num, cameras.height, cameras.width, device=grid.device)
        centres = cameras.centers[:, :, None, None]
        rays = cameras.unprojected(one) - centres  # to the points of depth 1
        middle = cameras.centers.norm(dim=-1)[:, None, None, None]
        depth = middle + torch.linspace(-1.75, 1.75, STEPS, device=grid.device) * BOX
        points = (centres[..., None] + rays[..., None] * depth[:, None]).permute(0, 4, 2, 3, 1) / BOX
        is_inside = (points.abs() <= 1).all(dim=-1)
        found = grid_sample(grid.expand(cameras.num, -1, -1, -1, -1), points.flip(-1), align_corners=True)
        step = 3.5 * BOX / (STEPS - 1) * rays.norm(dim=1)[:, None]
        optical = is_inside * softplus(found[:, 0]) * step
        weights = torch.exp(optical - optical.cumsum(dim=1)) * -torch.expm1(-optical)
        rgb = (weights[:, None] * found[:, 1:].sigmoid()).sum(dim=2)
        alpha = weights.sum(dim=1)
        seen = (weights * depth.permute(0, 3, 1, 2)).sum(dim=1)
        return Rendering(rgb + (1 - alpha)[:, None] * background[:, :, None, None], alpha, seen)
