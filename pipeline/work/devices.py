"""The device of a worker, and the settings that make the same job give the same asset on it."""

import importlib.util
import os
from typing import Any

COMPILED = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"  # compilation caches of torch and triton


def can_use_gpus() -> bool:
    """Whether gsplat, which renders on GPUs, is installed. Without it everything runs on the CPU."""
    return importlib.util.find_spec("gsplat") is not None


def sees_gpu() -> bool:
    """Whether this process can use a GPU."""
    import torch

    return torch.cuda.is_available()


def will_use_gpu() -> bool:
    """Whether `prepare` will choose a GPU in a worker of this machine. Does not import torch."""
    if not can_use_gpus():
        return False
    from pipeline.weights import installed

    return installed.torch_sees_gpu(installed.torch_cuda(installed.folder("torch")), installed.cuda_driver())


def prepare(*, renders: bool = True) -> Any:
    """The `torch.device` of this process, configured for reproducible arithmetic."""
    import torch
    from platformdirs import user_cache_path

    if sees_gpu() and (can_use_gpus() or not renders):
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        for variable in COMPILED:  # shared by all workers of this user, because compiling takes a minute
            os.environ.setdefault(variable, str(user_cache_path("segmentdreamer", appauthor=False) / "compiled"))
        return torch.device("cuda")
    torch.set_num_threads(1)  # fixed order of sums: assets do not depend on the number of cores or the executor
    return torch.device("cpu")


def reset_peak(device: Any) -> None:
    """Reset `peak_bytes` of a GPU. On the CPU it always counts from the start of the process."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free(device: Any) -> None:
    """Release the cached memory of the device."""
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_bytes(device: Any) -> int:
    """The peak memory of this process in bytes: reserved on its GPU, or its resident set on the CPU."""
    import resource
    import sys

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)  # the memory of CUDA graphs counts only as reserved
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def name(device: Any) -> str:
    """The name of the device in tables."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
