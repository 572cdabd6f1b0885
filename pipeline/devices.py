"""Which device a worker computes on, and how it computes there so that the same job gives the same asset."""

import importlib.util
from typing import Any


def can_use_gpus() -> bool:
    """Rendering on a GPU is gsplat's; without it everything runs on the CPU."""
    return importlib.util.find_spec("gsplat") is not None


def sees_gpu() -> bool:
    """Whether this process has a GPU to compute on."""
    import torch

    return torch.cuda.is_available()


def prepare(*, renders: bool = True) -> Any:
    """The `torch.device` of this process, and its settings for exact arithmetic."""
    import torch

    if sees_gpu() and (can_use_gpus() or not renders):
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        return torch.device("cuda")
    torch.set_num_threads(1)  # sums in one order: an asset does not depend on the number of cores or on the executor
    return torch.device("cpu")


def peak_bytes(device: Any) -> int:
    """The most memory this process has held: on its GPU, or in all."""
    import resource
    import sys

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def name(device: Any) -> str:
    """What a table calls it."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
