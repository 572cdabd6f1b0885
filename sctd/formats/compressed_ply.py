"""Compressed `.ply` ⇄ Gaussians: PlayCanvas' format, as splat-transform 3.7 writes and reads it.

For each 256 vertices, a row of `chunk` has the ranges of positions, log scales and perhaps colours. A vertex has four
words: position and log scale as fractions of the ranges, in 11, 10 and 11 bits; the rotation as 2 bits for the largest
of w x y z and 10 for each of the others; red, green, blue and opacity in bytes. An element `sh` has the other SH
coefficients from -4 to 4 in bytes: all of red, then green, then blue.

A written value is off by at most half a step of its chunk's range: 1/4094 of the range of x and z, 1/2046 of that of y,
1/510 of that of a colour. Rotations are off by under 0.4°, opacities by 1/510, SH coefficients by 1/64.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sctd.formats.common import logits, unit_quats
from sctd.scene.gaussians import Gaussians, rgb_to_sh, sh_to_rgb

MARK = "packed_position"
WORDS = (MARK, "packed_rotation", "packed_scale", "packed_color")
SIZE = 256  # vertices of a chunk
MAX_LOG_SCALE = 20.0  # written log scales are at most this and at least its negative, as splat-transform's
SH_LEVELS = 8 * (np.array([0, *(np.arange(1, 255) + 0.5) / 256, 1]) - 0.5)  # the SH coefficient of each byte
_POSITION, _SCALE, _COLOR = "{}_x {}_y {}_z", "{}_scale_x {}_scale_y {}_scale_z", "{}_r {}_g {}_b"
_CELL_BITS = 21  # of each coordinate in a Morton code

Elements = Mapping[str, np.ndarray]
"""The elements of a file as structured arrays."""


def num_clamped(gaussians: Gaussians) -> int:
    """Number of Gaussians whose log scales or SH coefficients are outside the range that is stored."""
    sizes, rest = gaussians.log_scales.abs() > MAX_LOG_SCALE, gaussians.sh[:, 1:].flatten(1).abs() > SH_LEVELS[-1]
    return int((sizes.any(dim=1) | rest.any(dim=1)).sum())


def morton_order(means: Float[Tensor, "num 3"]) -> Int[Tensor, " num"]:
    """Indices along a Z-order curve through the bounding box, whose neighbours are close together."""
    points = means.double().numpy()
    low, size = points.min(0), np.ptp(points, axis=0)
    cells = ((points - low) / np.where(size > 0, size, 1) * (2**_CELL_BITS - 1)).astype(np.uint64)
    codes = np.zeros(len(points), np.uint64)
    for bit in range(_CELL_BITS):
        for axis in range(3):
            codes |= (cells[:, axis] >> np.uint64(bit) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return torch.from_numpy(np.argsort(codes, kind="stable"))


def packed(gaussians: Gaussians) -> Elements:
    """The elements of a file of valid Gaussians, which are put in Morton order, so that ranges of chunks are small."""
    gaussians = gaussians.select(morton_order(gaussians.means))
    chunks: dict[str, np.ndarray] = {}
    log_scales = gaussians.log_scales.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE)
    position, scale, rgb = (
        _fractions_of(values.numpy(), names, chunks)
        for values, names in (
            (gaussians.means, _POSITION), (log_scales, _SCALE), (sh_to_rgb(gaussians.sh[:, 0]), _COLOR),
        )
    )  # fmt: skip
    rgba = np.concatenate([rgb, gaussians.opacities.double().numpy()[:, None]], axis=1)
    words = (
        _packed(position, 11, 10, 11),
        _quaternions(gaussians),
        _packed(scale, 11, 10, 11),
        _packed(rgba, 8, 8, 8, 8),
    )
    rest = gaussians.sh[:, 1:].mT.flatten(1).numpy()
    codes = np.searchsorted((SH_LEVELS[1:] + SH_LEVELS[:-1]) / 2, rest).astype("u1")
    elements = {
        "chunk": _table(chunks, "<f4"),
        "vertex": _table(dict(zip(WORDS, words, strict=True)), "<u4"),
        "sh": _table({f"f_rest_{number}": column for number, column in enumerate(codes.T)}, "u1"),
    }
    return {name: table for name, table in elements.items() if table.dtype.names}


def _table(columns: Mapping[str, np.ndarray], dtype: str) -> np.ndarray:
    table = np.empty(len(next(iter(columns.values()), ())), [(name, dtype) for name in columns])
    for name, values in columns.items():
        table[name] = values
    return table


def _fractions_of(values: np.ndarray, names: str, chunks: dict[str, np.ndarray]) -> np.ndarray:
    """Values as fractions of the ranges of their chunks, which are added to the columns of `chunk`."""
    starts = np.arange(0, len(values), SIZE)
    ends = {"min": np.minimum.reduceat(values, starts), "max": np.maximum.reduceat(values, starts)}
    for end, rows in ends.items():
        chunks.update(zip(names.format(end, end, end).split(), rows.T, strict=True))
    low, high = (ends[end].astype(float).repeat(SIZE, axis=0)[: len(values)] for end in ("min", "max"))
    return (values - low) / np.where(high > low, high - low, 1)


def _packed(fractions: np.ndarray, *bits: int) -> np.ndarray:
    """Words of fractions of these numbers of bits, the first in the highest."""
    words = np.zeros(len(fractions), np.uint32)
    for column, size in zip(fractions.T, bits, strict=True):
        words = words << np.uint32(size) | np.rint((2**size - 1) * column.clip(0, 1)).astype(np.uint32)
    return words


def _quaternions(gaussians: Gaussians) -> np.ndarray:
    wxyz = unit_quats(gaussians).double().numpy()
    rows, largest = np.arange(len(wxyz)), np.abs(wxyz).argmax(1)
    wxyz = wxyz * np.where(wxyz[rows, largest] < 0, -1, 1)[:, None]
    others = wxyz[np.arange(4) != largest[:, None]].reshape(-1, 3)
    return largest.astype(np.uint32) << np.uint32(30) | _packed(others / np.sqrt(2) + 0.5, 10, 10, 10)


def unpacked(file: Elements, num_rest: int) -> Gaussians:
    """The Gaussians of a file with `num_rest` properties in its element `sh`. Raises ValueError if it is incomplete."""
    vertices = file["vertex"]
    position, rotation, scale, color = (_words(vertices, name) for name in WORDS)
    chunks = _chunks(file, len(vertices))
    rgba = np.stack([color >> shift & 255 for shift in (24, 16, 8, 0)], 1) / 255
    rgb = rgba[:, :3]
    if "min_r" in (chunks.dtype.names or ()):
        rgb = _within(chunks, _COLOR, rgb)
    num = len(vertices)
    rest = np.zeros((num, 0)) if not num_rest else _rest(file, num, num_rest)
    harmonics = torch.from_numpy(rest).reshape(num, 3, num_rest // 3).mT
    constant = rgb_to_sh(torch.from_numpy(rgb))[:, None]
    return Gaussians(
        means=torch.from_numpy(_within(chunks, _POSITION, _fractions(position))).float(),
        log_scales=torch.from_numpy(_within(chunks, _SCALE, _fractions(scale))).float(),
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
    with np.errstate(all="ignore"):  # to NaN or infinity, which is invalid
        return low * (1 - fractions) + high * fractions


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
    codes = [rows[f"f_rest_{number}"] for number in range(num_rest)]
    if any(code.dtype != np.uint8 for code in codes):
        raise ValueError("its harmonics are not bytes")
    return SH_LEVELS[np.stack(codes, 1)]
