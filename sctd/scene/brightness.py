"""Brightness equalization (BEG of Connect3D): measure the brightest views and dim all colours."""

import torch

from sctd.scene.population import Population
from sctd.types import Images


def brightest(images: Images, quantile: float) -> float:
    """The quantile over views of each view's quantile of grey over its nonzero pixels; 0 if all pixels are 0."""
    pixels_by_view = [grey[grey > 0] for grey in images.mean(1).flatten(1)]
    views = [torch.quantile(pixels, quantile) for pixels in pixels_by_view if len(pixels)]
    return float(torch.quantile(torch.stack(views), quantile)) if views else 0.0


def dimmed(population: Population, factor: float) -> Population:
    """Scale all spherical harmonics by `factor` (towards mid grey) and reset Adam's moments of them."""
    return population.with_tensors(sh=factor * population.gaussians.sh)
