"""The renderer of the synthetic world: images and surface points of many scenes at once, on the CPU or on a GPU.

The ray functions in `rays.py` are shared by both devices. The loops around them are threads over image rows on the CPU
(in `rays.py`) and one block per image on a GPU (`raytrace_cuda.py`). Tensors are passed to the GPU without a copy.
"""

from typing import Any

import torch

from pipeline.embedded.objects import PRIM
from pipeline.embedded.rays import CAM, MAX_PRIMITIVES, draw_on_cpu, sample_on_cpu


def _table(rows: Any, starts: Any, counts: Any, cameras: Any, device: torch.device) -> list[torch.Tensor]:
    on_gpu = (
        isinstance(counts, torch.Tensor) and counts.is_cuda
    )  # reading them would synchronise the stream; the caller has checked them
    most = 0 if on_gpu or not len(counts) else int(torch.as_tensor(counts).max())
    if most > MAX_PRIMITIVES:
        raise ValueError(f"a scene has {most} primitives, expected at most {MAX_PRIMITIVES}: simplify its objects")
    if cameras is not None and cameras.shape[1] != CAM:
        raise ValueError(f"cameras have {cameras.shape[1]} numbers, expected {CAM}: pass the `table` of WorldCameras")
    if rows.shape[1] != PRIM:
        raise ValueError(f"scene rows have {rows.shape[1]} numbers, expected {PRIM}: pass what world.table() returns")
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
    """Render images of scenes: torch.uint8 [n, 3, size, size] on `device`.

    `rows` [P, PRIM] holds the primitives of all scenes, scene k in rows starts[k] .. starts[k] + counts[k];
    `scene_index` [n] and `cameras` [n, CAM] give the scene and camera of each image. Arrays or tensors; tensors already
    on the device are not copied. samples x samples rays per pixel. Raises ValueError for rows of the wrong width and
    for a scene with too many primitives.
    """
    device = torch.device(device)
    table = _table(rows, starts, counts, cameras, device)
    scene_index, cameras = _on(scene_index, torch.int32, device), _on(cameras, torch.float32, device)
    images = torch.empty(len(cameras), 3, size, size, dtype=torch.uint8, device=device)
    if not len(images):
        return images
    if device.type == "cuda":
        from pipeline.embedded.raytrace_cuda import draw_on_cuda, launch

        launch(draw_on_cuda, len(images), *table, scene_index, cameras, samples, images)
    else:
        arrays = [tensor.numpy() for tensor in (*table, scene_index, cameras)]
        draw_on_cpu(*arrays, samples, images.numpy())
    return images


def surface_points(
    rows: Any, starts: Any, counts: Any, points: int, seed: int, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """Visible points of each scene, even in area: torch.float32 [S, points, 6], xyz in the unit ball, rgb in 0..1."""
    device = torch.device(device)
    table = _table(rows, starts, counts, None, device)
    cloud = torch.empty(len(table[1]), points, 6, dtype=torch.float32, device=device)
    if not cloud.numel():
        return cloud
    if device.type == "cuda":
        from pipeline.embedded.raytrace_cuda import launch, sample_on_cuda

        launch(sample_on_cuda, len(cloud), *table, seed, cloud)
    else:
        sample_on_cpu(*(tensor.numpy() for tensor in table), seed, cloud.numpy())
    return cloud
