"""Initialization of the Gaussians: a ball, sphere, box, .ply, mesh, or a Point-E point cloud of the prompt.

As in the authors' code (LucidDreamer's family), Gaussians are isotropic with one opacity, a scale equal to the root
mean square distance to the three nearest neighbours, and grey by default. Each point of a point cloud or mesh becomes
several Gaussians in a small ball around it. Deviations: the copies fill that ball uniformly, and Point-E's point clouds
are rotated so that the front faces +x, where the authors mirror them (y to -y).
"""

import io
import math
import re
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from sctd.errors import SctdError, one_line
from sctd.formats import mesh, ply
from sctd.formats.common import LENGTHS, FormatError
from sctd.point_e import PointE, sample_points, to_world, upsample_points
from sctd.recipe.scene import MESH_SUFFIXES, InitializationConfig
from sctd.scene.gaussians import Gaussians, rgb_to_sh

SPLATS = ".splat", ".spz", ".sog"  # suffixes of Gaussians that `segmentdreamer export` makes a .ply of
_MIN_SQUARED_DISTANCE = 1e-7
# RuntimeError: an encrypted archive, or another compression.
_NPZ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


class InitializationError(SctdError):
    """An error that the user can fix: the message says what was found, what was expected and what to do."""


class InitPoints(NamedTuple):
    """World positions and colours in [0, 1]; `rgb` is None for a shape without colours."""

    xyz: Float[Tensor, "num 3"]
    rgb: Float[Tensor, "num 3"] | None


def initial_gaussians(
    config: InitializationConfig, prompt: str, generator: torch.Generator, point_e: PointE | None = None
) -> Gaussians:
    """Initial Gaussians of SH degree 0 on the CPU; the same generator state gives the same Gaussians.

    `ball`, `sphere` and `box` have `count` Gaussians. A point cloud has `replicas` for each of at most `count` points,
    a mesh for each of `count` points on its surface. A 3DGS .ply is used unchanged. Only the kind `point_e` reads
    `prompt` and needs the models `point_e`. Raises InitializationError without them, and for an unusable file.
    """
    points: InitPoints | Gaussians
    if config.kind == "ply":
        points = _from_ply(config, generator)
    elif config.kind == "mesh":
        points = replicate(config, _on_mesh(config, generator), generator)
    elif config.kind == "point_e":
        points = replicate(config, _from_point_e(config, prompt, generator, point_e), generator)
    else:
        shapes = {"ball": in_ball, "sphere": on_sphere, "box": in_box}
        points = InitPoints(config.radius * shapes[config.kind](config.count, generator), None)
    return points if isinstance(points, Gaussians) else _gaussians(config, points, generator)


def on_sphere(count: int, generator: torch.Generator) -> Float[Tensor, "count 3"]:
    """Uniform random points on the unit sphere."""
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)


def in_ball(count: int, generator: torch.Generator) -> Float[Tensor, "count 3"]:
    """Uniform random points in the unit ball."""
    return on_sphere(count, generator) * torch.rand(count, 1, generator=generator) ** (1 / 3)


def in_box(count: int, generator: torch.Generator) -> Float[Tensor, "count 3"]:
    """Uniform random points in the cube from -1 to 1."""
    return 2 * torch.rand(count, 3, generator=generator) - 1


def replicate(config: InitializationConfig, points: InitPoints, generator: torch.Generator) -> InitPoints:
    """Choose at most `count` points at random and place `replicas` of each in a ball of `replica_radius`."""
    num = len(points.xyz)
    chosen = torch.randperm(num, generator=generator)[: config.count] if num > config.count else torch.arange(num)
    index = chosen.repeat_interleave(config.replicas)
    offsets = config.replica_radius * in_ball(len(index), generator) if config.replicas > 1 else 0.0
    return InitPoints(points.xyz[index] + offsets, None if points.rgb is None else points.rgb[index])


def neighbour_scales(xyz: Float[Tensor, "num 3"]) -> Float[Tensor, " num"]:
    """Root mean square distance to the three nearest neighbours (3DGS), at least 3e-4."""
    if len(xyz) < 4:
        raise InitializationError(
            f"{len(xyz)} points are too few for a scale from three neighbours each; give 4 points or more, "
            "or set initialization.scale"
        )
    points = xyz.double().numpy()
    distances, _ = cKDTree(points).query(points, k=4)
    squared = np.maximum((distances[:, 1:] ** 2).mean(axis=1), _MIN_SQUARED_DISTANCE)
    return torch.from_numpy(np.sqrt(squared)).to(xyz.dtype)


def _gaussians(config: InitializationConfig, points: InitPoints, generator: torch.Generator) -> Gaussians:
    num = len(points.xyz)
    scales = torch.full((num,), config.scale) if config.scale > 0 else neighbour_scales(points.xyz)
    rgb = points.rgb if config.use_point_cloud_colours else None
    rgb = torch.full((num, 3), config.colour) if rgb is None else rgb
    rgb = rgb + config.colour_noise * torch.randn(num, 3, generator=generator)
    return Gaussians(
        means=points.xyz,
        log_scales=scales.log()[:, None].repeat(1, 3),
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(num, 1),
        logit_opacities=torch.full((num,), math.log(config.opacity / (1 - config.opacity))),
        sh=rgb_to_sh(rgb)[:, None],
    )


def _from_point_e(
    config: InitializationConfig, prompt: str, generator: torch.Generator, point_e: PointE | None
) -> InitPoints:
    if point_e is None:
        raise InitializationError(
            f"initialization.kind is 'point_e' but there is no Point-E model for {prompt!r}; "
            "give a folder of weights that has one, or set initialization.kind=ball"
        )
    embed, model, upsampler = point_e
    sampler = replace(model.config.sampler, guidance_scale=config.point_e_guidance_scale, steps=config.point_e_steps)
    text_vectors = torch.from_numpy(embed([config.point_e_prompt_template.replace("{prompt}", prompt)]))
    points = sample_points(model, text_vectors.to(next(model.parameters()).device), generator, sampler)
    if upsampler is not None:
        points = upsample_points(upsampler, points, generator)
    cloud = to_world(model, points)
    return InitPoints(cloud.coords[0].cpu() + torch.tensor([0.0, 0.0, config.point_e_up_shift]), cloud.rgb[0].cpu())


def _from_ply(config: InitializationConfig, generator: torch.Generator) -> InitPoints | Gaussians:
    content, kind = _content(config, "readable .ply"), Path(config.path).suffix.lower()
    if kind in SPLATS:
        raise InitializationError(
            f"initialization.path {config.path}: A {kind} is not read here. Convert it with segmentdreamer export "
            f"{config.path} --to ply."
        )
    try:
        if kind == ".npz":
            return replicate(config, _from_npz(content), generator)
        if ply.has_gaussians(content):
            return ply.from_ply(content)
        cloud = ply.read_points(content)
    except FormatError as error:
        raise InitializationError(f"initialization.path {config.path}: {error}") from error
    return replicate(config, InitPoints(cloud.points, cloud.rgb), generator)


def _from_npz(content: bytes) -> InitPoints:
    """A point cloud as Point-E saves it: `coords` [n, 3], and channels R, G, B in [0, 1]. Raises FormatError.

    Its front, -y, is turned to the front of the world, +x.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            xyz = _numbers(arrays["coords"])
            has_colours = all(name in arrays for name in "RGB")
            rgb = np.stack([_numbers(arrays[name]) for name in "RGB"], axis=-1) if has_colours else None
        if xyz.shape[1:] != (3,) or not len(xyz) or not (np.abs(xyz) <= LENGTHS[1]).all():
            raise ValueError(f"coords has shape {xyz.shape}, or values that are not finite, or above {LENGTHS[1]:g}")
        if rgb is not None and not (rgb.shape == xyz.shape and 0 <= rgb.min() <= rgb.max() <= 1):
            raise ValueError("R, G and B are not one value from 0 to 1 for each point")
    except _NPZ_ERRORS as error:
        raise FormatError(
            f"The .npz is not a point cloud of Point-E ({one_line(error)}); expected coords [n, 3] and "
            "channels R, G, B."
        ) from error
    x, y, z = torch.from_numpy(xyz).unbind(1)
    return InitPoints(torch.stack([-y, x, z], dim=1), None if rgb is None else torch.from_numpy(rgb))


def _numbers(array: np.ndarray) -> np.ndarray:
    """The array in float32; what is above its range becomes infinite. Raises ValueError unless it has numbers."""
    if array.dtype.kind not in "fiu":
        raise ValueError("an array is not one of numbers")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _on_mesh(config: InitializationConfig, generator: torch.Generator) -> InitPoints:
    content = _content(config, f"readable mesh ({', '.join(MESH_SUFFIXES)})")
    try:
        found = mesh.read_mesh(content, Path(config.path).suffix.lower())
    except mesh.MeshError as error:
        raise InitializationError(f"initialization.path {config.path}: {error}") from error
    if config.use_point_cloud_colours and not found.has_colours and _names_material(content):
        raise InitializationError(
            f"initialization.path {config.path} stores its colours in another file, which is not read; export a .glb "
            "with colours, or set initialization.use_point_cloud_colours=false"
        )
    up, front = config.mesh_axes
    points = mesh.on_surface(mesh.to_world(found, up, front, config.mesh_radius), config.count, generator)
    return InitPoints(points.xyz, points.rgb)


def _names_material(content: bytes) -> bool:
    """Whether an .obj or the header of a .ply refers to a material file."""
    return re.search(rb"^(mtllib|comment TextureFile)\s", content, re.MULTILINE) is not None


def _content(config: InitializationConfig, expected: str) -> bytes:
    try:
        return Path(config.path).read_bytes()
    except OSError as error:
        raise InitializationError(
            f"cannot read initialization.path {config.path} ({error.strerror}); give a {expected}"
        ) from error
