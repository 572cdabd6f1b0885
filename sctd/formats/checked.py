"""What the formats that round share: their error, rotations of length 1, and opacities that were 0 or 1."""

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.scene.gaussians import Gaussians

_NEVER = 1e-3  # an opacity of 0 or 255 of 255 stands for one that is nearer to it than half a step


class FormatError(ValueError):
    """These bytes are no file of the expected format, or these Gaussians do not fit into it."""


def unit_quats(gaussians: Gaussians) -> Float[Tensor, "num 4"]:
    """Rotations (w, x, y, z) of length 1."""
    return torch.nn.functional.normalize(gaussians.quats, dim=-1)


def logits(opacities: Float[Tensor, " num"]) -> Float[Tensor, " num"]:
    """Finite logits of opacities in [0, 1]."""
    return opacities.clamp(_NEVER, 1 - _NEVER).logit()
