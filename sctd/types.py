"""Tensor shapes shared by all of `sctd`, and the denoiser, residual and state types that objectives use."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "batch channels height width"]
Images = Float[Tensor, "batch 3 image_height image_width"]
Text = Float[Tensor, "batch tokens features"]


@runtime_checkable
class Denoiser(Protocol):
    """ε_φ(z_t, t, y): the predicted noise, of the shape of `z_t`. `text=None` is the empty prompt ∅."""

    def __call__(self, z_t: Latents, t: int, text: Text | None) -> Latents: ...


class ResidualPair(NamedTuple):
    """The result of an objective with a pixel loss: per view, the gradients on z_0 and on the rendered images."""

    latents: Latents
    images: Images


ObjectiveState = Mapping[str, Any]
"""What an objective keeps from one iteration to the next: floating-point tensors by name, in mappings of any depth."""
