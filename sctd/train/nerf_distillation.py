"""A neural radiance field as a representation: its random light, its occupancy grid, its regularizers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from sctd.recipe.recipe import Recipe
from sctd.render import nerf, nerf_file
from sctd.render.contract import Rendering
from sctd.render.hash_grid import Levels
from sctd.render.nerf import Field, Light, Lit, Nerf, Occupancy
from sctd.scene.cameras import Cameras
from sctd.scene.gaussians import Gaussians
from sctd.train import nerf_start, regularize
from sctd.train.representation import Change, Observed
from sctd.types import Images

LIVE_CELLS = 48  # along an edge of the box, of the Gaussians in the live view


@dataclass(frozen=True)
class NerfScene:
    """A field in training: Adam's moments, and the densities of the occupancy grid."""

    nerf: Nerf
    first_moment: Nerf
    second_moment: Nerf
    densities: Float[Tensor, "cells cells cells"]

    @property
    def asset(self) -> Nerf:
        return self.nerf

    def stepped(self, asset: Nerf, first_moment: Nerf, second_moment: Nerf) -> "NerfScene":
        """The scene after a step of the optimizer."""
        return replace(self, nerf=asset, first_moment=first_moment, second_moment=second_moment)


@dataclass(frozen=True)
class NerfDistillation:
    """`Representation` of a NeRF: the asset is a `Nerf`, the scene a `NerfScene`. It starts from a blob or a cloud."""

    recipe: Recipe
    file = "asset.safetensors"

    def to_bytes(self, scene: NerfScene) -> bytes:
        return nerf_file.to_bytes(self._lit(scene.nerf, scene))

    def shown(self, scene: NerfScene) -> Callable[[Cameras], Images]:
        return partial(nerf.render_on_white, self._lit(scene.nerf, scene))

    def gaussians(self, scene: NerfScene) -> Gaussians | None:
        from sctd.render.nerf_export import EmptyFieldError, to_gaussians  # with libraries that training does not need

        try:
            return to_gaussians(self._lit(scene.nerf, scene).to("cpu"), LIVE_CELLS)
        except EmptyFieldError:
            return None

    def counts(self, scene: NerfScene) -> dict[str, int]:
        return {"occupied cells": int((scene.densities > self.recipe.nerf.empty_density).sum())}

    @property
    def field(self) -> Field:
        """The architecture that the recipe asks for."""
        own = self.recipe.nerf
        levels = Levels(own.levels, own.coarsest, own.finest, own.log2_entries, own.features)
        return Field(levels, own.hidden, own.box, own.blob_scale, own.blob_radius, own.sky_hidden)

    def problem(self, initial: Gaussians) -> str | None:
        return None

    def start(self, initial: Gaussians, generator: torch.Generator) -> NerfScene:
        device, own = initial.means.device, self.recipe.nerf
        start = Nerf.random(self.field, generator).to(device)
        if self.recipe.initialization.kind != "ball":
            start = nerf_start.fitted(start, initial, generator)
        zeros = start.map(torch.zeros_like)
        empty = torch.zeros(own.cells, own.cells, own.cells, device=device)
        return self._looked(NerfScene(start, zeros, zeros, empty), generator)

    def restored(self, tree: Mapping[str, Any], device: torch.device) -> NerfScene:
        expected = {name: tensor.shape for name, tensor in Nerf.random(self.field, torch.Generator()).tensors().items()}
        parts = {}
        for name in ("nerf", "first_moment", "second_moment"):
            if {key: tensor.shape for key, tensor in tree[name].items()} != expected:
                raise ValueError("a tensor has another shape")
            parts[name] = Nerf(**tree[name], field=self.field).to(device)
        densities = tree["densities"]
        if densities.shape != (self.recipe.nerf.cells,) * 3:
            raise ValueError("the occupancy grid has another shape")
        return NerfScene(**parts, densities=densities.to(device))

    def drawn(self, leaves: Nerf, scene: NerfScene, iteration: int, generator: torch.Generator) -> Lit:
        """The field with the shading, light and sampling of an iteration, which all of its views share."""
        own = self.recipe.nerf
        is_shaded, is_textureless = (torch.rand(2, generator=generator) < torch.tensor(
            [own.shaded_share, own.textureless_share]
        )).tolist()  # fmt: skip
        is_shaded = is_shaded and iteration > own.albedo_share * self.recipe.iterations
        shading: Literal["albedo", "lambertian", "textureless"] = "albedo"
        if is_shaded:
            shading = "textureless" if is_textureless else "lambertian"
        position = own.light_spread * torch.randn(3, generator=generator)
        shift = torch.rand(1, generator=generator)
        has_sky = bool(own.sky_hidden) and float(torch.rand(1, generator=generator)) < own.sky_share
        light = Light(shading, position, shift, has_sky)
        return self._lit(leaves, scene)._replace(light=light)

    def render(self, drawn: Lit, cameras: Cameras, background: Float[Tensor, "views 3"]) -> Rendering:
        """Views of at most `nerf.resolution` pixels, enlarged to the size of the cameras' images."""
        width, height = (min(self.recipe.nerf.resolution, size) for size in (cameras.width, cameras.height))
        rendering = nerf.render(drawn, cameras.resized(width, height), background)
        if (width, height) == (cameras.width, cameras.height):
            return rendering
        orientation = None if rendering.orientation is None else _enlarged(rendering.orientation, cameras)
        rgb, alpha, depth = (_enlarged(part, cameras) for part in (rendering.rgb, rendering.alpha, rendering.depth))
        return Rendering(rgb, alpha, depth, orientation=orientation)

    def penalty(self, leaves: Nerf, rendering: Rendering, cameras: Cameras, progress: float) -> Float[Tensor, ""]:
        """The terms on images, DreamFusion's loss of opacity and, with shading, that of orientation."""
        own = self.recipe.nerf
        total = regularize.penalty(self.recipe.regularizers, None, rendering, cameras)
        if own.opacity:
            total = total + own.opacity * (rendering.alpha.square() + 0.01).sqrt().mean()
        if rendering.orientation is not None and any(own.orientation):
            first, last = own.orientation
            total = total + (first + (last - first) * progress) * rendering.orientation.mean()
        return total

    def rates(self, asset: Nerf, position: float) -> dict[str, Tensor | float]:
        network = self.recipe.nerf.network.at(position)
        return {**dict.fromkeys(asset.tensors(), network), "table": self.recipe.nerf.table.at(position)}

    def bounded(self, asset: Nerf) -> Nerf:
        return asset

    def observed(self, scene: NerfScene, seen: Observed) -> NerfScene:
        return scene

    def changes(self, iteration: int) -> list[Change]:
        """The update of the occupancy grid."""
        return [self._looked] if iteration % self.recipe.nerf.occupancy_interval == 0 else []

    def equalized(self, scene: NerfScene, seen: Observed, iteration: int) -> NerfScene:
        return scene

    def _lit(self, asset: Nerf, scene: NerfScene) -> Lit:
        return Lit(asset, self._occupancy(scene), self.recipe.nerf.steps)

    def _occupancy(self, scene: NerfScene) -> Occupancy:
        return Occupancy(scene.densities, self.recipe.nerf.empty_density)

    def _looked(self, scene: NerfScene, generator: torch.Generator) -> NerfScene:
        seen = self._occupancy(scene).updated(scene.nerf, self.recipe.nerf.occupancy_decay, generator)
        return replace(scene, densities=seen.density)


def _enlarged(maps: Tensor, cameras: Cameras) -> Tensor:
    """Maps [views, …, height, width] at the size of the cameras' images, linearly interpolated."""
    flat = maps.reshape(cameras.num, -1, *maps.shape[-2:])
    size = cameras.height, cameras.width
    return interpolate(flat, size, mode="bilinear").reshape(*maps.shape[:-2], *size)
