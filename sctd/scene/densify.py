"""Densification: clone, split and prune Gaussians during training, and reset opacities (Kerbl et al. 2023, Sec. 5.2).

New rows start with moments of zero. Deviations: the statistics come from every view of an iteration (the paper's
released code uses only the last one). The number of Gaussians has a cap; at the cap those with the largest gradients
are densified first.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sctd.errors import SctdError
from sctd.recipe.scene import BoundsConfig, DensifyConfig
from sctd.scene.gaussians import Gaussians, rotations
from sctd.scene.population import Population, normal_like


class DensifyError(SctdError):
    """Pruning would remove every Gaussian."""


def observe(
    population: Population, gradient_pixels: Float[Tensor, "views num 2"], radii: Int[Tensor, "views num"]
) -> Population:
    """Add the statistics of one iteration: per view the gradient of its loss, and radii (0 = not visible)."""
    visible = radii > 0
    return replace(
        population,
        gradient_sum=population.gradient_sum + (gradient_pixels.norm(dim=-1) * visible).sum(dim=0),
        sightings=population.sightings + visible.sum(dim=0),
        largest_radius=torch.maximum(population.largest_radius, radii.amax(dim=0).to(population.largest_radius)),
    )


def densify(
    population: Population, settings: DensifyConfig, bounds: BoundsConfig, iteration: int, generator: torch.Generator
) -> Population:
    """Grow, prune, then reset the statistics. Raises DensifyError if no Gaussian would remain."""
    grown = grow(population, settings, bounds, generator)
    kept = prune(grown, settings, large_too=iteration > settings.prune_large_after)
    none = torch.zeros_like(kept.gradient_sum)
    return replace(kept, gradient_sum=none, sightings=none, largest_radius=none)


def grow(
    population: Population, settings: DensifyConfig, bounds: BoundsConfig, generator: torch.Generator
) -> Population:
    """Clone small Gaussians and split large ones whose mean gradient exceeds the threshold.

    A clone has the position of its parent. A split replaces the parent by two children drawn from it, smaller by
    `split_shrink`. Order: untouched and cloned parents in their order, clones, first children, second children.
    """
    gradient = population.mean_gradient
    grows = gradient > settings.gradient_threshold_pixels
    capacity = max(bounds.max_gaussians - population.num, 0)  # a clone and a split each add one Gaussian
    if int(grows.sum()) > capacity:
        chosen = torch.where(grows, gradient, -1).argsort(descending=True, stable=True)[:capacity]
        grows = torch.zeros_like(grows).index_fill(0, chosen, True)
    is_large = population.gaussians.scales.amax(dim=-1) > settings.percent_dense * settings.extent
    clones = Population.of(population.gaussians.select(grows & ~is_large))
    parents = population.gaussians.select(grows & is_large)
    children = [Population.of(_child(parents, settings.split_shrink, generator)) for _ in range(2)]
    return population.select(~(grows & is_large)).concatenate(clones, *children)


def _child(parents: Gaussians, shrink: float, generator: torch.Generator) -> Gaussians:
    offset = normal_like(parents.means, generator) * parents.scales
    means = parents.means + torch.einsum("nij,nj->ni", rotations(parents.quats), offset)
    return replace(parents, means=means, log_scales=parents.log_scales - torch.tensor(shrink).log().item())


def prune(population: Population, settings: DensifyConfig, *, large_too: bool) -> Population:
    """Remove nearly transparent Gaussians and, if `large_too`, those too large on screen or in the world."""
    opacities = population.gaussians.opacities
    drop = opacities < settings.prune_opacity
    if large_too:
        drop |= population.largest_radius > settings.prune_radius_pixels
        drop |= population.gaussians.scales.amax(dim=-1) > settings.prune_extent * settings.extent
    if bool(drop.all()):
        raise DensifyError(
            f"pruning would remove all {population.num} Gaussians (largest opacity {float(opacities.max()):.2g}, "
            f"densify.prune_opacity {settings.prune_opacity:g}); lower densify.prune_opacity, or raise the "
            "guidance or the learning rates"
        )
    return population.select(~drop)


def reset_opacity(population: Population, ceiling: float) -> Population:
    """Lower opacities above `ceiling` to it and reset Adam's moments of all opacities."""
    lowered = population.gaussians.logit_opacities.clamp(max=torch.tensor(ceiling).logit().item())
    return population.with_tensors(logit_opacities=lowered)
