"""Cameras, backgrounds and light of the synthetic world, and the captions of its images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

PREFIXES = ["", "", "", "a photo of ", "a DSLR photo of ", "a DSLR photo of ", "a 3D render of ", "a picture of ",
            "a rendering of "]  # fmt: skip
SUFFIXES = ["", "", "", "", "", ", 3D render", ", high quality", ", highly detailed", ", toy"]
WHITE, GRAY, TINTED, GRADIENT = range(4)  # kinds of background
VIEW_WORDS = ("front view", "side view", "back view", "overhead view")


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


class WorldCameras(NamedTuple):
    """Camera rows [n, CAM] for raytrace.py, and the values that captions use."""

    table: np.ndarray
    azimuth_degrees: np.ndarray
    elevation_degrees: np.ndarray
    background_kind: np.ndarray


def _cameras(
    azimuth: np.ndarray,
    elevation: np.ndarray,
    radius: np.ndarray,
    fov_y_radians: np.ndarray,
    target: np.ndarray | float,
    top: ArrayLike,
    bottom: ArrayLike,
    light: np.ndarray | float,
    ambient: np.ndarray | float,
    strength: np.ndarray | float,
) -> np.ndarray:
    a, e = np.radians(azimuth), np.radians(elevation)
    outward = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1)
    right = np.stack([-np.sin(a), np.cos(a), np.zeros_like(a)], -1)
    rows = np.zeros((len(a), 24), np.float32)
    rows[:, 0:3], rows[:, 3:6], rows[:, 6:9] = target + outward * radius[:, None], right, np.cross(outward, right)
    rows[:, 9:12], rows[:, 12] = -outward, np.tan(fov_y_radians / 2)
    rows[:, 13:16], rows[:, 16:19] = top, bottom
    light = light + outward * 0.65 + (0, 0, 1)  # from above, and from behind the camera
    rows[:, 19:22] = light / np.linalg.norm(light, axis=1, keepdims=True)
    rows[:, 22], rows[:, 23] = ambient, strength
    return rows


def random_cameras(rng: np.random.Generator, n: int) -> WorldCameras:
    """Training views: from all sides, elevated mostly by -10 to 60 degrees; the object fills 0.8 to 1.2 of an image."""
    azimuth = rng.uniform(-180, 180, n)
    elevation = np.where(rng.random(n) < 0.88, rng.uniform(-10, 60, n), rng.uniform(60, 85, n))
    fov = rng.uniform(0.45, 0.8, n)
    radius = rng.uniform(0.85, 1.25, n) / np.sin(fov / 2)  # 1: the unit ball touches the border
    kind = rng.integers(4, size=n)
    gray, tint = rng.uniform(0.15, 1, (n, 1)), rng.uniform(0.1, 1, (n, 3))
    plain = np.select([kind[:, None] == WHITE, kind[:, None] == GRAY], [np.ones((n, 3)), gray.repeat(3, 1)], tint)
    slope = np.where(kind[:, None] == GRADIENT, rng.uniform(-0.25, 0.25, (n, 1)), 0) / 2
    top, bottom = np.clip(plain + slope, 0, 1), np.clip(plain - slope, 0, 1)
    light, ambient, strength = rng.normal(0, 0.45, (n, 3)), rng.uniform(0.38, 0.5, n), rng.uniform(0.2, 0.45, n)
    target = rng.normal(0, 0.05, (n, 3))
    rows = _cameras(azimuth, elevation, radius, fov, target, top, bottom, light, ambient, strength)
    return WorldCameras(rows, azimuth, elevation, kind)


def orbit_cameras(
    azimuth_degrees: ArrayLike,
    elevation_degrees: ArrayLike,
    radius: float = 3.5,
    fov_y_radians: float = 0.55,
    background: ArrayLike = (1, 1, 1),
) -> WorldCameras:
    """Views without jitter: aimed at the origin, one background, the mean training light (above, behind the camera)."""
    azimuth, elevation = np.broadcast_arrays(np.atleast_1d(azimuth_degrees), np.atleast_1d(elevation_degrees))
    azimuth, elevation = azimuth.astype(np.float64), elevation.astype(np.float64)
    shape = azimuth.shape
    rows = _cameras(
        azimuth,
        elevation,
        np.full(shape, radius),
        np.full(shape, fov_y_radians),
        0.0,
        background,
        background,
        0.0,
        0.44,
        0.32,
    )
    channels = np.asarray(background, float)
    kind = WHITE if (channels == 1).all() else GRAY if np.ptp(channels) == 0 else TINTED
    return WorldCameras(rows, azimuth, elevation, np.full(shape, kind))


def view_word(azimuth_degrees: float, elevation_degrees: float) -> str:
    """One of VIEW_WORDS: overhead above 58 degrees, front within 50 degrees of +x, back beyond 130, else side."""
    if elevation_degrees > 58:
        return "overhead view"
    off_front = abs((azimuth_degrees + 180) % 360 - 180)
    return "front view" if off_front < 50 else "back view" if off_front > 130 else "side view"


def caption(
    rng: np.random.Generator,
    phrase: str,
    azimuth_degrees: float,
    elevation_degrees: float,
    background_kind: int,
    view_probability: float = 0.75,
) -> str:
    """A caption of one image: "a DSLR photo of a red cube, toy, on a white background, front view"."""
    words = pick(rng, PREFIXES) + phrase + pick(rng, SUFFIXES)
    chance = rng.random()
    if background_kind == WHITE and chance < 0.3:
        words += ", on a white background"
    elif background_kind != GRADIENT and chance > 0.9:
        words += ", on a plain background"
    if rng.random() < view_probability:
        words += ", " + view_word(azimuth_degrees, elevation_degrees)
    return words
