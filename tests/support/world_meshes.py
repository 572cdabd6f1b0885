"""Objects of the synthetic world as .glb, with vertex colours or a texture: what other exporters would write."""

from typing import NamedTuple

import numpy as np
from numba import njit
from skimage.measure import marching_cubes

from pipeline.embedded.objects import ELLIPSOID, GLOSS, PATTERN, POSITION, ROTATION, SIZES, hull
from pipeline.embedded.rays import SURFACE, surface_color
from pipeline.embedded.signed_distance import signed_distance
from sctd.formats.axes import axes
from tests.support.gltf import Gltf

CELL = 0.02  # of the grid in which a surface is found, at most
CELLS_ACROSS = 14  # of the thinnest primitive
PATCH = 8  # texels of a triangle, in a row and in a column; one of them all around is a margin
AMBIENT, SKY = 0.7, 0.3  # of the light that is painted into colours


class Surface(NamedTuple):
    """A primitive as triangles in its own coordinates, and its row."""

    row: np.ndarray
    vertices: np.ndarray
    faces: np.ndarray

    @property
    def world(self):
        """The vertices in the world."""
        return self.vertices @ self.row[ROTATION].reshape(3, 3) + self.row[POSITION]


@njit(cache=True)
def _distances(kind, points, a, b, c, rounding):
    found = np.empty(len(points), np.float32)
    for n in range(len(points)):
        x, y, z = points[n]
        found[n] = signed_distance(kind, x, y, z, a, b, c, rounding)
    return found


@njit(cache=True)
def _colors(row, points):
    found = np.empty((len(points), 3), np.float32)
    for n in range(len(points)):
        x, y, z = points[n]
        found[n, 0], found[n, 1], found[n, 2] = surface_color(row, 0, x, y, z)
    return found


def distances(row, points):
    """Signed distances of points [num, 3], in the primitive's coordinates, to the surface that the ray tracer shows."""
    size = row[SIZES].astype(np.float32)
    level = 0.0 if row[0] == ELLIPSOID else float(SURFACE)
    return _distances(int(row[0]), np.float32(points), size[0], size[1], size[2], np.float32(row[16])) - level


def surface(row):
    """The triangles of one primitive: marching cubes, then the vertices moved onto the surface."""
    local = (hull(row) - row[POSITION]) @ row[ROTATION].reshape(3, 3).T
    low, high = local.min(0), local.max(0)
    step = min(CELL, float((high - low).min()) / CELLS_ACROSS)
    low, high = low - 3 * step, high + 3 * step
    grid = [np.arange(start, end + step, step) for start, end in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1)
    volume = distances(row, points.reshape(-1, 3)).reshape(points.shape[:3])
    vertices, faces, _, _ = marching_cubes(volume, 0.0, spacing=(step,) * 3, gradient_direction="descent")
    vertices = vertices + low
    for _ in range(4):
        vertices = vertices - gradient(row, vertices) * distances(row, vertices)[:, None].clip(-step, step)
    return Surface(row, vertices, faces)


def gradient(row, points, step=1e-3):
    """Outward unit normals at points of the surface."""
    change = [
        distances(row, points + offset) - distances(row, points - offset)
        for offset in step * np.eye(3, dtype=np.float32)
    ]
    change = np.stack(change, axis=1).astype(np.float64)
    return change / np.maximum(np.linalg.norm(change, axis=1, keepdims=True), 1e-9)


def surfaces(rows):
    """All primitives of a scene [n, PRIM]."""
    return [surface(row) for row in np.asarray(rows, np.float32)]


def colors(row, points, *, sky):
    """sRGB colours of points of the surface, [num, 3]; with `sky`, lit by AMBIENT and from above by SKY."""
    found = _colors(np.float32(row)[None], np.float32(points)).astype(np.float64)
    if sky:
        up = (gradient(row, points) @ row[ROTATION].reshape(3, 3))[:, 2:]
        found *= AMBIENT + SKY * (0.5 + 0.5 * up)
    return found.clip(0, 1)


def to_glb(rows, *, texture=True, sky=False):
    """A scene as .glb, y up and front +z: two-sided, with vertex colours, or a texture for what has a pattern.

    `sky` paints light into the colours. The ray tracer shows the same with `dull(rows)` and `sky_cameras`.
    """
    file = Gltf()
    turn = axes("y").numpy()
    primitives, atlas = [], []
    for each in surfaces(rows):
        material = 0
        if texture and each.row[PATTERN]:
            attributes = patches(each, len(atlas))
            atlas.append(attributes.pop("texels")(sky))
            material = len(atlas)
        else:
            shown = colors(each.row, each.vertices, sky=sky)
            linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
            attributes = {"POSITION": each.world, "COLOR_0": linear}
            attributes["NORMAL"] = gradient(each.row, each.vertices) @ each.row[ROTATION].reshape(3, 3)
            attributes["indices"] = each.faces
        indices = attributes.pop("indices").ravel()
        for name in ("POSITION", "NORMAL"):
            attributes[name] = attributes[name] @ turn.T
        numbers = {name: file.add(value) for name, value in attributes.items()}
        primitives.append({"attributes": numbers, "indices": file.add(indices, "u4"), "material": material})
    file.json["meshes"] = [{"primitives": primitives}]
    file.json["materials"] = [{"doubleSided": True}]
    file.images(atlas)
    file.json["materials"] += [
        {"doubleSided": True, "pbrMetallicRoughness": {"baseColorTexture": {"index": number}}}
        for number in range(len(atlas))
    ]
    return file.glb()


def patches(each, number):
    """Attributes of a primitive whose triangles have a patch of a texture each, and the function for its texels."""
    count = len(each.faces)
    columns = int(np.ceil(np.sqrt(count)))
    lines = -(-count // columns)
    width, height = columns * PATCH, lines * PATCH
    corner = np.stack([np.arange(count) % columns, np.arange(count) // columns], axis=1) * PATCH
    inside = np.array([(1, 1), (PATCH - 1, 1), (1, PATCH - 1)])
    uv = (corner[:, None] + inside) / (width, height)
    points = each.vertices[each.faces]

    def texels(sky):
        down, right = np.indices((PATCH, PATCH)).reshape(2, -1) + 0.5
        second, third = (right - 1) / (PATCH - 2), (down - 1) / (PATCH - 2)
        weights = np.stack([1 - second - third, second, third], axis=1)
        places = np.einsum("tc,fck->ftk", weights, points)
        shown = colors(each.row, places.reshape(-1, 3), sky=sky).reshape(count, PATCH, PATCH, 3)
        image = np.full((lines * columns, PATCH, PATCH, 4), 255, np.uint8)
        image[:count, ..., :3] = np.floor(255 * shown + 0.5)
        return image.reshape(lines, columns, PATCH, PATCH, 4).swapaxes(1, 2).reshape(height, width, 4)

    normals = gradient(each.row, points.reshape(-1, 3)) @ each.row[ROTATION].reshape(3, 3)
    return {
        "POSITION": each.world[each.faces].reshape(-1, 3),
        "NORMAL": normals,
        "TEXCOORD_0": uv.reshape(-1, 2),
        "indices": np.arange(3 * count),
        "texels": texels,
    }


def dull(rows):
    """The rows without gloss, which a mesh does not show."""
    rows = np.array(rows, np.float32)
    rows[:, GLOSS] = 0
    return rows


def sky_cameras(cameras):
    """Rows of cameras whose light is that of `to_glb(..., sky=True)`."""
    table = cameras.table.copy()
    table[:, 22], table[:, 23] = AMBIENT, 0
    return table
