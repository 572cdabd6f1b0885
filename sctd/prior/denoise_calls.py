"""Several calls of a denoiser as one batch."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.types import Latents, Text

Residuals = tuple[Float[Tensor, "batch _ _ _"], ...]
"""Residuals of a ControlNet for the U-Net: one per skip connection, in encoder order, and then one for the middle."""


class DenoiseCall(NamedTuple):
    """The arguments of `StableDiffusionPrior.denoise`."""

    z_t: Latents
    t: int
    text: Text | None
    residuals: Residuals = ()


def in_one_batch(
    calls: Sequence[DenoiseCall], null: Float[Tensor, "1 tokens features"], *, fill: bool
) -> tuple[Tensor, ...]:
    """Latents, times, embeddings and residuals of all calls; all calls have residuals, or none has.

    `fill` repeats the last sample up to a power of two times the size of the first call: each batch size that a
    compiled network has not seen takes it a minute.
    """
    sizes = [len(call.z_t) for call in calls]
    z_t = [call.z_t for call in calls]
    times = [torch.full((len(call.z_t),), call.t, device=null.device) for call in calls]
    text = [null.expand(len(call.z_t), -1, -1) if call.text is None else call.text for call in calls]
    parts = z_t, times, text, *zip(*(call.residuals for call in calls), strict=True)
    if len(calls) == 1:
        return tuple(part[0] for part in parts)
    rest = sizes[0] * 2 ** math.ceil(math.log2(sum(sizes) / sizes[0])) - sum(sizes) if fill else 0
    return tuple(torch.cat([*part, *[part[-1][-1:]] * rest]) for part in parts)
