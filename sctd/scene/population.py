"""Gaussians together with their training state: Adam's moments and the densification statistics, row by row.

Densification, relocation and brightness equalization take a population and return a new one. Rows that they do not
change keep every bit, in the Gaussians and in the moments.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sctd.scene.gaussians import Gaussians


@dataclass(frozen=True)
class Population:
    """`num` Gaussians, Adam's two moments of each number, and the densification statistics since the last reset.

    `gradient_sum` adds |∂(a view's loss)/∂(centre in pixels)| over the views in which the Gaussian is visible;
    `sightings` counts these views. `largest_radius` is in pixels.
    """

    gaussians: Gaussians
    first_moment: Gaussians
    second_moment: Gaussians
    gradient_sum: Float[Tensor, " num"]
    sightings: Float[Tensor, " num"]
    largest_radius: Float[Tensor, " num"]

    @classmethod
    def of(cls, gaussians: Gaussians) -> "Population":
        """Untrained Gaussians: all moments and statistics are zero."""
        zeros, none = gaussians.map(torch.zeros_like), torch.zeros_like(gaussians.logit_opacities)
        return cls(gaussians, zeros, zeros, none, none, none)

    @property
    def asset(self) -> Gaussians:
        """The Gaussians, under the name that the trainer uses for any representation."""
        return self.gaussians

    def stepped(self, asset: Gaussians, first_moment: Gaussians, second_moment: Gaussians) -> "Population":
        """The population after a step of the optimizer."""
        return replace(self, gaussians=asset, first_moment=first_moment, second_moment=second_moment)

    @property
    def num(self) -> int:
        """Number of Gaussians."""
        return self.gaussians.num

    @property
    def mean_gradient(self) -> Float[Tensor, " num"]:
        """Mean gradient over the views in which a Gaussian was visible; 0 if there was none."""
        return self.gradient_sum / self.sightings.clamp(min=1)

    def select(self, index: Int[Tensor, " selected"] | Bool[Tensor, " num"]) -> "Population":
        """The rows at these indices, or where the mask is true."""
        return Population(
            self.gaussians.select(index),
            self.first_moment.select(index),
            self.second_moment.select(index),
            self.gradient_sum[index],
            self.sightings[index],
            self.largest_radius[index],
        )

    def concatenate(self, *others: "Population") -> "Population":
        """These rows followed by the rows of the others."""
        parts = (self, *others)
        return Population(
            self.gaussians.concatenate(*(part.gaussians for part in others)),
            self.first_moment.concatenate(*(part.first_moment for part in others)),
            self.second_moment.concatenate(*(part.second_moment for part in others)),
            torch.cat([part.gradient_sum for part in parts]),
            torch.cat([part.sightings for part in parts]),
            torch.cat([part.largest_radius for part in parts]),
        )

    def with_tensors(self, **tensors: Tensor) -> "Population":
        """Replace these tensors of the Gaussians and reset Adam's moments of them."""
        zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        return replace(
            self,
            gaussians=replace(self.gaussians, **tensors),
            first_moment=replace(self.first_moment, **zeros),
            second_moment=replace(self.second_moment, **zeros),
        )


def normal_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, drawn on the generator's device so that a seed gives the same numbers everywhere."""
    return torch.randn(tensor.shape, generator=generator, device=generator.device).to(tensor)
