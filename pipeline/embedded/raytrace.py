"""The renderer of the embedded world: pictures and surface points of many scenes at once, on the CPU or on a GPU.

What a ray sees is in `rays.py`, one source for both. Here are the loops around it: numba threads over picture lines on
the CPU; on a GPU one block per picture, its scene in shared memory, tensors handed over in place.
"""

import functools
from typing import Any

import numba
import torch

from pipeline.embedded.objects import PRIM
from pipeline.embedded.rays import CAM, draw_pixel, draw_surface_point

MAX_PRIMITIVES = 64  # of one scene: what a CUDA block keeps in shared memory
THREADS = 256  # per CUDA block; one block draws one picture
TILE = 8  # pixels: neighbouring threads draw neighbouring pixels


@numba.njit(cache=True, fastmath=True, error_model="numpy", parallel=True)
def draw_on_cpu(rows, starts, counts, scene_index, cameras, samples, pictures):
    size = pictures.shape[2]
    for line in numba.prange(pictures.shape[0] * size):
        image, row = line // size, line % size
        scene = scene_index[image]
        start, count = starts[scene], counts[scene]
        for column in range(size):
            draw_pixel(rows[start : start + count], count, cameras[image], column, row, size, samples, pictures[image])


@numba.njit(cache=True, fastmath=True, error_model="numpy", parallel=True)
def sample_on_cpu(rows, starts, counts, seed, points):
    per_scene = points.shape[1]
    for scene in numba.prange(points.shape[0]):
        start, count = starts[scene], counts[scene]
        for k in range(per_scene):
            draw_surface_point(rows[start : start + count], count, seed + scene * per_scene + k, points[scene, k])


@functools.cache
def cuda_kernels() -> tuple[Any, Any]:
    """The two kernels for CUDA: pictures and surface points. Imports numba.cuda, so only when a GPU is asked for."""
    from numba import cuda

    numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = False  # one picture is a block, however few there are

    @cuda.jit(fastmath=True)
    def draw(rows, starts, counts, scene_index, cameras, samples, pictures):
        prims = cuda.shared.array((MAX_PRIMITIVES, PRIM), numba.float32)
        camera = cuda.shared.array(CAM, numba.float32)
        image, thread = cuda.blockIdx.x, cuda.threadIdx.x
        scene = scene_index[image]
        start, count = starts[scene], numba.int64(counts[scene])
        if count > MAX_PRIMITIVES:
            count = MAX_PRIMITIVES
        for k in range(thread, count * PRIM, THREADS):
            prims[k // PRIM, k % PRIM] = rows[start + k // PRIM, k % PRIM]
        if thread < CAM:
            camera[thread] = cameras[image, thread]
        cuda.syncthreads()
        size = pictures.shape[2]
        tiles = (size + TILE - 1) // TILE
        for k in range(thread, tiles * tiles * TILE * TILE, THREADS):
            tile, inside = k // (TILE * TILE), k % (TILE * TILE)
            column, row = (tile % tiles) * TILE + inside % TILE, (tile // tiles) * TILE + inside // TILE
            if column < size and row < size:
                draw_pixel(prims, count, camera, column, row, size, samples, pictures[image])

    @cuda.jit(fastmath=True)
    def sample(rows, starts, counts, seed, points):
        prims = cuda.shared.array((MAX_PRIMITIVES, PRIM), numba.float32)
        scene, thread = cuda.blockIdx.x, cuda.threadIdx.x
        start, count = starts[scene], numba.int64(counts[scene])
        if count > MAX_PRIMITIVES:
            count = MAX_PRIMITIVES
        for k in range(thread, count * PRIM, THREADS):
            prims[k // PRIM, k % PRIM] = rows[start + k // PRIM, k % PRIM]
        cuda.syncthreads()
        per_scene = points.shape[1]
        for k in range(thread, per_scene, THREADS):
            draw_surface_point(prims, count, seed + scene * per_scene + k, points[scene, k])

    return draw, sample


def _launch(kernel: Any, blocks: int, *arguments: Any) -> None:
    """Run a CUDA kernel on torch's current stream; tensors are handed over in place, never copied."""
    from numba import cuda

    handle = torch.cuda.current_stream().cuda_stream
    stream = cuda.external_stream(handle) if handle else cuda.default_stream()
    handed = [cuda.as_cuda_array(a, sync=False) if isinstance(a, torch.Tensor) else a for a in arguments]
    kernel[blocks, THREADS, stream](*handed)


def _table(rows: Any, starts: Any, counts: Any, device: torch.device) -> list[torch.Tensor]:
    if not (isinstance(counts, torch.Tensor) and counts.is_cuda) and len(counts) and int(max(counts)) > MAX_PRIMITIVES:
        raise ValueError(f"a scene has {int(max(counts))} primitives; the renderer takes at most {MAX_PRIMITIVES}")
    if rows.shape[1] != PRIM:
        raise ValueError(f"scene rows have {rows.shape[1]} numbers; expected {PRIM} (see pipeline/embedded/objects.py)")
    return [
        _on(rows, torch.float32, device),
        _on(starts, torch.int32, device),
        _on(counts, torch.int32, device),
    ]


def _on(array: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(array).to(device=device, dtype=dtype).contiguous()


def render(
    rows: Any,
    starts: Any,
    counts: Any,
    scene_index: Any,
    cameras: Any,
    size: int = 64,
    samples: int = 2,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Pictures of scenes: torch.uint8 [n, 3, size, size] on `device`.

    `rows` [P, PRIM] holds the primitives of all scenes, scene k in rows starts[k] .. starts[k] + counts[k];
    `scene_index` [n] and `cameras` [n, CAM] say what each picture shows. Arrays or tensors; those already on the device
    are used in place. samples x samples rays a pixel. ValueError: rows of the wrong width, or a scene too large.
    """
    device = torch.device(device)
    table = _table(rows, starts, counts, device)
    scene_index, cameras = _on(scene_index, torch.int32, device), _on(cameras, torch.float32, device)
    pictures = torch.empty(len(cameras), 3, size, size, dtype=torch.uint8, device=device)
    if not len(pictures):
        return pictures
    if device.type == "cuda":
        _launch(cuda_kernels()[0], len(pictures), *table, scene_index, cameras, samples, pictures)
    else:
        arrays = [tensor.numpy() for tensor in (*table, scene_index, cameras)]
        draw_on_cpu(*arrays, samples, pictures.numpy())
    return pictures


def surface_points(
    rows: Any, starts: Any, counts: Any, points: int, seed: int, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Visible points of every scene, even in area: torch.float32 [S, points, 6], xyz in the unit ball, rgb in 0..1."""
    device = torch.device(device)
    table = _table(rows, starts, counts, device)
    cloud = torch.empty(len(table[1]), points, 6, dtype=torch.float32, device=device)
    if not cloud.numel():
        return cloud
    if device.type == "cuda":
        _launch(cuda_kernels()[1], len(cloud), *table, seed, cloud)
    else:
        sample_on_cpu(*(tensor.numpy() for tensor in table), seed, cloud.numpy())
    return cloud
