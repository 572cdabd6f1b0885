"""Gaussians → a closed coloured mesh: rendered depth fused into a truncated signed distance (Curless and Levoy 1996).

Each view gives, for each cell, its distance in front of the surface, truncated at `TRUNCATION` cells. Cells in front of
the background are empty, which carves regions without depth; cells that no view reaches are inside. Marching cubes
extracts the surface (Lewiner et al. 2003). Colours are averaged in the cells near it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import binary_fill_holes, distance_transform_edt, label, map_coordinates
from skimage.measure import marching_cubes
from torch import Tensor

from sctd.errors import SctdError
from sctd.render.rasterize import render
from sctd.scene.cameras import Cameras, on_sphere
from sctd.scene.gaussians import Gaussians

RINGS = {-85.0: 3, -55.0: 8, -25.0: 14, 0.0: 16, 25.0: 14, 55.0: 8, 85.0: 3}  # elevation in degrees: views
TRUNCATION, MARGIN = 6.0, 8  # cells on either side of the surface; empty cells around the object
OBJECT_ALPHA = 0.5  # a pixel with a larger alpha shows the object
# Weight of observations of empty space relative to those near the surface. Depth is an average over soft Gaussians and
# too far at edges, where part of a ray passes the object. With full weight, thin parts such as a wheel are carved away.
FREE_WEIGHT = 0.1
_FAINT, _SHARE_OUTSIDE, _SPECK = 0.02, 0.002, 0.01
_DISTANCE, _FOV_Y_RADIANS = 3.8, 0.55  # a ball of radius 1 fits into the image
_VIEWS_AT_ONCE = 8


class FusionError(SctdError):
    """These Gaussians have no visible surface."""


class ColouredMesh(NamedTuple):
    """A triangle mesh, counter-clockwise seen from outside, with vertex colours in [0, 1] (sRGB)."""

    vertices: Float[Tensor, "num 3"]
    faces: Int[Tensor, "faces 3"]
    rgb: Float[Tensor, "num 3"]


def fuse(gaussians: Gaussians, cells: int = 128, pixels: int = 256) -> ColouredMesh:
    """The surface of an object on a grid of `cells` along its longest side, from views of `pixels` × `pixels`.

    The grid leaves out the outermost 0.2 % of the Gaussians on either side of each axis, because one stray Gaussian
    would make it coarse. Raises FusionError if the Gaussians are too transparent.
    """
    low, high = _box(gaussians)
    middle, radius = (low + high) / 2, (high - low).norm() / 2
    in_ball = Gaussians(
        means=(gaussians.means - middle) / radius,
        log_scales=gaussians.log_scales - radius.log(),
        quats=gaussians.quats,
        logit_opacities=gaussians.logit_opacities,
        sh=gaussians.sh,
    )
    grid = Grid.of((low - middle) / radius, (high - middle) / radius, cells)
    cameras = _cameras(pixels)
    for start in range(0, cameras.num, _VIEWS_AT_ONCE):
        some = cameras.select(slice(start, start + _VIEWS_AT_ONCE))
        with torch.no_grad():
            rgb, alpha, depth = (part.cpu() for part in render(in_ball, some, torch.zeros(3))[:3])
        for view in range(some.num):
            grid.integrate(some.select(slice(view, view + 1)), rgb[view], alpha[view], depth[view])
    vertices, faces, colors = grid.surface()
    return ColouredMesh(vertices * radius.cpu() + middle.cpu(), faces, colors)


def _box(gaussians: Gaussians) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Corners of a box around nearly all visible Gaussians."""
    visible = gaussians.select(gaussians.opacities > _FAINT)
    if not visible.num:
        raise FusionError("No surface found: every Gaussian is transparent. Check the turntable first.")
    reach = 2 * visible.scales.amax(1, keepdim=True)
    low = np.quantile((visible.means - reach).cpu().numpy(), _SHARE_OUTSIDE, axis=0)
    high = np.quantile((visible.means + reach).cpu().numpy(), 1 - _SHARE_OUTSIDE, axis=0)
    return torch.from_numpy(low).to(gaussians.means), torch.from_numpy(high).to(gaussians.means)


def _cameras(pixels: int) -> Cameras:
    """Cameras all around the unit ball."""
    azimuths = torch.cat([360 / num * (torch.arange(num) + row / 2) for row, num in enumerate(RINGS.values())])
    elevations = torch.cat([torch.full((num,), elevation) for elevation, num in RINGS.items()])
    return on_sphere(azimuths, elevations, _DISTANCE, _FOV_Y_RADIANS, pixels)


@dataclass
class Grid:
    """Cells of side `side`, the first at `low`, and sums over the views that observe them."""

    low: Float[Tensor, "3"]
    side: float
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        index = torch.cartesian_prod(*(torch.arange(num) for num in self.shape))
        self.centers = self.low + self.side * index
        num = len(index)
        self.distance, self.weight = torch.zeros(num), torch.zeros(num)
        self.color, self.times_near = torch.zeros(num, 3), torch.zeros(num)

    @classmethod
    def of(cls, low: Float[Tensor, "3"], high: Float[Tensor, "3"], cells: int) -> "Grid":
        """A grid with `cells` cells along the longest side of a box, plus a margin."""
        side = float((high - low).max()) / cells
        nums = ((high - low) / side).ceil().int() + 2 * MARGIN
        return cls(low.cpu() - MARGIN * side, side, tuple(nums.tolist()))

    def integrate(
        self,
        camera: Cameras,
        rgb: Float[Tensor, "3 height width"],
        alpha: Float[Tensor, "height width"],
        depth: Float[Tensor, "height width"],
    ) -> None:
        """Add one view: colour over black, alpha and accumulated depth."""
        matrix = camera.world_to_camera[0]
        x, y, z = (self.centers @ matrix[:3, :3].T + matrix[:3, 3]).unbind(-1)
        focal = camera.intrinsics[0, 0, 0]
        column = (focal * x / z + camera.width / 2).long().clamp(0, camera.width - 1)
        row = (focal * y / z + camera.height / 2).long().clamp(0, camera.height - 1)
        pixel = row * camera.width + column
        at_alpha, at_depth = alpha.flatten()[pixel], depth.flatten()[pixel]
        in_front = torch.where(at_alpha > OBJECT_ALPHA, (at_depth / at_alpha - z) / (TRUNCATION * self.side), 1.0)
        weight = torch.where(in_front >= 1, FREE_WEIGHT, 1.0) * (in_front > -1)
        self.distance += weight * in_front.clamp(-1, 1)
        self.weight += weight
        near = ((at_alpha > OBJECT_ALPHA) & (in_front.abs() < 1)).nonzero()[:, 0]
        self.color[near] += rgb.flatten(1).T[pixel[near]] / at_alpha[near, None]
        self.times_near[near] += 1

    def surface(self) -> tuple[Float[Tensor, "num 3"], Int[Tensor, "faces 3"], Float[Tensor, "num 3"]]:
        """Vertices, faces and colours of the surface. Raises FusionError if no cell is inside."""
        distance = torch.where(self.weight > 0, self.distance / self.weight, -1).reshape(self.shape)
        if not (distance < 0).any():
            raise FusionError("No surface found: the object is too transparent. Check the turntable first.")
        at, faces = zero_surface(distance.numpy())
        colors = (self.color / self.times_near[:, None]).reshape(*self.shape, 3).numpy()
        # A cell that no view observed near the surface (in a deep hole) takes the colour of the nearest observed one.
        nearest = distance_transform_edt(
            self.times_near.reshape(self.shape).numpy() == 0, return_distances=False, return_indices=True
        )
        colors = colors[tuple(nearest)]
        rgb = np.stack([map_coordinates(colors[..., c], at.T, order=1, mode="nearest") for c in range(3)], axis=-1)
        vertices = self.low + self.side * torch.from_numpy(at.astype(np.float32))
        return vertices, torch.from_numpy(faces), torch.from_numpy(rgb).clamp(0, 1)


def zero_surface(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The closed surface at distance 0 of cells that are below 0 inside: vertices in cells from the first, and faces.

    Faces are counter-clockwise seen from outside. Parts below 1 % of the largest are left out.
    """
    closed = np.pad(_without_specks(distance), 1, constant_values=1)
    places, faces, _, _ = marching_cubes(closed, 0.0, gradient_direction="descent")
    return places - 1, faces.astype(np.int64)


def _without_specks(distance: np.ndarray) -> np.ndarray:
    """Remove parts smaller than 1 % of the largest part, and fill bubbles inside."""
    labels, _ = label(distance < 0)
    sizes = np.bincount(labels.ravel())[1:]
    kept = np.isin(labels, 1 + np.flatnonzero(sizes >= _SPECK * sizes.max()))
    bubbles = binary_fill_holes(kept) & ~kept
    return np.where(bubbles, -1, np.where((distance < 0) & ~kept, 1, distance))
