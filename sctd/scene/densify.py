"""More and fewer Gaussians while they train: index arithmetic on a population (Kerbl et al. 2023, Sec. 5.2).

A population is the Gaussians with all that training knows of each. Every function returns a new one; rows that it does
not name keep every bit, in the Gaussians and in Adam's moments. New rows start with moments of zero.

Deviations: the statistics come from every view of an iteration (the paper's released code reads the last one only);
the number has a cap, at which the Gaussians with the largest gradients grow first; relocation is ours.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sctd.recipe.scene import Bounds, Densify, Relocate
from sctd.scene.gaussians import SH_C0, Gaussians

HALF_IN_SH = 0.5 / SH_C0  # the constant harmonic of a channel at 1; at 0 it is minus this


class DensifyError(ValueError):
    """A population that cannot go on."""


@dataclass(frozen=True)
class Population:
    """`num` Gaussians, Adam's two moments of each number, and the densification statistics since the last reset.

    `gradient_sum` adds |∂(a view's loss)/∂(centre in pixels)| over the views that saw the Gaussian, `sightings` counts
    them; `largest_radius` is in pixels.
    """

    gaussians: Gaussians
    first_moment: Gaussians
    second_moment: Gaussians
    gradient_sum: Float[Tensor, " num"]
    sightings: Float[Tensor, " num"]
    largest_radius: Float[Tensor, " num"]

    @classmethod
    def of(cls, gaussians: Gaussians) -> "Population":
        """Gaussians that have not been trained yet."""
        zeros, none = gaussians.map(torch.zeros_like), torch.zeros_like(gaussians.logit_opacities)
        return cls(gaussians, zeros, zeros, none, none, none)

    @property
    def num(self) -> int:
        """How many Gaussians there are."""
        return self.gaussians.num

    @property
    def mean_gradient(self) -> Float[Tensor, " num"]:
        """Per sighting; 0 for a Gaussian that no view saw."""
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
        """These rows followed by the others'."""
        parts = (self, *others)
        return Population(
            self.gaussians.concatenate(*(part.gaussians for part in others)),
            self.first_moment.concatenate(*(part.first_moment for part in others)),
            self.second_moment.concatenate(*(part.second_moment for part in others)),
            torch.cat([part.gradient_sum for part in parts]),
            torch.cat([part.sightings for part in parts]),
            torch.cat([part.largest_radius for part in parts]),
        )


def observe(
    population: Population, gradient_pixels: Float[Tensor, "views num 2"], radii: Int[Tensor, "views num"]
) -> Population:
    """Add what the views of one iteration saw: each view's own gradient of its own loss, and radii (0 = not seen)."""
    seen = radii > 0
    return replace(
        population,
        gradient_sum=population.gradient_sum + (gradient_pixels.norm(dim=-1) * seen).sum(dim=0),
        sightings=population.sightings + seen.sum(dim=0),
        largest_radius=torch.maximum(population.largest_radius, radii.amax(dim=0).to(population.largest_radius)),
    )


def densify(
    population: Population, settings: Densify, bounds: Bounds, iteration: int, generator: torch.Generator
) -> Population:
    """Grow, then prune, then forget the statistics. Raises DensifyError if nothing would be left."""
    grown = grow(population, settings, bounds, generator)
    kept = prune(grown, settings, large_too=iteration > settings.prune_large_after)
    none = torch.zeros_like(kept.gradient_sum)
    return replace(kept, gradient_sum=none, sightings=none, largest_radius=none)


def grow(population: Population, settings: Densify, bounds: Bounds, generator: torch.Generator) -> Population:
    """Clone small Gaussians and split large ones where the mean gradient exceeds the threshold.

    A clone lies on its parent. A split replaces the parent by two children drawn from it, smaller by `split_shrink`.
    Order: untouched and cloned parents in their order, clones, first children, second children.
    """
    gradient = population.mean_gradient
    grows = gradient > settings.gradient_threshold_pixels
    room = max(bounds.max_gaussians - population.num, 0)  # each that grows adds one
    if int(grows.sum()) > room:
        first_in_line = torch.where(grows, gradient, -1).argsort(descending=True, stable=True)[:room]
        grows = torch.zeros_like(grows).index_fill(0, first_in_line, True)
    is_large = population.gaussians.scales.amax(dim=-1) > settings.percent_dense * settings.extent
    clones = Population.of(population.gaussians.select(grows & ~is_large))
    parents = population.gaussians.select(grows & is_large)
    children = [Population.of(_child(parents, settings.split_shrink, generator)) for _ in range(2)]
    return population.select(~(grows & is_large)).concatenate(clones, *children)


def _child(parents: Gaussians, shrink: float, generator: torch.Generator) -> Gaussians:
    offset = _normal(parents.means, generator) * parents.scales
    means = parents.means + torch.einsum("nij,nj->ni", rotations(parents.quats), offset)
    return replace(parents, means=means, log_scales=parents.log_scales - torch.tensor(shrink).log().item())


def prune(population: Population, settings: Densify, *, large_too: bool) -> Population:
    """Without the nearly transparent and, if `large_too`, those too large on the screen or in the world."""
    opacities = population.gaussians.opacities
    drop = opacities < settings.prune_opacity
    if large_too:
        drop |= population.largest_radius > settings.prune_radius_pixels
        drop |= population.gaussians.scales.amax(dim=-1) > settings.prune_extent * settings.extent
    if bool(drop.all()):
        raise DensifyError(
            f"pruning would remove all {population.num} Gaussians (largest opacity {float(opacities.max()):.2g}, "
            f"densify.prune_opacity {settings.prune_opacity:g}); lower it, or raise the guidance or the learning rates"
        )
    return population.select(~drop)


def reset_opacity(population: Population, ceiling: float) -> Population:
    """Opacities above `ceiling` become it, and Adam forgets all opacities' moments: what matters must earn it again."""
    zeros = torch.zeros_like(population.gaussians.logit_opacities)
    lowered = population.gaussians.logit_opacities.clamp(max=torch.tensor(ceiling).logit().item())
    return replace(
        population,
        gaussians=replace(population.gaussians, logit_opacities=lowered),
        first_moment=replace(population.first_moment, logit_opacities=zeros),
        second_moment=replace(population.second_moment, logit_opacities=zeros),
    )


def relocate(population: Population, settings: Relocate, generator: torch.Generator) -> Population:
    """Move each dead Gaussian beside a live one, drawn in proportion to opacity × size; the number stays.

    The live one and those that joined it share its opacity so that together they hide as much as it did:
    1 − (1 − o)^(1/n) for n of them (Kheradmand et al. 2024, Eq. 9), but no less than what counts as dead. The moved
    take the source's second moment, so that their first steps are no larger than its.
    """
    gaussians = population.gaussians
    opacities = gaussians.opacities
    is_dead = opacities < settings.dead_opacity
    weights = torch.where(is_dead, 0.0, opacities * gaussians.scales.mean(dim=-1)).cpu()
    dead = is_dead.nonzero().squeeze(-1)
    if len(dead) in (0, population.num):
        return population
    sources = torch.multinomial(weights, len(dead), replacement=True, generator=generator).to(dead)
    moved = gaussians.select(sources)

    sharing = 1 + torch.bincount(sources, minlength=population.num)
    shared = (1 - (1 - opacities.double()) ** (1 / sharing)).clamp(min=settings.dead_opacity).logit().to(opacities)
    logit_opacities = torch.where(sharing > 1, shared, gaussians.logit_opacities)
    place = _normal(moved.means, generator) * settings.spread * moved.scales.mean(dim=-1, keepdim=True)
    moved = replace(
        moved,
        means=moved.means + place,
        log_scales=moved.log_scales - settings.shrink,
        logit_opacities=logit_opacities[sources],
    )
    return replace(
        population,
        gaussians=_with_rows(replace(gaussians, logit_opacities=logit_opacities), dead, moved),
        first_moment=_with_rows(population.first_moment, dead, moved.map(torch.zeros_like)),
        second_moment=_with_rows(population.second_moment, dead, population.second_moment.select(sources)),
    )


def bounded(gaussians: Gaussians, bounds: Bounds) -> Gaussians:
    """Put back what left the bounds: means towards the origin, scales to the range, colours of degree 0 into [0, 1]."""
    low, high = torch.tensor(bounds.scale).log().tolist()
    distance = gaussians.means.norm(dim=-1, keepdim=True)
    means = torch.where(distance > bounds.radius, gaussians.means * (bounds.radius / distance), gaussians.means)
    sh = gaussians.sh.clamp(-HALF_IN_SH, HALF_IN_SH) if bounds.colour and gaussians.sh_degree == 0 else gaussians.sh
    return replace(gaussians, means=means, log_scales=gaussians.log_scales.clamp(low, high), sh=sh)


def rotations(quats: Float[Tensor, "num 4"]) -> Float[Tensor, "num 3 3"]:
    """Rotation matrices of quaternions (w, x, y, z) of any length but zero."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def _with_rows(gaussians: Gaussians, index: Int[Tensor, " selected"], rows: Gaussians) -> Gaussians:
    return Gaussians(
        **{name: tensor.index_copy(0, index, getattr(rows, name)) for name, tensor in gaussians.tensors().items()}
    )


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Drawn where the generator lives, so that a seed means the same on every device."""
    return torch.randn(like.shape, generator=generator, device=generator.device).to(like)
