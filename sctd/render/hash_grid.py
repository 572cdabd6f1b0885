"""Multiresolution hash encoding of positions: Müller et al. 2022, "Instant Neural Graphics Primitives", Sec. 3.

In float32 the kernels of `hash_grid_cpu` and, on GPUs, `hash_grid_triton` compute the encoding and its first
derivatives. Other dtypes, and GPUs without triton, use torch. Measured for 150,000 random positions and
Levels(8, 16, 128, 14, 2) on one thread of a shared Xeon, fastest run, kernels against torch: forward 15 and 580 ms;
backward 19 and 120 ms for the table alone, 37 and 510 ms for table and positions.
"""

import importlib.util
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sctd.errors import SctdError
from sctd.render import hash_grid_cpu as kernels
from sctd.render.cpu_autograd import arrays_of, in_parts, run_all


class Levels(NamedTuple):
    """The grids of an encoding. The entries of all levels are stored in one table, level by level."""

    count: int  # type: ignore[assignment]  # L; hides the method of tuples
    coarsest: int  # N_min, cells along an edge of the unit cube at the first level
    finest: int  # N_max, at the last level
    log2_entries: int  # log2 T; a level has at most T entries
    features: int  # F, numbers per entry

    def resolutions(self) -> tuple[int, ...]:
        """N_l, the cells along an edge at every level (Eq. 2 and 3), in exact arithmetic."""
        return tuple(self._resolution(level) for level in range(self.count))

    def _resolution(self, level: int) -> int:
        last = max(1, self.count - 1)
        nearest = round(self.coarsest * (self.finest / self.coarsest) ** (level / last))
        # N_l ≤ N_min b^l, to the power of L - 1.
        not_above = nearest**last <= self.coarsest ** (last - level) * self.finest**level
        return nearest if not_above else nearest - 1

    def sizes(self) -> tuple[int, ...]:
        """Entries of every level: one per corner, or T if that is less. Then corners share entries by a hash."""
        return tuple(min((cells + 1) ** 3, 2**self.log2_entries) for cells in self.resolutions())

    @property
    def width(self) -> int:
        """Numbers per encoded position."""
        return self.count * self.features

    @property
    def entries(self) -> int:
        """Entries of the table."""
        return sum(self.sizes())


def encode(
    table: Float[Tensor, "entries features"], positions: Float[Tensor, "num 3"], levels: Levels
) -> Float[Tensor, "num width"]:
    """Interpolate the table trilinearly at every level and concatenate the levels' features.

    Positions are clamped to [0, 1]³. The result has a gradient in the table and in the positions, and in float32 no
    second derivatives. On the CPU its bits do not depend on the number of threads; on a GPU the gradient on the table
    differs in its last bits from run to run.
    """
    _check(table, levels)
    if {table.dtype, positions.dtype} != {torch.float32} or table.device != positions.device:
        return encode_reference(table, positions, levels)
    if table.device.type == "cpu":
        return _Encode.apply(table, positions, levels)
    if table.device.type == "cuda" and has_triton():
        from sctd.render.hash_grid_triton import Encode

        return Encode.apply(table, positions, _rows(levels))
    return encode_reference(table, positions, levels)


@cache
def has_triton() -> bool:
    """Whether the kernels for GPUs can be compiled."""
    return importlib.util.find_spec("triton") is not None


def encode_reference(
    table: Float[Tensor, "entries features"], positions: Float[Tensor, "num 3"], levels: Levels
) -> Float[Tensor, "num width"]:
    """`encode` by torch, on any device, in any dtype and with second derivatives."""
    _check(table, levels)
    # Unlike torch's clamp in some versions, this has the inner slope at 0 and 1, like the kernels.
    clamped = positions.masked_fill(positions < 0, 0).masked_fill(positions > 1, 1)
    outputs, first = [], 0
    corners = torch.arange(8, device=positions.device)[:, None] >> torch.arange(3, device=positions.device) & 1
    for cells, size in zip(levels.resolutions(), levels.sizes(), strict=True):
        scaled = clamped * cells
        cell = scaled.detach().long().clamp(0, cells - 1)
        fraction = (scaled - cell)[:, None]
        x, y, z = torch.where(corners == 1, fraction, 1 - fraction).unbind(-1)
        entries = first + _entries(cell[:, None] + corners, cells, size)
        values = table.index_select(0, entries.flatten()).view(*entries.shape, levels.features)
        outputs.append(((x * y * z)[..., None] * values).sum(dim=1))
        first += size
    return torch.cat(outputs, dim=-1)


def _entries(corners: Tensor, cells: int, size: int) -> Tensor:
    """The entries of integer corners [..., 3] of one level, dense or hashed (Eq. 4)."""
    x, y, z = corners.unbind(-1)
    if size == (cells + 1) ** 3:
        return x + (cells + 1) * (y + (cells + 1) * z)
    # The size is a power of two, so the modulus keeps low bits, and those do not depend on the width of the integers.
    return (x ^ y * kernels.HASH_Y ^ z * kernels.HASH_Z) & (size - 1)


def _check(table: Tensor, levels: Levels) -> None:
    if table.shape != (levels.entries, levels.features):
        found, expected = " × ".join(map(str, table.shape)), f"{levels.entries} × {levels.features}"
        raise SctdError(f"The hash table is {found}, but its levels need {expected} (entries × features).")


@lru_cache(maxsize=16)
def _rows(levels: Levels) -> tuple[tuple[int, int, int], ...]:
    """What the kernels know of every level: cells along an edge, first entry, and size - 1 if hashed, else 0."""
    rows, first = [], 0
    for cells, size in zip(levels.resolutions(), levels.sizes(), strict=True):
        rows.append((cells, first, 0 if size == (cells + 1) ** 3 else size - 1))
        first += size
    return tuple(rows)


@lru_cache(maxsize=16)
def _grid(levels: Levels) -> np.ndarray:
    return np.array(_rows(levels))


class _Encode(torch.autograd.Function):
    """The kernels. Points are divided over threads, and levels for the gradient on the table."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, positions: Tensor, levels: Levels) -> Tensor:
        encoding = torch.empty(positions.shape[0], levels.width)
        flat, points, output = arrays_of(table.flatten(), positions, encoding)
        run_all(in_parts(kernels.encode, len(points), flat, points, _grid(levels), (0,) * levels.features, output))
        ctx.save_for_backward(table, positions)
        ctx.levels = levels
        return encoding

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_encoding: Tensor) -> tuple[Tensor | None, ...]:
        table, positions = ctx.saved_tensors
        levels: Levels = ctx.levels
        flat, points, v_output = arrays_of(table.flatten(), positions, v_encoding)
        inputs = points, _grid(levels), (0,) * levels.features, v_output
        v_table = v_positions = None
        work = []
        if ctx.needs_input_grad[0]:
            v_table = torch.zeros(table.shape)
            work += in_parts(kernels.table_backward, levels.count, *inputs, v_table.view(-1).numpy())
        if ctx.needs_input_grad[1]:
            v_positions = torch.zeros(positions.shape)
            work += in_parts(kernels.positions_backward, len(points), flat, *inputs, v_positions.numpy())
        run_all(work)
        return v_table, v_positions, None
