"""Helpers of the quantized formats: their error, unit quaternions, and finite logits of rounded opacities."""

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.errors import SctdError
from sctd.scene.gaussians import Gaussians

_MARGIN = 1e-3  # a stored 0 or 255 represents an opacity within half a step (1/510) of 0 or 1


class FormatError(SctdError):
    """The bytes are not a file of the expected format, or the Gaussians cannot be stored in it."""


def unit_quats(gaussians: Gaussians) -> Float[Tensor, "num 4"]:
    """Unit quaternions (w, x, y, z)."""
    return torch.nn.functional.normalize(gaussians.quats, dim=-1)


def logits(opacities: Float[Tensor, " num"]) -> Float[Tensor, " num"]:
    """Finite logits of opacities in [0, 1]."""
    return opacities.clamp(_MARGIN, 1 - _MARGIN).logit()
