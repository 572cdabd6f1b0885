"""CPU backend: the kernels as two autograd functions, project and composite, run in parallel threads.

The number of threads is torch's (`torch.set_num_threads`, OMP_NUM_THREADS).
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sctd.render import cpu_projection as projection
from sctd.render import cpu_tiles as tiles
from sctd.render.contract import Rasterized, Splats
from sctd.scene.cameras import Cameras


def rasterize(
    splats: Splats, cameras: Cameras, backgrounds: Float[Tensor, "views channels"], *, antialiased: bool = False
) -> Rasterized:
    """Splat Gaussians into every camera.

    All tensors except the cameras' get gradients. Images and gradients are bit-identical for any number of threads,
    and a view does not depend on the other views of a call.
    """
    means, quats, scales, opacities, colors = splats
    means2d, depths, conics, compensations, extents = _Project.apply(
        means, quats, scales, opacities, cameras.world_to_camera, cameras.intrinsics, cameras, antialiased
    )
    if means2d.requires_grad:
        means2d.retain_grad()
    opacities = opacities * compensations if antialiased else opacities.expand(cameras.num, -1)
    bins = _bin(means2d, depths, extents, cameras)
    num_channels = colors.shape[-1]
    channels = torch.cat([colors, depths[..., None]], dim=-1)
    if padding := -channels.shape[-1] % tiles.CHANNELS:
        channels = torch.nn.functional.pad(channels, (0, padding))
    composites = [
        _Composite.apply(means2d, conics, extents, opacities, part, bins, cameras)
        for part in channels.split(tiles.CHANNELS, dim=-1)
    ]
    premultiplied = torch.cat([image for image, _ in composites], dim=1) if len(composites) > 1 else composites[0][0]
    transmittance = composites[0][1]
    image = premultiplied[:, :num_channels] + transmittance[:, None] * backgrounds[:, :, None, None]
    radii = extents.amax(dim=-1).ceil().int()
    return Rasterized(image, 1 - transmittance, premultiplied[:, num_channels], means2d, radii)


class _Project(torch.autograd.Function):
    """Gaussians → means2d, depths, conics, compensations and (without gradient) extents in every view."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        world_to_camera: Tensor,
        intrinsics: Tensor,
        cameras: Cameras,
        antialiased: bool,
    ) -> tuple[Tensor, ...]:
        num, views = means.shape[0], cameras.num
        shapes = (views, num, 2), (views, num), (views, num, 3), (views, num), (views, num, 2)
        outputs = tuple(torch.zeros(shape) for shape in shapes)
        *_, conics, compensations, extents = outputs
        inputs = arrays_of(means, quats, scales, opacities)
        matrices = (matrix.detach().double().contiguous().numpy() for matrix in (world_to_camera, intrinsics))
        view = *matrices, cameras.width, cameras.height
        run_all(in_parts(projection.project, num, *inputs, *view, antialiased, *arrays_of(*outputs)))
        ctx.save_for_backward(means, quats, scales, conics, compensations, extents)
        ctx.view = view
        ctx.mark_non_differentiable(extents)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *v_outputs: Tensor) -> tuple[Tensor | None, ...]:
        means, quats, scales, *projected = ctx.saved_tensors
        gradients = [torch.zeros(tensor.shape) for tensor in (means, quats, scales)]
        arguments = *arrays_of(means, quats, scales), *ctx.view, *arrays_of(*projected, *v_outputs[:4], *gradients)
        run_all(in_parts(projection.project_backward, means.shape[0], *arguments))
        return *gradients, None, None, None, None, None


class _Composite(torch.autograd.Function):
    """Four channels of every view, premultiplied by alpha, and the transmittance that remains for the background."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        extents: Tensor,
        opacities: Tensor,
        colors: Tensor,
        bins: list[tuple[np.ndarray, ...]],
        cameras: Cameras,
    ) -> tuple[Tensor, Tensor]:
        size = cameras.height, cameras.width
        image, transmittance = torch.empty(cameras.num, tiles.CHANNELS, *size), torch.empty(cameras.num, *size)
        stops = torch.empty_like(transmittance)
        arrays = arrays_of(means2d, conics, extents, opacities, colors, image, transmittance, stops)
        work = []
        for (tile_starts, gaussians, _, _), *view in zip(bins, *arrays, strict=True):
            work += in_parts(tiles.composite, tile_starts.size - 1, tile_starts, gaussians, *view, sharers=len(bins))
        run_all(work)
        ctx.save_for_backward(means2d, conics, extents, opacities, colors, transmittance, stops)
        ctx.bins = bins
        return image, transmittance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_image: Tensor, v_transmittance: Tensor) -> tuple[Tensor | None, ...]:
        means2d, conics, _, opacities, colors, *_ = ctx.saved_tensors
        sums = [np.zeros((gaussians.size, tiles.SLOT), np.float32) for _, gaussians, _, _ in ctx.bins]
        arrays = arrays_of(*ctx.saved_tensors, v_image, v_transmittance)
        work = []
        for (tile_starts, *lists, _), slots, *view in zip(ctx.bins, sums, *arrays, strict=True):
            arguments = tile_starts, *lists, *view, slots
            work += in_parts(tiles.composite_backward, tile_starts.size - 1, *arguments, sharers=len(ctx.bins))
        run_all(work)
        gradients = [torch.zeros(tensor.shape) for tensor in (means2d, conics, opacities, colors)]
        work = []
        for (*_, slot_starts), slots, *view in zip(
            ctx.bins, sums, *arrays_of(conics, opacities, *gradients), strict=True
        ):
            work += in_parts(tiles.gather, slot_starts.size - 1, slot_starts, slots, *view, sharers=len(ctx.bins))
        run_all(work)
        v_means2d, v_conics, v_opacities, v_colors = gradients
        return v_means2d, v_conics, None, v_opacities, v_colors, None, None


def _bin(means2d: Tensor, depths: Tensor, extents: Tensor, cameras: Cameras) -> list[tuple[np.ndarray, ...]]:
    """`bin_to_tiles` of every view: tile_starts, gaussians, slots, slot_starts."""
    bins: list[tuple[np.ndarray, ...]] = [()] * cameras.num

    def bin_view(view: int, *arrays: np.ndarray) -> None:
        bins[view] = tiles.bin_to_tiles(*arrays, cameras.width, cameras.height)

    views = zip(*arrays_of(means2d, depths, extents), strict=True)
    run_all([partial(bin_view, view, *arrays) for view, arrays in enumerate(views)])
    return bins


def arrays_of(*tensors: Tensor) -> list[np.ndarray]:
    """The tensors as contiguous float32 arrays, sharing memory if possible."""
    return [tensor.detach().float().contiguous().numpy() for tensor in tensors]


def in_parts(kernel: Callable[..., None], total: int, *arguments: object, sharers: int = 1) -> list[Callable[[], None]]:
    """Divide a kernel over 0 … total-1, finely enough that `sharers` such kernels together occupy every thread."""
    threads = torch.get_num_threads()
    num_parts = 1 if threads == 1 else max(1, min(total, 4 * threads // max(1, sharers)))
    edges = np.linspace(0, total, num_parts + 1).astype(int).tolist()
    return [partial(kernel, start, stop, *arguments) for start, stop in pairwise(edges)]


def run_all(work: list[Callable[[], None]]) -> None:
    threads = torch.get_num_threads()
    if threads == 1:
        for part in work:
            part()
    else:
        list(_pool(os.getpid(), threads).map(lambda part: part(), work))


@lru_cache(maxsize=1)
def _pool(process_id: int, threads: int) -> ThreadPoolExecutor:
    """One pool per process: a forked child does not inherit the threads of its parent."""
    return ThreadPoolExecutor(threads, thread_name_prefix="render_cpu")
