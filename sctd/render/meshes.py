"""Render triangle meshes: rays by Embree, colours by numpy; the same cameras and compositing as the Gaussians.

Embree only tells which triangle a ray hits. Everything else follows from the triangle's corners in float64, so that a
colour does not depend on the processor. One sample of a pixel: M = [p₀ p₁ p₂] has the corners, seen from the camera, as
columns; M⁻¹ d, divided by its sum w, are the barycentric coordinates of the point in direction d, at distance 1/w.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np

from sctd.formats.triangles import Mesh, Texture
from sctd.render.contract import RenderError
from sctd.scene.cameras import Cameras

Shading = Literal["unlit", "lit"]
MAX_LAYERS = 64  # of transparent or culled surfaces behind one another
# Offsets of the samples in a pixel: each has its own column and its own row, so edges of any direction have 5 levels.
SAMPLES = np.array([(-1, -3), (3, -1), (-3, 1), (1, 3)]) / 8
_OPAQUE = 254.5 / 255  # what a further layer adds is less than half a step
_NEXT = 1e-5  # how much farther than a hit the next one is searched, relative to the distance of the camera
# The mean light of the synthetic world's training views: from above and behind the camera, and from the sky.
_AMBIENT, _SKY, _DIFFUSE, _OUTWARD = 0.44, 0.3, 0.32, 0.65


def render_mesh(mesh: Mesh, cameras: Cameras, shading: Shading = "unlit") -> np.ndarray:
    """Every view on white, uint8 [views, height, width, 3].

    "unlit" shows base colours, "lit" the mean light of the synthetic world on them (z is up) except on unlit materials.
    Raises RenderError without the extra `mesh`.
    """
    scene = _Scene(mesh, lit=shading == "lit")
    views = range(cameras.num)
    with ThreadPoolExecutor(min(cameras.num, _threads()) or 1) as pool:
        images = list(pool.map(lambda view: scene.image(cameras, view), views))
    return np.stack(images) if images else np.empty((0, cameras.height, cameras.width, 3), np.uint8)


def _threads() -> int:
    return max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


class _View(NamedTuple):
    """Camera centre, and the directions d = x · right + y · down + corner through the pixel position (x, y)."""

    center: np.ndarray
    right: np.ndarray
    down: np.ndarray
    corner: np.ndarray


class _Scene:
    """A mesh, ready to be rendered from any camera."""

    def __init__(self, mesh: Mesh, *, lit: bool):
        self.mesh, self.lit = mesh, lit
        self.rays = _embree(mesh)
        self.corners = mesh.vertices[mesh.faces].astype(np.float64)
        sizes = [part.num_faces for part in mesh.parts]
        self.part_of = np.repeat(np.arange(len(sizes)), sizes)
        self.mips = [_mips(texture) for texture in mesh.textures]
        self.culled = np.array([not part.double_sided for part in mesh.parts])
        self.smooth = bool(mesh.normals.any())

    def image(self, cameras: Cameras, view: int) -> np.ndarray:
        """One view, uint8 [height, width, 3]."""
        height, width = cameras.height, cameras.width
        camera = _view(cameras, view)
        inverse = _inverse(self.corners - camera.center)
        image = np.full((height, width, 3), 255, np.uint8)
        left, top, right, bottom = self._rectangle(cameras, view)
        if left >= right or top >= bottom:
            return image
        x, y = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
        total = np.zeros((*x.shape, 3), np.float32)
        for dx, dy in SAMPLES:
            px, py = (x + 0.5 + dx).ravel(), (y + 0.5 + dy).ravel()
            direction = px[:, None] * camera.right + py[:, None] * camera.down + camera.corner
            total += self._colors(camera, direction, inverse).reshape(total.shape)
        image[top:bottom, left:right] = np.floor(255 / len(SAMPLES) * total + 0.5)
        return image

    def _rectangle(self, cameras: Cameras, view: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the pixels that can show the mesh; all if part is behind the camera."""
        box = self.mesh.bounds.astype(np.float64)
        corners = np.stack(np.meshgrid(*box.T, indexing="ij"), axis=-1).reshape(-1, 3)
        matrix = cameras.world_to_camera[view].cpu().double().numpy()
        seen = (corners @ matrix[:3, :3].T + matrix[:3, 3]) @ cameras.intrinsics[view].cpu().double().numpy().T
        if (seen[:, 2] <= 0).any():
            return 0, 0, cameras.width, cameras.height
        pixels = seen[:, :2] / seen[:, 2:]
        low = np.floor(pixels.min(0) - 1).clip(0, (cameras.width, cameras.height)).astype(int)
        high = np.ceil(pixels.max(0) + 1).clip(0, (cameras.width, cameras.height)).astype(int)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])

    def _colors(self, camera: _View, direction: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """The colours of rays on white, float32 [rays, 3]: surfaces from front to back, premultiplied."""
        rgb = np.zeros((len(direction), 3), np.float32)
        left = np.ones(len(direction), np.float32)
        for rays, face in self._layers(camera, direction, left):
            color, alpha = self._shade(camera, direction[rays], face, inverse)
            rgb[rays] += (left[rays] * alpha)[:, None] * color
            left[rays] *= 1 - alpha
        return rgb + left[:, None]

    def _layers(
        self, camera: _View, direction: np.ndarray, left: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rays and the faces that they hit, the nearest first; the caller lowers `left`, what passes each ray."""
        rays = np.arange(len(direction))
        towards = direction.astype(np.float32)
        begin = np.broadcast_to(camera.center.astype(np.float32), towards.shape)
        last = np.full(len(rays), -1)
        for _ in range(MAX_LAYERS):
            face = self.rays.run(np.ascontiguousarray(begin), np.ascontiguousarray(towards), query="INTERSECT")
            hit = face >= 0
            rays, towards, begin, face = rays[hit], towards[hit], begin[hit], face[hit]
            last = last[hit]
            again = face == last  # a ray hits a triangle once
            visible = ~again
            part = self.part_of[face]
            if self.culled.any():
                normal = self._geometric(face)
                visible &= ~(self.culled[part] & (np.einsum("ij,ij->i", normal, direction[rays]) > 0))
            yield rays[visible], face[visible]
            more = left[rays] > 1 - _OPAQUE
            if not more.any():
                return
            rays, towards, last, face = rays[more], towards[more], face[more], face[more]
            begin = self._behind(camera, direction[rays], face).astype(np.float32)

    def _behind(self, camera: _View, direction: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Points on the rays shortly behind these faces."""
        corners = self.corners[face] - camera.center
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        along = np.einsum("ij,ij->i", normal, direction)
        with np.errstate(all="ignore"):
            distance = np.einsum("ij,ij->i", normal, corners[:, 0]) / along
        distance = np.where(np.isfinite(distance), distance, 0)
        return camera.center + direction * (distance * (1 + _NEXT))[:, None]

    def _geometric(self, face: np.ndarray) -> np.ndarray:
        corners = self.corners[face]
        return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])

    def _shade(
        self, camera: _View, direction: np.ndarray, face: np.ndarray, inverse: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Colour in [0, 1] as shown on a display, [rays, 3], and opacity of the points that rays hit."""
        mesh = self.mesh
        matrix = inverse[face]
        weights = np.einsum("nij,nj->ni", matrix, direction)
        w = weights.sum(axis=1, keepdims=True)
        weights = (weights / np.where(w == 0, 1, w)).clip(0, 1)
        weights = weights / weights.sum(axis=1, keepdims=True)
        vertex = mesh.faces[face]
        part = self.part_of[face]
        base = np.array([each.base_color for each in mesh.parts])
        rgba = base[part] * np.einsum("nc,nck->nk", weights, mesh.colors[vertex])
        for number, texture in enumerate(mesh.textures):
            users = [index for index, each in enumerate(mesh.parts) if each.texture == number]
            here = np.isin(part, users)
            if here.any():
                uv = np.einsum("nc,nck->nk", weights[here], mesh.uv[vertex[here]].astype(np.float64))
                level = self._level(texture, camera, matrix[here], w[here], uv, mesh.uv[vertex[here]])
                rgba[here] *= _texels(texture, self.mips[number], uv, level, linear=mesh.linear)
        modes = np.array([each.alpha_mode for each in mesh.parts])[part]
        cutoff = np.array([each.alpha_cutoff for each in mesh.parts])[part]
        alpha = np.where(modes == "OPAQUE", 1.0, np.where(modes == "MASK", rgba[:, 3] >= cutoff, rgba[:, 3]))
        rgb = rgba[:, :3].clip(0, 1)
        if mesh.linear:
            rgb = _encoded(rgb)
        if self.lit:
            shaded = ~np.array([each.unlit for each in mesh.parts])[part]
            rgb[shaded] *= self._light(camera, direction[shaded], face[shaded], weights[shaded])[:, None]
        return rgb.clip(0, 1).astype(np.float32), alpha.astype(np.float32)

    def _light(self, camera: _View, direction: np.ndarray, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The factor on the colour of a matt surface, by its normal, which points to the camera."""
        normal = self._geometric(face)
        if self.smooth:
            given = np.einsum("nc,nck->nk", weights, self.mesh.normals[self.mesh.faces[face]].astype(np.float64))
            normal = np.where((np.abs(given).sum(axis=1) > 0)[:, None], given, normal)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
        normal *= -np.sign(np.einsum("ij,ij->i", normal, direction))[:, None]
        outward = -(camera.right * 0 + _forward(camera))
        light = _OUTWARD * outward + np.array([0, 0, 1])
        light /= np.linalg.norm(light)
        return _AMBIENT + _SKY * (0.5 + 0.5 * normal[:, 2]) + _DIFFUSE * np.maximum(normal @ light, 0)

    def _level(
        self,
        texture: Texture,
        camera: _View,
        matrix: np.ndarray,
        w: np.ndarray,
        uv: np.ndarray,
        corners: np.ndarray,
    ) -> np.ndarray:
        """The mip level at which one texel is as large as the distance of two samples (as a square of equal area)."""
        size = np.array(texture.rgba.shape[1::-1])
        steps = []
        for axis in (camera.right, camera.down):
            change = matrix @ axis
            steps.append((np.einsum("nc,nck->nk", change, corners) - uv * change.sum(axis=1, keepdims=True)) / w * size)
        area = np.abs(steps[0][:, 0] * steps[1][:, 1] - steps[0][:, 1] * steps[1][:, 0]) / len(SAMPLES)
        return 0.5 * np.log2(np.maximum(area, 1e-12))


def _embree(mesh: Mesh) -> Any:
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as error:
        raise RenderError("Rendering a mesh needs embreex; pip install 'segmentdreamer[mesh]'.") from error
    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, np.ascontiguousarray(mesh.vertices, np.float32), np.ascontiguousarray(mesh.faces, np.int32))
    return scene


def _view(cameras: Cameras, view: int) -> _View:
    matrix = cameras.world_to_camera[view].cpu().double().numpy()
    rotation, translation = matrix[:3, :3], matrix[:3, 3]
    pixels = rotation.T @ np.linalg.inv(cameras.intrinsics[view].cpu().double().numpy())
    return _View(-rotation.T @ translation, pixels[:, 0], pixels[:, 1], pixels[:, 2])


def _forward(camera: _View) -> np.ndarray:
    forward = np.cross(camera.right, camera.down)
    return forward / np.linalg.norm(forward)


def _inverse(corners: np.ndarray) -> np.ndarray:
    """M⁻¹ of every triangle, [F, 3, 3]; 0 where the camera is in its plane, which no ray hits."""
    first, second, third = corners[:, 0], corners[:, 1], corners[:, 2]
    rows = np.stack([np.cross(second, third), np.cross(third, first), np.cross(first, second)], axis=1)
    volume = np.einsum("ij,ij->i", first, rows[:, 0])
    return rows / np.where(volume == 0, np.inf, volume)[:, None, None]


def _decoded(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _encoded(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


_LINEAR = _decoded(np.arange(256) / 255).astype(np.float32)
_DISPLAY = (np.arange(256) / 255).astype(np.float32)


def _mips(texture: Texture) -> list[np.ndarray]:
    """The texture and its halvings down to one texel, uint8; means of linear light, weighted by alpha."""
    levels = [texture.rgba]
    while texture.nearest is False and max(levels[-1].shape[:2]) > 1:
        levels.append(_halved(levels[-1]))
    return levels


def _halved(rgba: np.ndarray) -> np.ndarray:
    height, width = rgba.shape[:2]
    rgba = np.pad(rgba, ((0, height % 2 if height > 1 else 1), (0, width % 2 if width > 1 else 1), (0, 0)), mode="edge")
    total = np.zeros((rgba.shape[0] // 2, rgba.shape[1] // 2, 4), np.float32)
    for row in (0, 1):
        for column in (0, 1):
            texels = rgba[row::2, column::2]
            alpha = texels[..., 3:].astype(np.float32) / 255 + 1e-6  # keeps the colour of what is transparent
            total[..., :3] += _LINEAR[texels[..., :3]] * alpha
            total[..., 3:] += alpha
    rgb = _encoded(total[..., :3] / total[..., 3:])
    return np.floor(np.concatenate([rgb, total[..., 3:] / 4], axis=-1) * 255 + 0.5).clip(0, 255).astype(np.uint8)


def _texels(texture: Texture, mips: list[np.ndarray], uv: np.ndarray, level: np.ndarray, *, linear: bool) -> np.ndarray:
    """Samples of a texture at `uv`, [num, 4] in [0, 1]: the nearest mip level, bilinear in it."""
    chosen = np.floor(level + 0.5).clip(0, len(mips) - 1).astype(int)
    rgba = np.empty((len(uv), 4), np.float32)
    for number in np.unique(chosen):
        here = chosen == number
        rgba[here] = _bilinear(mips[number], uv[here], texture, linear=linear)
    return rgba


def _bilinear(image: np.ndarray, uv: np.ndarray, texture: Texture, *, linear: bool) -> np.ndarray:
    size = np.array(image.shape[1::-1])
    place = uv * size - (0 if texture.nearest else 0.5)
    low = np.floor(place)
    share = (place - low).astype(np.float32)
    flat = image.reshape(-1, 4)
    table = _LINEAR if linear else _DISPLAY
    total = np.zeros((len(uv), 4), np.float32)
    for down in (0,) if texture.nearest else (0, 1):
        row = _wrapped(low[:, 1].astype(np.int64) + down, image.shape[0], texture.wrap[1])
        for across in (0,) if texture.nearest else (0, 1):
            column = _wrapped(low[:, 0].astype(np.int64) + across, image.shape[1], texture.wrap[0])
            texels = flat[row * image.shape[1] + column]
            if texture.nearest:
                weight = np.ones(len(uv), np.float32)
            else:
                weight = np.abs(1 - down - share[:, 1]) * np.abs(1 - across - share[:, 0])
            total[:, :3] += weight[:, None] * table[texels[:, :3]]
            total[:, 3] += weight * _DISPLAY[texels[:, 3]]
    return total


def _wrapped(index: np.ndarray, size: int, wrap: str) -> np.ndarray:
    if wrap == "clamp":
        return index.clip(0, size - 1)
    if wrap == "mirror":
        index = index % (2 * size)
        return np.where(index < size, index, 2 * size - 1 - index)
    return index % size
