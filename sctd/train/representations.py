"""The representations by the name that `representation.kind` of a recipe gives them."""

from collections.abc import Callable, Mapping

from sctd.recipe.recipe import Recipe
from sctd.train.custom_representation import CustomRepresentation
from sctd.train.gaussian_splatting import GaussianSplatting
from sctd.train.nerf_distillation import NerfDistillation
from sctd.train.representation import Representation

KINDS: Mapping[str, Callable[[Recipe], Representation]] = {
    "gaussians": GaussianSplatting,
    "nerf": NerfDistillation,
    "custom": CustomRepresentation,
}


def of_recipe(recipe: Recipe) -> Representation:
    """The representation of a recipe."""
    return KINDS[recipe.representation.kind](recipe)
