"""Brightness equalisation (BEG of Connect3D): how bright the brightest views are, and colours held down."""

from dataclasses import replace

import torch

from sctd.scene.densify import Population
from sctd.types import Images


def brightest(images: Images, quantile: float) -> float:
    """The quantile over views of the quantile over lit pixels of each view's grey; 0 where nothing is lit."""
    lit = [grey[grey > 0] for grey in images.mean(1).flatten(1)]
    views = [torch.quantile(pixels, quantile) for pixels in lit if len(pixels)]
    return float(torch.quantile(torch.stack(views), quantile)) if views else 0.0


def dimmed(population: Population, factor: float) -> Population:
    """All spherical harmonics times `factor`, towards mid grey, and their moments forgotten."""
    gaussians, first, second = population.gaussians, population.first_moment, population.second_moment
    return replace(
        population,
        gaussians=replace(gaussians, sh=factor * gaussians.sh),
        first_moment=replace(first, sh=torch.zeros_like(first.sh)),
        second_moment=replace(second, sh=torch.zeros_like(second.sh)),
    )
