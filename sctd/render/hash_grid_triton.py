"""Triton kernels of `hash_grid.py` for GPUs: the encoding, its gradient on the table and its gradient on the positions.

A program handles a block of points and, but for positions, one level. Points add to the gradient on the table in no
fixed order, so its last bits differ from run to run. Products and sums are not fused, so that a position is placed in
its cell with torch's roundings. v_x denotes the gradient of the loss with respect to x.
"""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 256  # points
HASH_Y = tl.constexpr(2654435761 - 2**32)  # π₂ of Eq. 4 as a 32-bit integer with a sign; products have the same bits
HASH_Z = tl.constexpr(805459861)  # π₃


@triton.jit
def _along(positions, point, is_point, axis: tl.constexpr, cells):
    """The cell of points along an axis, their place in it (NaN for NaN), and whether they are in [0, 1]."""
    x = tl.load(positions + 3 * point + axis, mask=is_point, other=0.0)
    scaled = tl.minimum(tl.maximum(tl.where(x == x, x, 0.0), 0.0), 1.0) * cells
    cell = tl.minimum(scaled.to(tl.int32), cells - 1)
    return cell, tl.where(x == x, scaled - cell, x), (x >= 0.0) & (x <= 1.0)


@triton.jit
def _entry(x, y, z, corner: tl.constexpr, cells, first, mask):
    """The entries of a corner of cells, dense or hashed (Eq. 4). Corner c is at x + (c & 1), y + (c >> 1 & 1), …"""
    x, y, z = x + (corner & 1), y + (corner >> 1 & 1), z + (corner >> 2)
    row = cells + 1
    entry = tl.where(mask == 0, x + row * (y + row * z), (x ^ (y * HASH_Y) ^ (z * HASH_Z)) & mask)
    return (first + entry).to(tl.int64)


@triton.jit
def _share(fraction, is_far: tl.constexpr):
    return fraction if is_far else 1.0 - fraction


@triton.jit
def _encode_kernel(table, positions, grid, encoding, num, FEATURES: tl.constexpr, BLOCK: tl.constexpr):
    level, levels = tl.program_id(1), tl.num_programs(1)
    point = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    is_point = point < num
    cells, first, mask = tl.load(grid + 3 * level), tl.load(grid + 3 * level + 1), tl.load(grid + 3 * level + 2)
    x, u, _ = _along(positions, point, is_point, 0, cells)
    y, v, _ = _along(positions, point, is_point, 1, cells)
    z, w, _ = _along(positions, point, is_point, 2, cells)
    for k in tl.static_range(FEATURES):
        value = tl.zeros([BLOCK], tl.float32)
        for corner in tl.static_range(8):
            weight = _share(u, corner & 1) * _share(v, corner >> 1 & 1) * _share(w, corner >> 2)
            entry = _entry(x, y, z, corner, cells, first, mask)
            value += weight * tl.load(table + entry * FEATURES + k, mask=is_point, other=0.0)
        tl.store(encoding + (point * levels + level) * FEATURES + k, value, mask=is_point)


@triton.jit
def _table_kernel(positions, grid, v_encoding, v_table, num, FEATURES: tl.constexpr, BLOCK: tl.constexpr):
    level, levels = tl.program_id(1), tl.num_programs(1)
    point = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    is_point = point < num
    cells, first, mask = tl.load(grid + 3 * level), tl.load(grid + 3 * level + 1), tl.load(grid + 3 * level + 2)
    x, u, _ = _along(positions, point, is_point, 0, cells)
    y, v, _ = _along(positions, point, is_point, 1, cells)
    z, w, _ = _along(positions, point, is_point, 2, cells)
    for k in tl.static_range(FEATURES):
        slope = tl.load(v_encoding + (point * levels + level) * FEATURES + k, mask=is_point, other=0.0)
        for corner in tl.static_range(8):
            weight = _share(u, corner & 1) * _share(v, corner >> 1 & 1) * _share(w, corner >> 2)
            entry = _entry(x, y, z, corner, cells, first, mask)
            tl.atomic_add(v_table + entry * FEATURES + k, weight * slope, mask=is_point, sem="relaxed")


@triton.jit
def _positions_kernel(
    table, positions, grid, v_encoding, v_positions, num, levels, FEATURES: tl.constexpr, BLOCK: tl.constexpr
):
    point = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    is_point = point < num
    along_x, along_y = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    along_z = tl.zeros([BLOCK], tl.float32)
    for level in range(levels):
        cells, first, mask = tl.load(grid + 3 * level), tl.load(grid + 3 * level + 1), tl.load(grid + 3 * level + 2)
        x, u, _ = _along(positions, point, is_point, 0, cells)
        y, v, _ = _along(positions, point, is_point, 1, cells)
        z, w, _ = _along(positions, point, is_point, 2, cells)
        for corner in tl.static_range(8):
            entry = _entry(x, y, z, corner, cells, first, mask)
            dot = tl.zeros([BLOCK], tl.float32)
            for k in tl.static_range(FEATURES):
                slope = tl.load(v_encoding + (point * levels + level) * FEATURES + k, mask=is_point, other=0.0)
                dot += slope * tl.load(table + entry * FEATURES + k, mask=is_point, other=0.0)
            dot *= cells
            a, b, c = _share(u, corner & 1), _share(v, corner >> 1 & 1), _share(w, corner >> 2)
            along_x += (2 * (corner & 1) - 1) * b * c * dot
            along_y += (2 * (corner >> 1 & 1) - 1) * a * c * dot
            along_z += (2 * (corner >> 2) - 1) * a * b * dot
    _, _, is_inside_x = _along(positions, point, is_point, 0, 1)
    _, _, is_inside_y = _along(positions, point, is_point, 1, 1)
    _, _, is_inside_z = _along(positions, point, is_point, 2, 1)
    tl.store(v_positions + 3 * point, tl.where(is_inside_x, along_x, 0.0), mask=is_point)
    tl.store(v_positions + 3 * point + 1, tl.where(is_inside_y, along_y, 0.0), mask=is_point)
    tl.store(v_positions + 3 * point + 2, tl.where(is_inside_z, along_z, 0.0), mask=is_point)


@lru_cache(maxsize=16)
def _on_device(rows: tuple[tuple[int, int, int], ...], device: torch.device) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32, device=device)


class Encode(torch.autograd.Function):
    """`encode` of float32 on a GPU. `rows`: of each level the cells along an edge, the first entry, and T - 1 or 0."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, positions: Tensor, rows: tuple[tuple[int, int, int], ...]) -> Tensor:
        table, positions, grid = table.contiguous(), positions.contiguous(), _on_device(rows, table.device)
        num, features = len(positions), table.shape[1]
        encoding = table.new_empty(num, len(rows) * features)
        if num:
            _encode_kernel[(triton.cdiv(num, BLOCK), len(rows))](
                table, positions, grid, encoding, num, FEATURES=features, BLOCK=BLOCK, enable_fp_fusion=False
            )
        ctx.save_for_backward(table, positions, grid)
        return encoding

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_encoding: Tensor) -> tuple[Tensor | None, ...]:
        table, positions, grid = ctx.saved_tensors
        v_encoding, num, features = v_encoding.contiguous(), len(positions), table.shape[1]
        blocks, options = triton.cdiv(num, BLOCK), {"FEATURES": features, "BLOCK": BLOCK, "enable_fp_fusion": False}
        v_table = torch.zeros_like(table) if ctx.needs_input_grad[0] else None
        v_positions = torch.zeros_like(positions) if ctx.needs_input_grad[1] else None
        if num and v_table is not None:
            _table_kernel[blocks, len(grid)](positions, grid, v_encoding, v_table, num, **options)
        if num and v_positions is not None:
            _positions_kernel[(blocks,)](table, positions, grid, v_encoding, v_positions, num, len(grid), **options)
        return v_table, v_positions, None
