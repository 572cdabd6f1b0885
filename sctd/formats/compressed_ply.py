"""Compressed `.ply` → Gaussians: PlayCanvas' format, as splat-transform 3.7 writes and reads it.

For each 256 vertices, a row of `chunk` has the ranges of positions, log scales and perhaps colours. A vertex has four
words: position and log scale as fractions of the ranges, in 11, 10 and 11 bits; the rotation as 2 bits for the largest
of w x y z and 10 for each of the others; red, green, blue and opacity in bytes. An element `sh` has the other SH
coefficients from -4 to 4 in bytes: all of red, then green, then blue.
"""

from collections.abc import Mapping

import numpy as np
import torch

from sctd.formats.common import logits
from sctd.scene.gaussians import Gaussians, rgb_to_sh

MARK = "packed_position"
WORDS = (MARK, "packed_rotation", "packed_scale", "packed_color")
SIZE = 256  # vertices of a chunk
SH_RANGE = 8.0

Elements = Mapping[str, np.ndarray]
"""The elements of a file as structured arrays."""


def unpacked(file: Elements, num_rest: int) -> Gaussians:
    """The Gaussians of a file with `num_rest` properties in its element `sh`. Raises ValueError if it is incomplete."""
    vertices = file["vertex"]
    position, rotation, scale, color = (_words(vertices, name) for name in WORDS)
    chunks = _chunks(file, len(vertices))
    rgba = np.stack([color >> shift & 255 for shift in (24, 16, 8, 0)], 1) / 255
    rgb = rgba[:, :3]
    if "min_r" in (chunks.dtype.names or ()):
        rgb = _within(chunks, "{}_r {}_g {}_b", rgb)
    num = len(vertices)
    rest = np.zeros((num, 0)) if not num_rest else _rest(file, num, num_rest)
    harmonics = torch.from_numpy(rest).reshape(num, 3, num_rest // 3).mT
    constant = rgb_to_sh(torch.from_numpy(rgb))[:, None]
    return Gaussians(
        means=torch.from_numpy(_within(chunks, "{}_x {}_y {}_z", _fractions(position))).float(),
        log_scales=torch.from_numpy(_within(chunks, "{}_scale_x {}_scale_y {}_scale_z", _fractions(scale))).float(),
        quats=torch.from_numpy(_rotations(rotation)).float(),
        logit_opacities=logits(torch.from_numpy(rgba[:, 3]).float()),
        sh=torch.cat([constant, harmonics], dim=1).float(),
    )


def _words(vertices: np.ndarray, name: str) -> np.ndarray:
    if name not in (vertices.dtype.names or ()) or vertices.dtype[name].kind not in "ui":
        raise ValueError(f"its vertices have no words {name}")
    return vertices[name].astype(np.uint32)


def _chunks(file: Elements, num: int) -> np.ndarray:
    """The row of `chunk` of each vertex."""
    if "chunk" not in file or len(chunks := file["chunk"]) * SIZE < num:
        raise ValueError(f"its chunks are fewer than one for {SIZE} vertices")
    return chunks[np.arange(num) // SIZE]


def _within(chunks: np.ndarray, names: str, fractions: np.ndarray) -> np.ndarray:
    """Values at fractions of the chunks' ranges."""
    ends = []
    for end in ("min", "max"):
        keys = names.format(end, end, end).split()
        if missing := [key for key in keys if key not in (chunks.dtype.names or ())]:
            raise ValueError(f"its chunks have no {missing[0]}")
        ends.append(np.stack([chunks[key].astype(float) for key in keys], 1))
    low, high = ends
    return low + (high - low) * fractions


def _fractions(words: np.ndarray) -> np.ndarray:
    return np.stack([(words >> 21) / 2047, (words >> 11 & 1023) / 1023, (words & 2047) / 2047], 1)


def _rotations(words: np.ndarray) -> np.ndarray:
    """Unit quaternions (w, x, y, z)."""
    others = np.sqrt(2) * (np.stack([words >> shift & 1023 for shift in (20, 10, 0)], 1) / 1023 - 0.5)
    largest = np.sqrt(np.maximum(0, 1 - (others**2).sum(1)))
    found = np.empty((len(words), 4))
    for place in range(4):
        here = words >> 30 == place
        found[here] = np.insert(others[here], place, largest[here], axis=1)
    return found


def _rest(file: Elements, num: int, num_rest: int) -> np.ndarray:
    if "sh" not in file or len(rows := file["sh"]) != num:
        raise ValueError("its rows of sh are not one for each vertex")
    codes = np.stack([rows[f"f_rest_{number}"] for number in range(num_rest)], 1).astype(float)
    middle = np.where((codes == 0) | (codes == 255), codes / 255, (codes + 0.5) / 256)
    return (middle - 0.5) * SH_RANGE
