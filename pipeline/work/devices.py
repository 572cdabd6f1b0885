"""Which device a worker computes on, and how it computes there so that the same job gives the same asset."""

import importlib.util
import os
from typing import Any

COMPILED = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"  # where torch and triton keep what they compile


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
    from platformdirs import user_cache_path

    if sees_gpu() and (can_use_gpus() or not renders):
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        for variable in COMPILED:  # kept, and shared by all workers of this user: compiling takes a minute
            os.environ.setdefault(variable, str(user_cache_path("segmentdreamer", appauthor=False) / "compiled"))
        return torch.device("cuda")
    torch.set_num_threads(1)  # sums in one order: an asset does not depend on the number of cores or on the executor
    return torch.device("cpu")


def forget_peak(device: Any) -> None:
    """Count `peak_bytes` of a GPU from now on; that of a process's whole memory counts from its birth."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free(device: Any) -> None:
    """Give back to the device what this process keeps for later."""
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_bytes(device: Any) -> int:
    """The most memory this process has taken: of its GPU, or in all."""
    import resource
    import sys

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)  # what recordings hold counts as reserved alone
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def name(device: Any) -> str:
    """What a table calls it."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
