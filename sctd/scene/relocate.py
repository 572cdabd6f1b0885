"""Relocation: move dead (nearly transparent) Gaussians next to live ones. Our addition; the number stays the same."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from sctd.recipe.scene import RelocateConfig
from sctd.scene.gaussians import Gaussians
from sctd.scene.population import Population, normal_like


def relocate(population: Population, settings: RelocateConfig, generator: torch.Generator) -> Population:
    """Move each dead Gaussian next to a live one (its source), drawn in proportion to opacity × size.

    A source and the Gaussians moved to it share its opacity so that together they occlude as much as it did:
    1 − (1 − o)^(1/n) for n of them (Kheradmand et al. 2024, Eq. 9), but at least the threshold of dead Gaussians.
    Moved Gaussians take the second moment of their source, so that their first steps are no larger than its steps.
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
    offset = normal_like(moved.means, generator) * settings.spread * moved.scales.mean(dim=-1, keepdim=True)
    moved = replace(
        moved,
        means=moved.means + offset,
        log_scales=moved.log_scales - settings.shrink,
        logit_opacities=logit_opacities[sources],
    )
    return replace(
        population,
        gaussians=_with_rows(replace(gaussians, logit_opacities=logit_opacities), dead, moved),
        first_moment=_with_rows(population.first_moment, dead, moved.map(torch.zeros_like)),
        second_moment=_with_rows(population.second_moment, dead, population.second_moment.select(sources)),
    )


def _with_rows(gaussians: Gaussians, index: Int[Tensor, " selected"], rows: Gaussians) -> Gaussians:
    return Gaussians(
        **{name: tensor.index_copy(0, index, getattr(rows, name)) for name, tensor in gaussians.tensors().items()}
    )
