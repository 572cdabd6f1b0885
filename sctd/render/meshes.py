"""Render triangle meshes: rays by Embree, colours by our kernels; cameras and compositing as of the Gaussians.

Embree only tells which triangle a ray hits; `mesh_shading` computes everything else.
"""

import platform
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from sctd.formats.triangles import Mesh, Texture
from sctd.render import mesh_shading as shading_kernels
from sctd.render.contract import RenderError
from sctd.render.mesh_shading import BLEND, CLAMP, MASK, MIRROR, OPAQUE, OUTWARD, REPEAT, STEPS, Tables
from sctd.scene.cameras import Cameras

Shading = Literal["unlit", "lit"]
MAX_LAYERS = 64  # of transparent or culled surfaces behind one another
# Offsets of the samples in a pixel: each has its own column and its own row, so edges of any direction have 5 levels.
SAMPLES = np.array([(-1, -3), (3, -1), (-3, 1), (1, 3)]) / 8
CHUNK = 2**14  # pixels at a time, so that their values stay in the cache
_MODES = {"OPAQUE": OPAQUE, "MASK": MASK, "BLEND": BLEND}
_WRAPS = {"repeat": REPEAT, "clamp": CLAMP, "mirror": MIRROR}


def render_mesh(mesh: Mesh, cameras: Cameras, shading: Shading = "unlit") -> np.ndarray:
    """Every view on white, uint8 [views, height, width, 3].

    "unlit" shows base colours, "lit" the mean light of the synthetic world on them (z is up) except on unlit materials.
    Raises RenderError without the extra `mesh`.
    """
    scene = _Scene(mesh, lit=shading == "lit")
    with ThreadPoolExecutor(max(1, min(cameras.num, _threads()))) as pool:
        images = list(pool.map(lambda view: scene.image(cameras, view), range(cameras.num)))
    return np.stack(images) if images else np.empty((0, cameras.height, cameras.width, 3), np.uint8)


def _threads() -> int:
    """As many as torch uses, at most 4: one at a time traces rays, because embreex holds the interpreter's lock."""
    return min(4, torch.get_num_threads())


class _Scene:
    """A mesh, ready to be rendered from any camera."""

    def __init__(self, mesh: Mesh, *, lit: bool):
        self.mesh, self.lit = mesh, lit
        self.embree, self.tables = _embree(mesh), _tables(mesh)

    def image(self, cameras: Cameras, view: int) -> np.ndarray:
        """One view, uint8 [height, width, 3]."""
        image = np.full((cameras.height, cameras.width, 3), 255, np.uint8)
        left, top, right, bottom = self._rectangle(cameras, view)
        if left < right:
            rows = max(1, CHUNK // (right - left))
            for first in range(top, bottom, rows):
                block = image[first : min(first + rows, bottom), left:right]
                self._draw(cameras, view, left, first, block)
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

    def _draw(self, cameras: Cameras, view: int, left: int, top: int, image: np.ndarray) -> None:
        """Fill a block of pixels, whose left upper one is at (left, top)."""
        matrix = cameras.world_to_camera[view].cpu().double().numpy()
        rotation, translation = matrix[:3, :3], matrix[:3, 3]
        # Directions are x · right + y · down + corner for the pixel position (x, y): the rows of `camera`.
        camera = np.ascontiguousarray((rotation.T @ np.linalg.inv(cameras.intrinsics[view].cpu().double().numpy())).T)
        center = -(rotation.T @ translation)[None]
        light = np.array([0, 0, 1]) - OUTWARD * rotation[2]
        light /= np.linalg.norm(light)
        directions = np.empty((*image.shape[:2], len(SAMPLES), 3), np.float32)
        shading_kernels.aim(camera, left, top, SAMPLES, directions)
        directions = directions.reshape(-1, 3)
        begin = np.repeat(center.astype(np.float32), len(directions), axis=0)
        rays, last = np.arange(len(directions)), np.full(len(directions), -1)
        rgb, passing = np.zeros((len(directions), 3)), np.ones(len(directions))
        going = len(directions)
        for _ in range(MAX_LAYERS):
            hits = self.embree.run(begin[:going], directions[:going], query="INTERSECT")
            going = shading_kernels.composite(
                self.tables,
                center,
                camera,
                len(SAMPLES),
                light,
                self.lit,
                hits,
                rays,
                last,
                directions,
                begin,
                rgb,
                passing,
            )
            if not going:
                break
        shading_kernels.resolve(rgb, passing, image)


def _embree(mesh: Mesh) -> Any:
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as error:
        if platform.machine() == "aarch64":
            raise RenderError("Rendering a mesh needs embreex, which has no package for Linux on ARM.") from error
        raise RenderError("Rendering a mesh needs embreex; pip install 'segmentdreamer[mesh]'.") from error
    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, np.ascontiguousarray(mesh.vertices, np.float32), np.ascontiguousarray(mesh.faces, np.int32))
    return scene


def _tables(mesh: Mesh) -> Tables:
    parts = mesh.parts
    levels = [_mips(texture) for texture in mesh.textures]
    firsts = [0, *accumulate(len(each) for each in levels)]
    samplers = [
        (first, len(each), *(_WRAPS[wrap] for wrap in texture.wrap), texture.nearest)
        for first, each, texture in zip(firsts, levels, mesh.textures, strict=False)
    ]
    images = [image for each in levels for image in each]
    starts = [0, *accumulate(image.size // 4 for image in images)]
    sizes = [(start, *image.shape[:2]) for start, image in zip(starts, images, strict=False)]
    bytes_, steps = np.arange(256) / 255, np.arange(STEPS + 1) / STEPS
    culled = np.array([not part.double_sided for part in parts])
    return Tables(
        vertices=mesh.vertices,
        uv=mesh.uv,
        colors=mesh.colors,
        normals=mesh.normals,
        faces=mesh.faces,
        part=np.repeat(np.arange(len(parts)), [part.num_faces for part in parts]),
        twin=_twins(mesh) if culled.any() else np.full(len(mesh.faces), -1),
        base=np.array([part.base_color for part in parts], np.float64),
        mode=np.array([_MODES[part.alpha_mode] for part in parts]),
        cutoff=np.array([part.alpha_cutoff for part in parts], np.float64),
        culled=culled,
        unlit=np.array([part.unlit for part in parts]),
        texture=np.array([-1 if part.texture is None else part.texture for part in parts]),
        sampler=np.array(samplers, np.int64).reshape(-1, 5),
        level=np.array(sizes, np.int64).reshape(-1, 3),
        texels=np.concatenate([image.reshape(-1, 4) for image in images] or [np.empty((0, 4), np.uint8)]),
        decoded=shading_kernels.decoded(bytes_) if mesh.linear else bytes_,
        encoded=shading_kernels.encoded(steps) if mesh.linear else steps,
    )


def _twins(mesh: Mesh) -> np.ndarray:
    """For every face another one with the same corners, as if to show both sides, or -1: a ray hits either."""
    _, vertex = np.unique(mesh.vertices, axis=0, return_inverse=True)
    corners = np.sort(vertex.reshape(-1)[mesh.faces], axis=1)
    order = np.lexsort(corners.T)
    first, second = order[:-1], order[1:]
    same = (corners[first] == corners[second]).all(axis=1)
    twin = np.full(len(order), -1)
    twin[first[same]], twin[second[same]] = second[same], first[same]
    return twin


def _mips(texture: Texture) -> list[np.ndarray]:
    """The texture and its halvings down to one texel, uint8; only the texture if it is shown without interpolation."""
    levels = [texture.rgba]
    while not texture.nearest and max(levels[-1].shape[:2]) > 1:
        levels.append(_halved(levels[-1]))
    return levels


def _halved(rgba: np.ndarray) -> np.ndarray:
    """Half the width and height, by means over areas in linear light, weighted by alpha."""
    size = tuple(max(1, side // 2) for side in rgba.shape[1::-1])
    steps = np.arange(256, dtype=np.float32) / 255
    linear = shading_kernels.decoded(steps).astype(np.float32)
    weight = (steps + np.float32(1e-6))[rgba[..., 3]]  # at least 1e-6, to keep the colour of what is transparent

    def half(values: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))

    alpha = half(weight)
    channels = [half(linear[rgba[..., channel]] * weight) / alpha for channel in range(3)]
    shown = [*(shading_kernels.encoded(channel.clip(0, 1)) for channel in channels), alpha.clip(0, 1)]
    return np.floor(255 * np.stack(shown, axis=-1) + 0.5).astype(np.uint8)
