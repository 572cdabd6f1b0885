"""Bounds on Gaussians, applied after every optimizer step."""

from dataclasses import replace

import torch

from sctd.recipe.scene import BoundsConfig
from sctd.scene.gaussians import SH_C0, Gaussians

HALF_IN_SH = 0.5 / SH_C0  # the constant SH coefficient of a channel at 1; at 0 it is the negative


def clamp_to_bounds(gaussians: Gaussians, bounds: BoundsConfig) -> Gaussians:
    """Move means towards the origin into the radius, clamp scales to their range and degree-0 colours to [0, 1]."""
    low, high = torch.tensor(bounds.scale).log().tolist()
    distance = gaussians.means.norm(dim=-1, keepdim=True)
    means = torch.where(distance > bounds.radius, gaussians.means * (bounds.radius / distance), gaussians.means)
    sh = gaussians.sh.clamp(-HALF_IN_SH, HALF_IN_SH) if bounds.colour and gaussians.sh_degree == 0 else gaussians.sh
    return replace(gaussians, means=means, log_scales=gaussians.log_scales.clamp(low, high), sh=sh)
