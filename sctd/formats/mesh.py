"""Triangles from the bytes of one .glb, .obj, .off, .ply or .stl, turned to our axes, and points on them; and back.

One file is the whole template: what an .obj or .ply keeps in other files (materials, pictures) is not looked for.
Colours are those of vertices, faces, or a glTF material (its base picture times its base factor), as they are stored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from sctd.scene.gaussians import srgb_to_linear

_AXIS = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
_GREY = 0.5

# Of faces and their barycentric coordinates, [num] and [num, 3]: colours in [0, 1], [num, 3].
Colouring = Callable[[np.ndarray, np.ndarray], np.ndarray]


class MeshError(ValueError):
    """This file holds no surface to start from."""


class SurfacePoints(NamedTuple):
    """Points on a surface; colours in [0, 1], None where the file has none."""

    xyz: Float[Tensor, "num 3"]
    rgb: Float[Tensor, "num 3"] | None


@dataclass(frozen=True)
class Mesh:
    """Corners of all triangles in one frame; `parts` are (number of faces, colouring), in the order of the faces."""

    triangles: Float[Tensor, "faces 3 3"]
    parts: tuple[tuple[int, Colouring | None], ...]

    @property
    def has_colours(self) -> bool:
        """Whether any part of it is coloured."""
        return any(colouring is not None for _, colouring in self.parts)

    @property
    def areas(self) -> Float[Tensor, " faces"]:
        """Area of every triangle."""
        first, second, third = self.triangles.unbind(1)
        return torch.linalg.cross(second - first, third - first).norm(dim=-1) / 2


def read_mesh(data: bytes, suffix: str) -> Mesh:
    """Every surface in a file of this suffix (".glb"), in the file's own axes; MeshError says why there is none."""
    if not data:
        raise MeshError(f"The file is empty; expected a mesh. Export it again as {suffix}.")
    try:
        scene = trimesh.load_scene(BytesIO(data), file_type=suffix.removeprefix("."), process=False)
        geometries = scene.dump()
    except Exception as error:  # parsers of five formats, which raise whatever they stumble on
        raise MeshError(
            f"The file cannot be read as {suffix} ({_one_line(error)}); expected a whole mesh. Export it again."
        ) from error
    parts = [geometry for geometry in geometries if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces)]
    if not parts:
        raise MeshError(_without_faces(data, geometries))
    for part in parts:
        if not (finite := np.isfinite(part.vertices).all(axis=1)).all():
            row = int(np.flatnonzero(~finite)[0])
            found = ", ".join(f"{value:g}" for value in part.vertices[row])
            raise MeshError(
                f"The mesh has vertex {row} at ({found}); expected finite numbers. Repair or export it again."
            )
    triangles = torch.from_numpy(np.concatenate([np.asarray(part.triangles, np.float64) for part in parts]))
    mesh = Mesh(triangles, tuple((len(part.faces), _colouring(part)) for part in parts))
    if not float(mesh.areas.sum()) > 0:
        raise MeshError(f"The mesh has {len(triangles)} faces of area 0; expected a surface. Export it again.")
    return mesh


def to_mesh_file(
    vertices: Float[Tensor, "num 3"], faces: Int[Tensor, "faces 3"], rgb: Float[Tensor, "num 3"], suffix: str
) -> bytes:
    """A .glb or .obj (said by `suffix`) of a surface with sRGB colours in [0, 1] at its vertices, in the axes it has.

    An .obj holds them after each vertex's place, as most programs read them; glTF wants light, which is linear.
    """
    rgb = srgb_to_linear(rgb) if suffix == ".glb" else rgb
    colors = (255 * rgb).round().byte().numpy()
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), vertex_colors=colors, process=False)
    content: Any = mesh.export(file_type=suffix.removeprefix("."))
    return content.encode() if isinstance(content, str) else content


def to_world(mesh: Mesh, up: str, front: str, radius: float) -> Mesh:
    """Turned so that the file's axis `up` is z and `front` ("-y" is against y) is x; ValueError if they are parallel.

    Then the middle of its box is put on the origin and its farthest corner at `radius`; 0 leaves place and size.
    """
    turned = mesh.triangles @ _rotation(up, front).to(mesh.triangles).T
    if radius > 0:
        corners = turned.flatten(0, 1)
        turned = turned - (corners.amin(0) + corners.amax(0)) / 2
        turned = turned * (radius / turned.norm(dim=-1).amax())
    return Mesh(turned, mesh.parts)


def on_surface(mesh: Mesh, count: int, generator: torch.Generator) -> SurfacePoints:
    """`count` points, each uniform over the area; one in each of `count` equal shares of it, so that none crowd."""
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    cumulative = mesh.areas.cumsum(0)
    aim = (torch.arange(count) + draws[:, 0]) / count * cumulative[-1]
    faces = torch.searchsorted(cumulative, aim, right=True).clamp(max=len(cumulative) - 1)
    # Uniform in a triangle: the root of a uniform number moves away from the first corner (Turk 1990).
    away, along = draws[:, 1].sqrt(), draws[:, 2]
    barycentric = torch.stack([1 - away, away * (1 - along), away * along], dim=-1)
    xyz = torch.einsum("pc,pcd->pd", barycentric, mesh.triangles[faces])
    return SurfacePoints(xyz.float(), _colours(mesh, faces, barycentric) if mesh.has_colours else None)


def _colours(mesh: Mesh, faces: Int[Tensor, " num"], barycentric: Float[Tensor, "num 3"]) -> Float[Tensor, "num 3"]:
    """Part by part; the parts without colours are grey."""
    index, weights = faces.numpy(), barycentric.numpy()
    rgb, start = np.full(weights.shape, _GREY), 0
    for num, colouring in mesh.parts:
        chosen = (index >= start) & (index < start + num)
        if colouring is not None and chosen.any():
            rgb[chosen] = colouring(index[chosen] - start, weights[chosen])
        start += num
    return torch.from_numpy(rgb).float()


def _rotation(up: str, front: str) -> Float[Tensor, "3 3"]:
    """Rows: the file's directions of our x (front), y (the object's left) and z (up)."""
    z, x = (np.multiply(-1 if name.startswith("-") else 1, _AXIS[name[-1]]) for name in (up, front))
    if np.abs(x @ z) > 0:
        raise ValueError(f"front {front!r} and up {up!r} are one axis; give two that are perpendicular")
    return torch.from_numpy(np.stack([x, np.cross(z, x), z]))


def _colouring(mesh: trimesh.Trimesh) -> Colouring | None:
    """What colours the part, if anything."""
    visual: Any = mesh.visual
    if visual.kind == "vertex":
        corners = visual.vertex_colors[mesh.faces][..., :3] / 255
        return lambda faces, weights: np.einsum("pc,pcd->pd", weights, corners[faces])
    if visual.kind == "face":
        of_face = visual.face_colors[:, :3] / 255
        return lambda faces, weights: of_face[faces]
    if visual.kind != "texture" or not isinstance(visual.material, trimesh.visual.material.PBRMaterial):
        return None
    material, factor = visual.material, visual.material.baseColorFactor
    tint = np.ones(3) if factor is None else trimesh.visual.color.to_float(factor)[:3]
    if material.baseColorTexture is None or visual.uv is None:
        return None if factor is None else lambda faces, weights: np.broadcast_to(tint, weights.shape)
    picture, uv = material.baseColorTexture, visual.uv[mesh.faces]
    return lambda faces, weights: tint * _pixels(picture, np.einsum("pc,pcd->pd", weights, uv[faces]))


def _pixels(picture: Any, uv: np.ndarray) -> np.ndarray:
    return trimesh.visual.color.uv_to_interpolated_color(uv, picture)[:, :3] / 255


def _without_faces(data: bytes, geometries: list[Any]) -> str:
    if data.startswith(b"ply") and b" f_dc_0" in data.partition(b"end_header")[0]:
        return "The .ply holds Gaussians of 3DGS, no faces; set initialization.kind=ply to start from them."
    num = sum(len(geometry.vertices) for geometry in geometries if hasattr(geometry, "vertices"))
    advice = "export a surface, or start from a cloud of points (.ply, x y z and red green blue) with initialization.kind=ply"
    return f"The file has {num} vertices and no faces; expected triangles: {advice}."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
