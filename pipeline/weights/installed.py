"""Versions and builds of the installed libraries, read from their metadata and files without importing them."""

import ctypes
import importlib.util
import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement


class Driver(NamedTuple):
    """The NVIDIA driver: the newest CUDA version that it supports, and the GPUs in CUDA_VISIBLE_DEVICES."""

    cuda: tuple[int, int]
    num_gpus: int


def version(library: str) -> str | None:
    """The installed version; None if the library is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def folder(module: str) -> Path | None:
    """The folder of a package; None if there is none to import."""
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None


def problem(library: str) -> str | None:
    """Why an installed library cannot be imported; None if no reason is found."""
    if folder(library) is None:
        return "its files are missing"
    lacking = [requirement.name for requirement in _requirements(library) if version(requirement.name) is None]
    return f"{lacking[0]} is not installed" if lacking else None


def torch_cuda(torch: Path | None) -> str | None:
    """The CUDA version that torch was built for; None for a build without CUDA."""
    source = torch / "version.py" if torch else None
    text = source.read_text(encoding="utf-8") if source and source.is_file() else ""
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def torchvision_problem(torch: Path, torchvision: Path) -> str | None:
    """Why this torchvision cannot be imported with this torch; None if they fit.

    torchvision's own import fails on another version of torch, on a torch without CUDA if torchvision was built with
    it, and on builds for different major versions of CUDA.
    """
    installed = version("torch")
    for requirement in _requirements("torchvision"):
        if requirement.name == "torch" and installed and not requirement.specifier.contains(installed, True):
            return f"it needs torch {requirement.specifier}"
    libraries = b"".join(path.read_bytes() for path in sorted(torchvision.glob("_C*.so")))
    major = re.search(rb"libcudart[.\w]*?\.so\.(\d+)", libraries)
    if major is None:
        return None
    cuda = torch_cuda(torch)
    if cuda is None:
        return f"it is built for CUDA {int(major[1])}, torch without CUDA"
    if int(cuda.split(".")[0]) != int(major[1]):
        return f"it is built for CUDA {int(major[1])}, torch for CUDA {cuda}"
    return None


def cuda_driver() -> Driver | None:
    """The driver as libcuda reports it; None if there is no driver or it does not start."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number, count = ctypes.c_int(), ctypes.c_int()
    if (
        library.cuInit(0)
        or library.cuDriverGetVersion(ctypes.byref(number))
        or library.cuDeviceGetCount(ctypes.byref(count))
    ):
        return None
    return Driver((number.value // 1000, number.value % 1000 // 10), count.value)


def torch_sees_gpu(cuda: str | None, driver: Driver | None) -> bool:
    """Whether a torch built for this CUDA can use a GPU: the driver must support its major version."""
    return cuda is not None and driver is not None and driver.num_gpus > 0 and driver.cuda[0] >= int(cuda.split(".")[0])


def _requirements(library: str) -> list[Requirement]:
    """Those that apply to this machine, without extras."""
    found = [Requirement(text) for text in metadata.requires(library) or ()]
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
