"""Render triangle meshes: rays by Embree, colours by numpy; the same cameras and compositing as the Gaussians.

Embree only tells which triangle a ray hits. Everything else follows from the triangle's corners in float64, so that a
colour does not depend on the processor. One sample of a pixel: M = [p₀ p₁ p₂] has the corners, seen from the camera, as
columns; M⁻¹ d, divided by its sum w, are the barycentric coordinates of the point in direction d, at distance 1/w.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from sctd.formats.triangles import Mesh, Texture
from sctd.render.contract import RenderError
from sctd.scene.cameras import Cameras

Shading = Literal["unlit", "lit"]
MAX_LAYERS = 64  # of transparent or culled surfaces behind one another
# Offsets of the samples in a pixel: each has its own column and its own row, so edges of any direction have 5 levels.
SAMPLES = np.array([(-1, -3), (3, -1), (-3, 1), (1, 3)]) / 8
CHUNK = 2**14  # pixels at a time, so that their values stay in the cache
FAINT = 0.5 / 255  # what passes all layers so far and is not worth another one
NEXT = 1e-5  # how much farther than a hit the next one is searched, relative to the distance of the camera
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
    """Camera centre, and the directions x · right + y · down + corner through the pixel position (x, y)."""

    center: np.ndarray
    right: np.ndarray
    down: np.ndarray
    corner: np.ndarray

    @property
    def outward(self) -> np.ndarray:
        """The unit vector from the image to the camera."""
        forward = np.cross(self.right, self.down)
        return -forward / np.linalg.norm(forward)


class _Hits(NamedTuple):
    """Rays of one view, the faces that they hit, and M⁻¹ and barycentric coordinates there."""

    direction: np.ndarray
    face: np.ndarray
    matrix: np.ndarray
    w: np.ndarray
    weights: np.ndarray


class _Scene:
    """A mesh, ready to be rendered from any camera. All tables have one row per face or per part."""

    def __init__(self, mesh: Mesh, *, lit: bool):
        self.mesh, self.lit = mesh, lit
        self.rays = _embree(mesh)
        self.corners = mesh.vertices[mesh.faces].astype(np.float64)
        self.normals = np.cross(self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0])
        self.part = np.repeat(np.arange(len(mesh.parts)), [part.num_faces for part in mesh.parts])
        self.base = np.array([part.base_color for part in mesh.parts], np.float32)
        self.culled = np.array([not part.double_sided for part in mesh.parts])
        self.unlit = np.array([part.unlit for part in mesh.parts])
        self.textures = np.array([-1 if part.texture is None else part.texture for part in mesh.parts])
        # Opacity is a step at the cutoff: below 0 for opaque parts, none for those that blend.
        self.blended = np.array([part.alpha_mode == "BLEND" for part in mesh.parts])
        self.cutoff = np.array(
            [part.alpha_cutoff if part.alpha_mode == "MASK" else -1 for part in mesh.parts], np.float32
        )
        self.uv = mesh.uv[mesh.faces]
        self.colors = mesh.colors[mesh.faces] if (mesh.colors != 1).any() else None
        self.smooth = mesh.normals[mesh.faces] if mesh.normals.any() else None
        self.mips = [_mips(texture) for texture in mesh.textures]

    def image(self, cameras: Cameras, view: int) -> np.ndarray:
        """One view, uint8 [height, width, 3]."""
        camera = _view(cameras, view)
        inverse = _inverse(self.corners - camera.center)
        image = np.full((cameras.height, cameras.width, 3), 255, np.uint8)
        left, top, right, bottom = self._rectangle(cameras, view)
        rows = max(1, CHUNK // max(1, right - left))
        for first in range(top, bottom, rows):
            last = min(first + rows, bottom)
            y, x, sample = np.indices((last - first, right - left, len(SAMPLES))).reshape(3, -1)
            x, y = x + left + 0.5 + SAMPLES[sample, 0], y + first + 0.5 + SAMPLES[sample, 1]
            direction = x[:, None] * camera.right + y[:, None] * camera.down + camera.corner
            colors = self._colors(camera, direction, inverse).reshape(last - first, right - left, len(SAMPLES), 3)
            image[first:last, left:right] = np.floor(255 * colors.mean(axis=2) + 0.5)
        return image

    def _rectangle(self, cameras: Cameras, view: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the pixels that can show the mesh; all if part is behind the camera."""
        box = self.mesh.bounds.astype(np.float64)
        corners = np.stack(np.meshgrid(*box.T, indexing="ij"), axis=-1).reshape(-1, 3)
        matrix = cameras.world_to_camera[view].cpu().double().numpy()
        seen = (corners @ matrix[:3, :3].T + matrix[:3, 3]) @ cameras.intrinsics[view].cpu().double().numpy().T
        if (seen[:, 2] <= 0).any():
            return 0, 0, cameras.width, cameras.height
        pixels, size = seen[:, :2] / seen[:, 2:], (cameras.width, cameras.height)
        left, top = np.floor(pixels.min(0) - 1).clip(0, size).astype(int).tolist()
        right, bottom = np.ceil(pixels.max(0) + 1).clip(0, size).astype(int).tolist()
        return left, top, right, bottom

    def _colors(self, camera: _View, direction: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """The colours of rays on white, float32 [rays, 3]: surfaces from front to back, premultiplied."""
        rgb = np.zeros((len(direction), 3), np.float32)
        passing = np.ones(len(direction), np.float32)
        rays, last = np.arange(len(direction)), np.full(len(direction), -1)
        begin = np.broadcast_to(camera.center, direction.shape)
        for _ in range(MAX_LAYERS):
            face = self.rays.run(_float32(begin), _float32(direction[rays]), query="INTERSECT")
            hit = face >= 0
            rays, face, last = rays[hit], face[hit], last[hit]
            if not len(rays):
                break
            shown = face != last  # a ray hits a triangle once
            if self.culled.any():
                behind = np.einsum("ij,ij->i", self.normals[face], direction[rays]) > 0
                shown &= ~(self.culled[self.part[face]] & behind)
            color, alpha = self._shade(camera, _hits(direction[rays[shown]], face[shown], inverse))
            rgb[rays[shown]] += (passing[rays[shown]] * alpha)[:, None] * color
            passing[rays[shown]] *= 1 - alpha
            more = passing[rays] > FAINT
            rays, last = rays[more], face[more]
            begin = self._behind(camera, direction[rays], last)
        return rgb + passing[:, None]

    def _behind(self, camera: _View, direction: np.ndarray, face: np.ndarray) -> np.ndarray:
        """Points on the rays shortly behind these faces."""
        normal = self.normals[face]
        along = np.einsum("ij,ij->i", normal, direction)
        distance = np.einsum("ij,ij->i", normal, self.corners[face, 0] - camera.center)
        distance = np.divide(distance, along, out=np.zeros_like(along), where=along != 0)
        return camera.center + direction * (distance * (1 + NEXT))[:, None]

    def _shade(self, camera: _View, hits: _Hits) -> tuple[np.ndarray, np.ndarray]:
        """Colour in [0, 1] as shown on a display, float32 [rays, 3], and opacity."""
        part = self.part[hits.face]
        rgba = self.base[part]
        if self.colors is not None:
            rgba *= np.einsum("nc,nck->nk", hits.weights, self.colors[hits.face])
        used = self.textures[part]
        for number, texture in enumerate(self.mesh.textures):
            here = np.flatnonzero(used == number)
            if len(here):
                rgba[here] *= self._texels(camera, _Hits(*(each[here] for each in hits)), number, texture)
        alpha = np.where(self.blended[part], rgba[:, 3].clip(0, 1), rgba[:, 3] >= self.cutoff[part])
        rgb = rgba[:, :3].clip(0, 1)
        if self.mesh.linear:
            rgb = _encoded(rgb)
        if self.lit:
            light = np.where(self.unlit[part], 1, self._light(camera, hits))
            rgb = (rgb * light[:, None].astype(np.float32)).clip(0, 1)
        return rgb, alpha.astype(np.float32)

    def _light(self, camera: _View, hits: _Hits) -> np.ndarray:
        """The factor on the colour of a matt surface, by its normal on the side of the camera."""
        normal = self.normals[hits.face]
        if self.smooth is not None:
            given = np.einsum("nc,nck->nk", hits.weights, self.smooth[hits.face])
            normal = np.where(given.any(axis=1, keepdims=True), given, normal)
        away = np.einsum("ij,ij->i", self.normals[hits.face], hits.direction) > 0
        normal = np.where(away[:, None], -normal, normal)
        normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
        light = _OUTWARD * camera.outward + np.array([0, 0, 1])
        light /= np.linalg.norm(light)
        return _AMBIENT + _SKY * (0.5 + 0.5 * normal[:, 2]) + _DIFFUSE * np.maximum(normal @ light, 0)

    def _texels(self, camera: _View, hits: _Hits, number: int, texture: Texture) -> np.ndarray:
        """Samples of a texture, float32 [rays, 4] in [0, 1]: bilinear in the nearest mip level."""
        corners = self.uv[hits.face]
        uv = np.einsum("nc,nck->nk", hits.weights, corners)
        size = np.array(texture.rgba.shape[1::-1], np.float32)
        x, y = (
            (np.einsum("nc,nck->nk", change, corners) - uv * change.sum(axis=1, keepdims=True)) / hits.w * size
            for change in (hits.matrix @ _float32(axis) for axis in (camera.right, camera.down))
        )  # texels per pixel of the image to the right and downwards
        area = np.abs(x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]) / len(SAMPLES)
        level = 0.5 * np.log2(np.maximum(area, 1e-12)) + 0.5
        level = level.astype(np.int64).clip(0, len(self.mips[number]) - 1)
        rgba = np.empty((len(uv), 4), np.float32)
        for chosen in np.unique(level):
            here = level == chosen
            rgba[here] = _bilinear(self.mips[number][chosen], uv[here], texture, linear=self.mesh.linear)
        return rgba


def _hits(direction: np.ndarray, face: np.ndarray, inverse: np.ndarray) -> _Hits:
    matrix = inverse[face]
    weights = np.einsum("nij,nj->ni", matrix, _float32(direction))
    w = weights.sum(axis=1, keepdims=True)
    weights = np.divide(weights, w, out=np.full_like(weights, 1 / 3), where=w != 0).clip(0, 1)
    return _Hits(direction, face, matrix, np.where(w == 0, 1, w), weights / weights.sum(axis=1, keepdims=True))


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


def _inverse(corners: np.ndarray) -> np.ndarray:
    """M⁻¹ of every triangle, float32 [F, 3, 3]; 0 where the camera is in its plane, which no ray hits."""
    first, second, third = corners[:, 0], corners[:, 1], corners[:, 2]
    rows = np.stack([np.cross(second, third), np.cross(third, first), np.cross(first, second)], axis=1)
    volume = np.einsum("ij,ij->i", first, rows[:, 0])
    return _float32(rows / np.where(volume == 0, np.inf, volume)[:, None, None])


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def _decoded(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _encoded(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


_LINEAR = _decoded(np.arange(256) / 255).astype(np.float32)
_DISPLAY = (np.arange(256) / 255).astype(np.float32)


def _mips(texture: Texture) -> list[np.ndarray]:
    """The texture and its halvings down to one texel, uint8; only the texture if it is shown without interpolation."""
    levels = [texture.rgba]
    while not texture.nearest and max(levels[-1].shape[:2]) > 1:
        levels.append(_halved(levels[-1]))
    return levels


def _halved(rgba: np.ndarray) -> np.ndarray:
    """Half the width and height, by means over areas in linear light, weighted by alpha."""
    height, width = (max(1, side // 2) for side in rgba.shape[:2])
    weight = _DISPLAY[rgba[..., 3]] + 1e-6  # keeps the colour of what is transparent
    channels = [_LINEAR[rgba[..., channel]] * weight for channel in range(3)]
    *rgb, alpha = (
        np.asarray(Image.fromarray(channel).resize((width, height), Image.Resampling.BOX))
        for channel in (*channels, weight)
    )
    encoded = [_encoded((channel / alpha).clip(0, 1)) for channel in rgb]
    return np.floor(255 * np.stack([*encoded, alpha.clip(0, 1)], axis=-1) + 0.5).astype(np.uint8)


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
