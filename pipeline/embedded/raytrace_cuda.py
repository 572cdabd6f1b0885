"""The CUDA kernels of the renderer. Import this module only on a machine with a GPU: it loads `numba.cuda`.

The ray functions are those of the CPU (`rays.py`): numba compiles the functions that a kernel calls for the GPU.
"""

from typing import Any

import numba
import torch
from numba import cuda as numba_cuda

from pipeline.embedded.objects import PRIM
from pipeline.embedded.rays import CAM, MAX_PRIMITIVES, pixel_color, surface_point

cuda: Any = numba_cuda  # the type checker does not know thread indices and shared arrays

THREADS = 256  # per block
TILE = 8  # pixels: neighbouring threads render neighbouring pixels

cuda.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # one image is one block, even if there are few


@cuda.jit(fastmath=True)
def draw_on_cuda(rows, starts, counts, scene_index, cameras, samples, images):
    """One block per image: its scene and camera in shared memory, its threads over tiles of pixels."""
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
    size = images.shape[2]
    tiles = (size + TILE - 1) // TILE
    for k in range(thread, tiles * tiles * TILE * TILE, THREADS):
        tile, inside = k // (TILE * TILE), k % (TILE * TILE)
        column, row = (tile % tiles) * TILE + inside % TILE, (tile // tiles) * TILE + inside // TILE
        if column < size and row < size:
            color = pixel_color(prims, count, camera, column, row, size, samples)
            for channel in range(3):
                images[image, channel, row, column] = color[channel]


@cuda.jit(fastmath=True)
def sample_on_cuda(rows, starts, counts, seed, points):
    """One block per scene, its threads over the points."""
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
        point = surface_point(prims, count, seed + scene * per_scene + k)
        for axis in range(6):
            points[scene, k, axis] = point[axis]


def launch(kernel: Any, blocks: int, *arguments: Any) -> None:
    """Run a CUDA kernel on torch's current stream. Tensors are passed without a copy."""
    device = next(a.device for a in arguments if isinstance(a, torch.Tensor))
    with torch.cuda.device(device):  # numba uses the current context
        handle = torch.cuda.current_stream().cuda_stream
        stream = cuda.external_stream(handle) if handle else cuda.default_stream()
        passed = [cuda.as_cuda_array(a, sync=False) if isinstance(a, torch.Tensor) else a for a in arguments]
        kernel[blocks, THREADS, stream](*passed)
