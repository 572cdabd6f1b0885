"""A Triton kernel for GPUs that finds the samples of rays outside empty cells. `nerf.py` does the same in torch."""

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

BLOCK = 256  # samples of a ray


@triton.jit
def _cell(center, ray, share, axis: tl.constexpr, index, box, cells):
    x = tl.load(center + 3 * index + axis) + tl.load(ray + 3 * index + axis) * share
    return tl.minimum(tl.maximum(((x / box + 1.0) / 2.0 * cells).to(tl.int32), 0), cells - 1)


@triton.jit
def _kernel(centers, rays, lengths, near, far, shift, occupied, found, steps, step, box, cells, BLOCK: tl.constexpr):
    ray = tl.program_id(0).to(tl.int64)
    sample = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    distance = tl.load(near + ray) + step * (sample.to(tl.float32) + tl.load(shift))
    is_inside = (distance < tl.load(far + ray)) & (sample < steps)
    share = distance / tl.load(lengths + ray)
    i = _cell(centers, rays, share, 0, ray, box, cells)
    j = _cell(centers, rays, share, 1, ray, box, cells)
    k = _cell(centers, rays, share, 2, ray, box, cells)
    is_occupied = tl.load(occupied + (i * cells + j) * cells + k, mask=is_inside, other=0)
    tl.store(found + ray * steps + sample, is_occupied, mask=sample < steps)


def occupied(
    centers: Float[Tensor, "rays 3"],
    rays: Float[Tensor, "rays 3"],
    lengths: Float[Tensor, " rays"],
    ends: tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]],
    samples: tuple[int, float, Float[Tensor, "1"]],
    cells: Bool[Tensor, "cells cells cells"],
    box: float,
) -> Bool[Tensor, "rays steps"]:
    """Which samples of rays are between their ends, in cells that are occupied.

    `samples`: number, step and shift. Positions are rounded once, so at the border of a cell the result may differ from
    torch's.
    """
    steps, step, shift = samples
    found = torch.empty(len(rays), steps, dtype=torch.uint8, device=rays.device)
    if len(rays):
        _kernel[len(rays), triton.cdiv(steps, BLOCK)](
            centers.contiguous(), rays, lengths, *ends, shift, cells.contiguous().view(torch.uint8), found,
            steps, step, box, len(cells), BLOCK=BLOCK,
        )  # fmt: skip
    return found.view(torch.bool)
