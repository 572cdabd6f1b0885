"""The device of a worker, and the settings that make the same job give the same asset on it."""

import atexit
import gc
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def loading() -> Iterator[None]:
    """Wraps the imports and the loading of each worker, and of commands that compute without one.

    The objects of libraries are never garbage; looking for garbage among them takes a quarter of the import.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        if sees_gpu():
            keep_compiled()
        yield
    finally:
        gc.freeze()  # else the next collections look through all of it again
        atexit.register(gc.unfreeze)  # else libraries report leaks when the process ends
        if was_enabled:
            gc.enable()


def compiled_folder() -> Path:
    """The folder of compiled kernels, shared by all commands and workers of this user: compiling takes a minute."""
    from platformdirs import user_cache_path

    return user_cache_path("segmentdreamer", appauthor=False) / "compiled"


def keep_compiled() -> None:
    """Keep compiled kernels in `compiled_folder()`, unless the environment says where or the folder cannot be written.

    Must precede the import of diffusers. That imports torch's compiler, which then sets its variable itself, to a
    temporary folder.
    """
    folder = compiled_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        for variable in COMPILED:
            os.environ.setdefault(variable, str(folder))


def cache(device: Any) -> str:
    """The folder in which this process keeps what it compiles for a device: torch's on a GPU, else numba's."""
    if device.type == "cuda":
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        return cache_dir()
    from sctd.render.cpu_projection import project

    return project.stats.cache_path


def prepare(*, renders: bool = True) -> Any:
    """The `torch.device` of this process, configured for reproducible arithmetic."""
    import torch

    # On the CPU, a fixed order of sums: assets do not depend on the number of cores or the executor. On a GPU, other
    # threads would slow down the one that launches kernels.
    torch.set_num_threads(1)
    if sees_gpu() and (can_use_gpus() or not renders):
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        keep_compiled()
        return torch.device("cuda")
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
