"""Training data generated from a seed: scenes and captions on the CPU cores, images on the given device."""

import multiprocessing
import os
import zlib
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from pipeline.embedded import raytrace, world

VIEW_WORDS = ("front view", "side view", "back view", "overhead view")
CAPTIONS_PER_IMAGE = 2
_SCENES_PER_TASK = 250


@dataclass(frozen=True)
class Scenes:
    """Tables of the scenes and the captions of their images; `views` consecutive images belong to one scene."""

    rows: np.ndarray  # float32 [primitives, PRIM]
    counts: np.ndarray  # int32 [scenes]
    cameras: np.ndarray  # float32 [N, CAM]
    azimuth: np.ndarray  # degrees [N]
    elevation: np.ndarray  # degrees [N]
    keys: list[tuple]  # one per scene: the meaning of its phrase
    phrases: list[str]  # one per scene
    captions: list[str]  # CAPTIONS_PER_IMAGE per image, in order
    views: int

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int32)

    @property
    def scene_index(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.counts), dtype=np.int32), self.views)


@dataclass(frozen=True)
class Data:
    """Images with captions. N = scenes x views."""

    images: Tensor  # uint8 [N, 3, 64, 64], on the device
    captions: list[tuple[str, str]]  # [N]
    keys: list[tuple]  # [N]: captions with equal keys have the same meaning
    key_ids: Tensor  # int64 [N], on the device: digest of the key
    view_ids: Tensor  # int64 [N, 2], on the device: 0 = that caption has no view word, else 1 + index in VIEW_WORDS
    scene_index: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray

    def __len__(self) -> int:
        return len(self.captions)


def describe(scenes: int, views: int, seed: int, *, workers: int, heldout: bool = False) -> Scenes:
    """Draw scenes, cameras and captions in `workers` processes. It forks, so call it before the process uses CUDA."""
    tasks = [
        (seed * 1_000_003 + i, min(_SCENES_PER_TASK, scenes - start))
        for i, start in enumerate(range(0, scenes, _SCENES_PER_TASK))
    ]
    draw = partial(_draw, views=views, heldout=heldout)
    if workers > 1:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            parts = pool.map(draw, tasks, chunksize=1)
    else:
        parts = [draw(task) for task in tasks]
    rows, counts, cameras, azimuth, elevation, keys, phrases, captions = zip(*parts, strict=True)
    return Scenes(
        np.concatenate(rows),
        np.concatenate(counts),
        np.concatenate(cameras),
        np.concatenate(azimuth),
        np.concatenate(elevation),
        list(chain.from_iterable(keys)),
        list(chain.from_iterable(phrases)),
        list(chain.from_iterable(captions)),
        views,
    )


def _draw(task: tuple[int, int], views: int, heldout: bool) -> tuple:
    seed, count = task
    rng = np.random.default_rng(seed)
    rows, counts, cameras, azimuth, elevation, keys, phrases, captions = [], [], [], [], [], [], [], []
    for _ in range(count):
        scene = world.random_scene(rng, heldout=heldout)
        view_cameras = world.random_cameras(rng, views)
        rows.append(scene.rows)
        counts.append(len(scene.rows))
        cameras.append(view_cameras.table)
        azimuth.append(view_cameras.azimuth_degrees)
        elevation.append(view_cameras.elevation_degrees)
        keys.append(scene.key)
        phrases.append(scene.phrase)
        captions += [
            world.caption(
                rng,
                scene.phrase,
                view_cameras.azimuth_degrees[v],
                view_cameras.elevation_degrees[v],
                view_cameras.background_kind[v],
            )
            for v in range(views)
            for _ in range(CAPTIONS_PER_IMAGE)
        ]
    return (
        np.concatenate(rows),
        np.array(counts, np.int32),
        np.concatenate(cameras).astype(np.float32),
        np.concatenate(azimuth),
        np.concatenate(elevation),
        keys,
        phrases,
        captions,
    )


def render_images(scenes: Scenes, device: str, size: int = 64) -> Tensor:
    """The images of `scenes`: uint8 [N, 3, size, size] on `device`."""
    return raytrace.render(
        scenes.rows, scenes.starts, scenes.counts, scenes.scene_index, scenes.cameras, size=size, device=device
    )


def generate(
    scenes: int, views: int, seed: int, device: str = "cpu", workers: int | None = None, heldout: bool = False
) -> Data:
    """`scenes` x `views` images with two captions each. The same seed gives the same data for any `workers`."""
    return render_data(describe(scenes, views, seed, workers=workers or os.cpu_count() or 1, heldout=heldout), device)


def render_data(scenes: Scenes, device: str) -> Data:
    """Render the images of `scenes` on `device`."""
    keys = [key for key in scenes.keys for _ in range(scenes.views)]
    digests = [zlib.crc32(repr(key).encode()) for key in scenes.keys]
    views = [view_id(caption) for caption in scenes.captions]
    return Data(
        images=render_images(scenes, device),
        captions=list(zip(scenes.captions[::2], scenes.captions[1::2], strict=True)),
        keys=keys,
        key_ids=torch.tensor(digests, device=device).repeat_interleave(scenes.views),
        view_ids=torch.tensor(views, device=device).view(-1, CAPTIONS_PER_IMAGE),
        scene_index=scenes.scene_index,
        azimuth=scenes.azimuth,
        elevation=scenes.elevation,
    )


def view_id(caption: str) -> int:
    """0 if the caption has no view word, else 1 + the index of its view word in `VIEW_WORDS`."""
    return next((i for i, word in enumerate(VIEW_WORDS, start=1) if word in caption), 0)
