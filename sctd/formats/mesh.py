"""Meshes: read .glb, .obj, .off, .ply and .stl, rotate them to our axes, sample points on them, and write .glb or .obj.

Only one file is read: materials and textures that an .obj or .ply stores in other files are ignored. Colours are those
of vertices, faces, or a glTF material (base colour texture times base colour factor), as stored.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from sctd.errors import one_line
from sctd.formats import ply
from sctd.formats.common import LENGTHS, FormatError
from sctd.scene.gaussians import srgb_to_linear

logging.getLogger("trimesh").addHandler(logging.NullHandler())  # else Python prints its warnings

_AXIS = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
_GREY = 0.5
_MOST_REPEATS = 1e6  # of a texture

# From face indices [num] and barycentric coordinates [num, 3] to colours in [0, 1], [num, 3].
Colouring = Callable[[np.ndarray, np.ndarray], np.ndarray]


class MeshError(FormatError):
    """The file has no usable surface."""


class SurfacePoints(NamedTuple):
    """Points on a surface with colours in [0, 1] (None if the file has no colours)."""

    xyz: Float[Tensor, "num 3"]
    rgb: Float[Tensor, "num 3"] | None


@dataclass(frozen=True)
class Mesh:
    """Corners of all triangles in one coordinate frame. `parts`: (number of faces, colouring) in the order of faces."""

    triangles: Float[Tensor, "faces 3 3"]
    parts: tuple[tuple[int, Colouring | None], ...]

    @property
    def has_colours(self) -> bool:
        """Whether any part has colours."""
        return any(colouring is not None for _, colouring in self.parts)

    @property
    def areas(self) -> Float[Tensor, " faces"]:
        """Area of every triangle."""
        first, second, third = self.triangles.unbind(1)
        return torch.linalg.cross(second - first, third - first).norm(dim=-1) / 2


def read_mesh(data: bytes, suffix: str) -> Mesh:
    """Read all surfaces of a file with this suffix (".glb"), in the axes of the file. Raises MeshError if unusable."""
    if not data:
        raise MeshError(f"The file is empty; expected a mesh. Export it again as {suffix}.")
    if suffix == ".glb":
        _check_counts(data)
    try:
        with np.errstate(all="ignore"):  # what overflows becomes infinite, which is refused below
            scene = trimesh.load_scene(BytesIO(data), file_type=suffix.removeprefix("."), process=False)
            geometries = scene.dump()
    except Exception as error:  # the parsers of five formats raise arbitrary exceptions
        raise MeshError(
            f"The file cannot be read as {suffix} ({one_line(error)}); expected a complete mesh. Export it again."
        ) from error
    parts = [geometry for geometry in geometries if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces)]
    if not parts:
        raise MeshError(_without_faces(data, geometries))
    for part in parts:
        if (width := part.vertices.shape[1]) != 3:
            raise MeshError(f"The mesh has vertices of {width} coordinates; expected 3. Export it again.")
        if int(part.faces.min()) < 0 or int(part.faces.max()) >= len(part.vertices):
            raise MeshError("The mesh has faces with vertices that are not in the file. Export it again.")
        if not (valid := (np.abs(part.vertices) <= LENGTHS[1]).all(axis=1)).all():
            row = int(np.flatnonzero(~valid)[0])
            found = ", ".join(f"{value:g}" for value in part.vertices[row])
            raise MeshError(
                f"The mesh has vertex {row} at ({found}); expected finite numbers. Up to {LENGTHS[1]:g} they can be "
                "rendered. Repair or export it again."
            )
    triangles = torch.from_numpy(np.concatenate([np.asarray(part.triangles, np.float64) for part in parts]))
    mesh = Mesh(triangles, tuple((len(part.faces), _colouring(part)) for part in parts))
    if not float(mesh.areas.sum()) > 0:
        raise MeshError(f"The mesh has {len(triangles)} faces of area 0; expected a surface. Export it again.")
    return mesh


def to_mesh_file(
    vertices: Float[Tensor, "num 3"], faces: Int[Tensor, "faces 3"], rgb: Float[Tensor, "num 3"], suffix: str
) -> bytes:
    """Write a .glb or .obj (by `suffix`) with sRGB vertex colours in [0, 1], without changing the axes.

    An .obj stores the colours after the position of each vertex, as most programs expect. glTF colours are linear.
    """
    rgb = srgb_to_linear(rgb) if suffix == ".glb" else rgb
    colors = (255 * rgb).round().byte().numpy()
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), vertex_colors=colors, process=False)
    content: Any = mesh.export(file_type=suffix.removeprefix("."))
    return content.encode() if isinstance(content, str) else content


def to_world(mesh: Mesh, up: str, front: str, radius: float) -> Mesh:
    """Rotate the mesh so that the file's axis `up` becomes z and `front` becomes x ("-y" is the negative y axis).

    Then move the centre of its bounding box to the origin and scale its farthest corner to `radius`; 0 keeps position
    and size. Raises MeshError if the axes are parallel.
    """
    rotated = mesh.triangles @ _rotation(up, front).to(mesh.triangles).T
    if radius > 0:
        corners = rotated.flatten(0, 1)
        rotated = rotated - (corners.amin(0) + corners.amax(0)) / 2
        rotated = rotated * (radius / rotated.norm(dim=-1).amax())
    return Mesh(rotated, mesh.parts)


def on_surface(mesh: Mesh, count: int, generator: torch.Generator) -> SurfacePoints:
    """`count` uniform random points, stratified: one in each of `count` equal shares of the area."""
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    cumulative = mesh.areas.cumsum(0)
    aim = (torch.arange(count) + draws[:, 0]) / count * cumulative[-1]
    faces = torch.searchsorted(cumulative, aim, right=True).clamp(max=len(cumulative) - 1)
    # Uniform in a triangle: the root of a uniform number is the distance from the first corner (Turk 1990).
    away, along = draws[:, 1].sqrt(), draws[:, 2]
    barycentric = torch.stack([1 - away, away * (1 - along), away * along], dim=-1)
    xyz = torch.einsum("pc,pcd->pd", barycentric, mesh.triangles[faces])
    return SurfacePoints(xyz.float(), _colours(mesh, faces, barycentric) if mesh.has_colours else None)


def _colours(mesh: Mesh, faces: Int[Tensor, " num"], barycentric: Float[Tensor, "num 3"]) -> Float[Tensor, "num 3"]:
    """The colours part by part; parts without colours are grey."""
    index, weights = faces.numpy(), barycentric.numpy()
    rgb, start = np.full(weights.shape, _GREY), 0
    for num, colouring in mesh.parts:
        chosen = (index >= start) & (index < start + num)
        if colouring is not None and chosen.any():
            rgb[chosen] = colouring(index[chosen] - start, weights[chosen])
        start += num
    return torch.from_numpy(rgb).float()


def _rotation(up: str, front: str) -> Float[Tensor, "3 3"]:
    """Rows: our x (front), y (the object's left) and z (up) in the axes of the file."""
    z, x = (np.multiply(-1 if name.startswith("-") else 1, _AXIS[name[-1]]) for name in (up, front))
    if np.abs(x @ z) > 0:
        raise MeshError(f"front {front!r} and up {up!r} are parallel; give two perpendicular axes")
    return torch.from_numpy(np.stack([x, np.cross(z, x), z]))


def _colouring(mesh: trimesh.Trimesh) -> Colouring | None:
    """The colouring of a part, or None."""
    visual: Any = mesh.visual
    if visual.kind == "vertex":
        corners = visual.vertex_colors[mesh.faces][..., :3] / 255
        return lambda faces, weights: np.einsum("pc,pcd->pd", weights, corners[faces])
    if visual.kind == "face":
        of_face = visual.face_colors[:, :3] / 255
        return lambda faces, weights: of_face[faces]
    if visual.kind != "texture" or not isinstance(visual.material, trimesh.visual.material.PBRMaterial):
        return None
    material, factor, uv = visual.material, visual.material.baseColorFactor, visual.uv
    if factor is not None and np.shape(factor) not in ((3,), (4,)):
        raise MeshError(f"The mesh has a colour factor of shape {np.shape(factor)}; expected (4,). Export it again.")
    tint = np.ones(3) if factor is None else trimesh.visual.color.to_float(factor)[:3]
    if material.baseColorTexture is None or uv is None:
        return None if factor is None else lambda faces, weights: np.broadcast_to(tint, weights.shape)
    if np.shape(uv) != (len(mesh.vertices), 2) or not (np.abs(uv) <= _MOST_REPEATS).all():
        raise MeshError("The mesh has texture coordinates that are missing, not finite or very large. Export it again.")
    try:
        texture = material.baseColorTexture.convert("RGBA")
    except (AttributeError, OSError, SyntaxError, ValueError) as error:
        raise MeshError(f"The mesh has a texture that cannot be read ({one_line(error)}). Export it again.") from error
    corners = uv[mesh.faces]
    return lambda faces, weights: tint * _pixels(texture, np.einsum("pc,pcd->pd", weights, corners[faces]))


def _pixels(texture: Any, uv: np.ndarray) -> np.ndarray:
    return trimesh.visual.color.uv_to_interpolated_color(uv, texture)[:, :3] / 255


def _check_counts(data: bytes) -> None:
    """Raise MeshError for a .glb with more values than bytes: trimesh allocates those that are in no buffer."""
    try:
        tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    except (ValueError, RecursionError):
        return  # trimesh refuses it
    accessors = tree.get("accessors") if isinstance(tree, dict) else None
    for accessor in accessors if isinstance(accessors, list) else []:
        count = accessor.get("count") if isinstance(accessor, dict) else None
        if isinstance(count, int | float) and not count <= len(data):
            raise MeshError(
                f"The .glb is truncated: it announces {count:g} values in {len(data)} bytes. Copy it again."
            )


def _without_faces(data: bytes, geometries: list[Any]) -> str:
    if data.startswith(b"ply") and ply.has_gaussians(data):
        return "The .ply has 3DGS Gaussians and no faces; set initialization.kind=ply to start from them."
    num = sum(len(geometry.vertices) for geometry in geometries if hasattr(geometry, "vertices"))
    return (
        f"The file has {num} vertices and no faces; expected triangles: export a surface, or start from a point cloud "
        "(.ply, x y z and red green blue) with initialization.kind=ply."
    )
