"""A prior that learns along with two numbers, and everything else that an objective may ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sctd.objectives import Objective


@dataclass(frozen=True)
class ToyAdapters:
    """ε_ψ = (1 + ψ_0) ε + ψ_1: ψ = 0 is the prediction itself."""

    predicted: Callable[..., Tensor]
    dtype: torch.dtype = torch.float32

    def initial(self, generator: torch.Generator) -> Tensor:
        return torch.zeros(2, dtype=self.dtype)

    def __call__(self, psi: Tensor, z_t: Tensor, t: int, text: Tensor, cameras: object) -> Tensor:
        return (1 + psi[0]) * self.predicted(z_t, t, text) + psi[1]


def completed(objective: Objective, given: Mapping[str, Any], predicted: Callable[..., Tensor]) -> dict[str, Any]:
    """The arguments of an objective, with what it may ask for and its state before the first iteration.

    The surfaces of the views are planes at x = 0, below a row of background.
    """
    z_0, text = given["z_0"], given["text"]
    views, _, height, width = z_0.shape
    one, (y, x) = z_0.new_ones(views, height, width), torch.meshgrid(*map(torch.arange, (height, width)), indexing="ij")
    alpha = one.index_fill(1, torch.tensor(0), 0)
    plane = torch.stack([torch.zeros(height, width), x / width, y / height]).to(z_0).expand(views, 3, height, width)
    offered = {"cameras": None, "alpha": alpha, "depth": one, "positions": plane}
    offered |= {"unguided": predicted, "progress": 0.5}
    offered |= {"adapted": ToyAdapters(predicted, z_0.dtype), "negative": text[:1], "decode": None}
    offered = {**offered, **given}
    generator = torch.Generator().manual_seed(1)
    prior = SimpleNamespace(latent_shape=z_0.shape[1:])
    return offered | {"state": objective.initial(recipe=None, prior=prior, generator=generator, **offered)}
