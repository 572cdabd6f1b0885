"""3D Gaussians as a representation: densification or relocation, bounds, and the limit of brightness."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.formats import ply
from sctd.recipe.recipe import Recipe
from sctd.render.contract import Rendering
from sctd.render.rasterize import render, render_on_white
from sctd.scene import densify
from sctd.scene.bounds import clamp_to_bounds
from sctd.scene.brightness import brightest, dimmed
from sctd.scene.cameras import Cameras
from sctd.scene.gaussians import Gaussians
from sctd.scene.population import Population
from sctd.scene.relocate import relocate
from sctd.train import adam, draws, regularize
from sctd.train.representation import Change, Observed
from sctd.types import Images


@dataclass(frozen=True)
class GaussianSplatting:
    """`Representation` of Gaussians: the asset is `Gaussians`, the scene a `Population`."""

    recipe: Recipe
    file = "asset.ply"

    def to_bytes(self, scene: Population) -> bytes:
        return ply.to_ply(scene.gaussians)

    def shown(self, scene: Population) -> Callable[[Cameras], Images]:
        return partial(render_on_white, scene.gaussians)

    def gaussians(self, scene: Population) -> Gaussians:
        return scene.gaussians.to("cpu")

    def counts(self, scene: Population) -> dict[str, int]:
        return {"Gaussians": scene.num}

    def problem(self, initial: Gaussians) -> str | None:
        most = self.recipe.bounds.max_gaussians
        if 0 < initial.num <= most:
            return None
        return (
            f"the initialization has {initial.num} Gaussians; expected 1 to {most}: "
            "change initialization.count, initialization.replicas or bounds.max_gaussians"
        )

    def start(self, initial: Gaussians, generator: torch.Generator) -> Population:
        gaussians = initial.detach().with_sh_degree(self.recipe.sh_degree)
        return Population.of(clamp_to_bounds(gaussians, self.recipe.bounds))

    def restored(self, tree: Mapping[str, Any], device: torch.device) -> Population:
        parts: dict[str, Any] = {
            name: Gaussians(**value).to(device) if isinstance(value, Mapping) else value.to(device)
            for name, value in tree.items()
        }
        if not _is_consistent(parts):
            raise ValueError("a tensor has another shape")
        return Population(**parts)

    def drawn(self, leaves: Gaussians, scene: Population, iteration: int, generator: torch.Generator) -> Gaussians:
        return draws.with_scale_noise(leaves, self.recipe.encoding.scale_noise, generator)

    def render(self, drawn: Gaussians, cameras: Cameras, background: Float[Tensor, "views 3"]) -> Rendering:
        return render(drawn, cameras, background)

    def penalty(self, leaves: Gaussians, rendering: Rendering, cameras: Cameras, progress: float) -> Float[Tensor, ""]:
        return regularize.penalty(self.recipe.regularizers, leaves, rendering, cameras)

    def rates(self, asset: Gaussians, position: float) -> dict[str, Tensor | float]:
        return adam.rates_at(self.recipe.optimizer, position, asset.sh.shape[1])

    def bounded(self, asset: Gaussians) -> Gaussians:
        return clamp_to_bounds(asset, self.recipe.bounds)

    def observed(self, scene: Population, seen: Observed) -> Population:
        if not self.recipe.densify.enabled or seen.gradient_pixels is None or seen.radii is None:
            return scene
        return densify.observe(scene, seen.gradient_pixels, seen.radii)

    def changes(self, iteration: int) -> list[Change]:
        """What adds, removes, resets or moves Gaussians after this iteration."""
        grows, moves, bounds = self.recipe.densify, self.recipe.relocate, self.recipe.bounds
        changes: list[Change] = []
        if grows.enabled and iteration < grows.before:
            if iteration > grows.after and iteration % grows.interval == 0:
                changes.append(lambda rows, random: densify.densify(rows, grows, bounds, iteration, random))
            if grows.reset_interval and iteration % grows.reset_interval == 0:
                changes.append(lambda rows, _: densify.reset_opacity(rows, grows.reset_opacity))
        last = moves.until_share * self.recipe.iterations
        if moves.enabled and iteration % moves.interval == 0 and iteration <= last:
            changes.append(lambda rows, random: relocate(rows, moves, random))
        return changes

    def equalized(self, scene: Population, seen: Observed, iteration: int) -> Population:
        """BEG: dim all colours and reset their moments if the brightest views exceed the limit."""
        settings, progress = self.recipe.brightness, iteration / self.recipe.iterations
        if seen.rendered is None or not settings.after_share < progress < settings.until_share:
            return scene
        is_bright = brightest(seen.rendered, settings.quantile) > settings.limit
        return dimmed(scene, settings.factor) if is_bright else scene


def _is_consistent(population: dict[str, Any]) -> bool:
    """Whether all tensors of a population have the shapes of the same number of Gaussians."""
    num = population["gaussians"].num
    for value in population.values():
        tensors = [value] if isinstance(value, Tensor) else list(value.tensors().values())
        shapes: list[tuple[int, ...]] = [(num,)]
        if not isinstance(value, Tensor):
            shapes = [(num, 3), (num, 3), (num, 4), (num,), (num, *value.sh.shape[1:2], 3)]
        if [tuple(tensor.shape) for tensor in tensors] != shapes:
            return False
    return True
