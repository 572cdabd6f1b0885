"""Triton kernels for GroupNorm + SiLU on channels-last feature maps: two passes forward, two backward.

A feature map is pixels × channels here, its memory layout. torch and its compiler read the few channels of a group
pixel by pixel (8 bytes of every 256 with 128 channels in 32 groups). These kernels read whole rows, sum each channel
and combine channels to groups afterwards. The order of summation is fixed: equal inputs give equal bits.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

PIXELS = 32  # per tile
SUMMED, WITH_GRADIENT = (16, 1056), (8, 2112)  # pixels per step and number of programs of the sums; tuned on an H200
MAX_CHUNKS = 512


class Affine(NamedTuple):
    """GroupNorm as an affine map per channel, u = scale x + shift, and the statistics per group for its derivative."""

    scale: Float[Tensor, "batch channels"]
    shift: Float[Tensor, "batch channels"]
    mean: Float[Tensor, "batch groups"]
    inverse_deviation: Float[Tensor, "batch groups"]


def affine(x: Tensor, weight: Tensor, bias: Tensor, offset: Tensor | None, groups: int, eps: float) -> Affine:
    """GroupNorm of x + offset; `offset` (batch × channels) is free: the sums of x + d follow from those of x."""
    batch, channels, height, width = x.shape
    sums, tiles = _sums(x, None, None, silu=False)
    options: dict[str, Any] = {"device": x.device, "dtype": torch.float32}
    scale, shift = torch.empty(2, batch, channels, **options).unbind()
    mean, inverse_deviation = torch.empty(2, batch, groups, **options).unbind()
    _affine_kernel[(batch, groups)](
        sums, weight, bias, offset, _stride(offset), scale, shift, mean, inverse_deviation,
        height * width, channels, tiles.chunks, eps,
        GROUP=channels // groups, GROUP_BLOCK=triton.next_power_of_2(channels // groups),
        CHUNK_BLOCK=triton.next_power_of_2(tiles.chunks), HAS_OFFSET=offset is not None,
    )  # fmt: skip
    return Affine(scale, shift, mean, inverse_deviation)


def apply(x: Tensor, scale: Tensor, shift: Tensor, *, silu: bool) -> Tensor:
    """silu(scale x + shift), or scale x + shift without `silu`, in the memory layout of x."""
    y = torch.empty_like(x)
    tiles = _Tiles.of(x)
    _apply_kernel[(x.shape[0], triton.cdiv(tiles.pixels, PIXELS), tiles.blocks)](
        x, scale, shift, y, tiles.pixels, tiles.channels, SILU=silu, PIXELS=PIXELS, BLOCK=tiles.block
    )
    return y


def input_gradient(
    x: Tensor, dy: Tensor, forward: Affine, weight: Tensor, offset: Tensor | None, *, silu: bool, added: Tensor | None
) -> Tensor:
    """∂L/∂x of `apply(x, …)` whose gradient is `dy`, plus `added` if given: the gradient of the skip path.

    `dy` and `added` may have one more row and column than x, which are not read.
    """
    batch, groups = forward.mean.shape
    sums, tiles = _sums(x, dy, forward, silu=silu)
    slope, constant = torch.empty(2, batch, tiles.channels, device=x.device, dtype=torch.float32).unbind()
    _gradient_kernel[(batch, groups)](
        sums, weight, offset, _stride(offset), forward.mean, forward.inverse_deviation, slope, constant,
        tiles.pixels, tiles.channels, tiles.chunks,
        GROUP=tiles.channels // groups, GROUP_BLOCK=triton.next_power_of_2(tiles.channels // groups),
        CHUNK_BLOCK=triton.next_power_of_2(tiles.chunks), HAS_OFFSET=offset is not None,
    )  # fmt: skip
    dx = torch.empty_like(x)
    _input_gradient_kernel[(batch, triton.cdiv(tiles.pixels, PIXELS), tiles.blocks)](
        x, dy, forward.scale, forward.shift, slope, constant, added, dx, tiles.pixels, x.shape[3], tiles.channels,
        SILU=silu, HAS_ADDED=added is not None, DY_EXTRA=_extra(dy, x), ADDED_EXTRA=_extra(added, x),
        PIXELS=PIXELS, BLOCK=tiles.block,
    )  # fmt: skip
    return dx


def add(x: Tensor, y: Tensor, bias: Tensor, *, padded: bool = False) -> Tensor:
    """x + y + bias in one pass; `bias` has one value per channel. If `padded`, with a last row and column of zeros."""
    batch, channels, height, width = x.shape
    out = torch.empty(
        batch, channels, height + padded, width + padded,
        device=x.device, dtype=x.dtype, memory_format=torch.channels_last,
    )  # fmt: skip
    tiles = _Tiles.of(x)
    _add_kernel[(x.shape[0], triton.cdiv(tiles.pixels, PIXELS), tiles.blocks)](
        x, y, bias, out, tiles.pixels, width, tiles.channels, OUT_EXTRA=int(padded), PIXELS=PIXELS, BLOCK=tiles.block
    )
    return without_padding(out) if padded else out


def without_padding(x: Tensor) -> Tensor:
    """x, whose last row and column are set to 0."""
    x[:, :, -1].zero_()
    x[:, :, :, -1].zero_()
    return x


def _extra(dy: Tensor | None, x: Tensor) -> int:
    """Rows and columns that `dy` has in addition to those of x: 0 or 1."""
    return 0 if dy is None else dy.shape[3] - x.shape[3]


def _stride(offset: Tensor | None) -> int:
    """Elements from one sample's offsets to the next: 0 if all samples have those of the first (`expand`)."""
    return 0 if offset is None else offset.stride(0)


class _Tiles(NamedTuple):
    """Tiling: `chunks` runs of pixels are summed separately, in `blocks` blocks of `block` channels."""

    pixels: int
    channels: int
    block: int
    blocks: int
    chunks: int

    @staticmethod
    def of(x: Tensor, pixels_at_once: int = PIXELS, programs: int = 1) -> "_Tiles":
        batch, channels, height, width = x.shape
        block = 128 if channels % 128 == 0 else 64
        blocks = triton.cdiv(channels, block)
        limit = min(MAX_CHUNKS, triton.cdiv(height * width, pixels_at_once))
        return _Tiles(height * width, channels, block, blocks, max(1, min(limit, programs // (batch * blocks))))


def _sums(x: Tensor, dy: Tensor | None, forward: Affine | None, *, silu: bool) -> tuple[Tensor, _Tiles]:
    """Per sample, chunk and channel: Σ x and Σ x², or with a gradient dy, Σ g and Σ g x for g = dy silu'(u)."""
    at_once, programs = SUMMED if dy is None else WITH_GRADIENT
    tiles = _Tiles.of(x, at_once, programs)
    sums = torch.empty(2, x.shape[0], tiles.chunks, tiles.channels, device=x.device, dtype=torch.float32)
    span = triton.cdiv(triton.cdiv(tiles.pixels, tiles.chunks), at_once) * at_once
    scale, shift = (None, None) if forward is None else forward[:2]
    _sums_kernel[(x.shape[0], tiles.chunks, tiles.blocks)](
        x, dy, scale, shift, sums, tiles.pixels, x.shape[3], tiles.channels, span,
        HAS_GRADIENT=dy is not None, SILU=silu, DY_EXTRA=_extra(dy, x), PIXELS=at_once, BLOCK=tiles.block,
    )  # fmt: skip
    return sums, tiles


@triton.jit
def _through_silu(dy, u):
    """dy silu'(u)."""
    sigmoid = tl.sigmoid(u)
    return dy * sigmoid * (1 + u * (1 - sigmoid))


@triton.jit
def _place(sample, pixel, channel, pixels, width, channels, EXTRA: tl.constexpr):
    """Elements before each pixel and channel of a feature map with EXTRA more rows and columns."""
    if EXTRA:
        pixel = pixel + pixel // width * EXTRA
        pixels = (pixels // width + EXTRA) * (width + EXTRA)
    return sample.to(tl.int64) * pixels * channels + pixel[:, None] * channels + channel[None, :]


@triton.jit
def _sums_kernel(
    x, dy, scale, shift, sums, pixels, width, channels, span,
    HAS_GRADIENT: tl.constexpr, SILU: tl.constexpr, DY_EXTRA: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample, chunk = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    first = tl.zeros([PIXELS, BLOCK], tl.float32)
    second = tl.zeros([PIXELS, BLOCK], tl.float32)
    if HAS_GRADIENT:
        a = tl.load(scale + sample * channels + channel, mask=inside, other=0.0)[None, :]
        b = tl.load(shift + sample * channels + channel, mask=inside, other=0.0)[None, :]
    for at in range(chunk * span, (chunk + 1) * span, PIXELS):
        pixel = at + tl.arange(0, PIXELS)
        mask = (pixel < pixels)[:, None] & inside[None, :]
        place = _place(sample, pixel, channel, pixels, width, channels, 0)
        value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        if HAS_GRADIENT:
            place = _place(sample, pixel, channel, pixels, width, channels, DY_EXTRA)
            gradient = tl.load(dy + place, mask=mask, other=0.0).to(tl.float32)
            if SILU:
                gradient = _through_silu(gradient, value * a + b)
            first += gradient
            second += gradient * value
        else:
            first += value
            second += value * value
    place = (sample * tl.num_programs(1) + chunk) * channels + channel
    whole = tl.num_programs(0) * tl.num_programs(1) * channels
    tl.store(sums + place, tl.sum(first, 0), mask=inside)
    tl.store(sums + whole + place, tl.sum(second, 0), mask=inside)


@triton.jit
def _channel_sums(sums, channels, chunks, channel, inside, CHUNK_BLOCK: tl.constexpr):
    """Both sums of the given channels of this program's sample, over all chunks."""
    sample = tl.program_id(0)
    chunk = tl.arange(0, CHUNK_BLOCK)
    place = (sample * chunks + chunk)[:, None] * channels + channel[None, :]
    mask = (chunk < chunks)[:, None] & inside[None, :]
    whole = tl.num_programs(0) * chunks * channels
    first = tl.sum(tl.load(sums + place, mask=mask, other=0.0), 0)
    return first, tl.sum(tl.load(sums + whole + place, mask=mask, other=0.0), 0)


@triton.jit
def _affine_kernel(
    sums, weight, bias, offset, offset_stride, scale, shift, means, inverse_deviations, pixels, channels, chunks, eps,
    GROUP: tl.constexpr, GROUP_BLOCK: tl.constexpr, CHUNK_BLOCK: tl.constexpr, HAS_OFFSET: tl.constexpr,
):  # fmt: skip
    sample, group = tl.program_id(0), tl.program_id(1)
    inside = tl.arange(0, GROUP_BLOCK) < GROUP
    channel = group * GROUP + tl.arange(0, GROUP_BLOCK)
    first, second = _channel_sums(sums, channels, chunks, channel, inside, CHUNK_BLOCK)
    added = tl.zeros([GROUP_BLOCK], tl.float32)
    if HAS_OFFSET:
        added = tl.load(offset + sample * offset_stride + channel, mask=inside, other=0.0).to(tl.float32)
    count = pixels * GROUP
    mean = tl.sum(first + pixels * added, 0) / count
    # Σ (x + d - mean)², centred per channel, so that large means cancel before squaring
    center = first / pixels
    within = second - first * center
    apart = tl.where(inside, center + added - mean, 0.0)
    variance = tl.sum(within + pixels * apart * apart, 0) / count
    inverse_deviation = 1 / tl.sqrt(variance + eps)
    a = inverse_deviation * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32) + a * (added - mean)
    tl.store(scale + sample * channels + channel, a, mask=inside)
    tl.store(shift + sample * channels + channel, b, mask=inside)
    tl.store(means + sample * tl.num_programs(1) + group, mean)
    tl.store(inverse_deviations + sample * tl.num_programs(1) + group, inverse_deviation)


@triton.jit
def _gradient_kernel(
    sums, weight, offset, offset_stride, means, inverse_deviations, slope, constant, pixels, channels, chunks,
    GROUP: tl.constexpr, GROUP_BLOCK: tl.constexpr, CHUNK_BLOCK: tl.constexpr, HAS_OFFSET: tl.constexpr,
):  # fmt: skip
    """∂L/∂x = scale g + slope x + constant; slope and constant are the gradients through deviation and mean."""
    sample, group = tl.program_id(0), tl.program_id(1)
    inside = tl.arange(0, GROUP_BLOCK) < GROUP
    channel = group * GROUP + tl.arange(0, GROUP_BLOCK)
    first, second = _channel_sums(sums, channels, chunks, channel, inside, CHUNK_BLOCK)
    added = tl.zeros([GROUP_BLOCK], tl.float32)
    if HAS_OFFSET:
        added = tl.load(offset + sample * offset_stride + channel, mask=inside, other=0.0).to(tl.float32)
    mean = tl.load(means + sample * tl.num_programs(1) + group)
    inverse = tl.load(inverse_deviations + sample * tl.num_programs(1) + group)
    gain = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    count = pixels * GROUP
    through_mean = tl.sum(gain * first, 0) / count
    through_deviation = tl.sum(gain * inverse * (second + (added - mean) * first), 0) / count
    p = -inverse * inverse * through_deviation
    tl.store(slope + sample * channels + channel, tl.zeros([GROUP_BLOCK], tl.float32) + p, mask=inside)
    tl.store(constant + sample * channels + channel, p * (added - mean) - inverse * through_mean, mask=inside)


@triton.jit
def _apply_kernel(x, scale, shift, y, pixels, channels, SILU: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr):
    sample = tl.program_id(0)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    mask = (pixel < pixels)[:, None] & inside[None, :]
    place = _place(sample, pixel, channel, pixels, 1, channels, 0)
    a = tl.load(scale + sample * channels + channel, mask=inside, other=0.0)[None, :]
    b = tl.load(shift + sample * channels + channel, mask=inside, other=0.0)[None, :]
    u = tl.load(x + place, mask=mask, other=0.0).to(tl.float32) * a + b
    if SILU:
        u = u * tl.sigmoid(u)
    tl.store(y + place, u.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _input_gradient_kernel(
    x, dy, scale, shift, slope, constant, added, dx, pixels, width, channels, SILU: tl.constexpr,
    HAS_ADDED: tl.constexpr, DY_EXTRA: tl.constexpr, ADDED_EXTRA: tl.constexpr,
    PIXELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(0)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    mask = (pixel < pixels)[:, None] & inside[None, :]
    place = _place(sample, pixel, channel, pixels, 1, channels, 0)
    row = sample * channels + channel
    a = tl.load(scale + row, mask=inside, other=0.0)[None, :]
    value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    dy_place = _place(sample, pixel, channel, pixels, width, channels, DY_EXTRA)
    gradient = tl.load(dy + dy_place, mask=mask, other=0.0).to(tl.float32)
    if SILU:
        gradient = _through_silu(gradient, value * a + tl.load(shift + row, mask=inside, other=0.0)[None, :])
    p = tl.load(slope + row, mask=inside, other=0.0)[None, :]
    result = a * gradient + p * value + tl.load(constant + row, mask=inside, other=0.0)[None, :]
    if HAS_ADDED:
        added_place = _place(sample, pixel, channel, pixels, width, channels, ADDED_EXTRA)
        result += tl.load(added + added_place, mask=mask, other=0.0).to(tl.float32)
    tl.store(dx + place, result.to(dx.dtype.element_ty), mask=mask)


@triton.jit
def _add_kernel(
    x, y, bias, out, pixels, width, channels, OUT_EXTRA: tl.constexpr, PIXELS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    sample = tl.program_id(0)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = channel < channels
    mask = (pixel < pixels)[:, None] & inside[None, :]
    place = _place(sample, pixel, channel, pixels, 1, channels, 0)
    total = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    total += tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
    total += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    out_place = _place(sample, pixel, channel, pixels, width, channels, OUT_EXTRA)
    tl.store(out + out_place, total.to(out.dtype.element_ty), mask=mask)
