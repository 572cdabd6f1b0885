"""Facts about this machine for `pipeline.weights.doctor`: software, GPUs, memory, Ray, weights.

gsplat is never imported: with a compiler, accessing its backend starts a compilation of several minutes.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.ray.address import ClusterError, address_of, endpoint
from pipeline.weights import installed
from pipeline.weights.catalogue import ROLES, Role
from pipeline.weights.models import Weights, has_files
from pipeline.weights.networks import DISTANCES, REQUIRED

SECONDS_TO_CONNECT = 2.0
CPU_INFO = Path("/proc/cpuinfo")  # Linux only
BFLOAT16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}  # names of the processor's flags; the faster one first


@dataclass(frozen=True)
class Gpu:
    """A GPU with `num_bytes` of memory and the version of the system's driver."""

    name: str
    num_bytes: int
    driver: str


@dataclass(frozen=True)
class Facts:
    """Facts about a machine and a weights folder. A version is None if the library is not installed."""

    python: tuple[int, int, int]
    system: str
    num_cores: int
    memory_bytes: int
    free_bytes: int
    bfloat16: str | None
    """The processor's instructions for products in bfloat16."""
    torch: str | None
    torch_error: str | None
    """Why torch cannot be imported; the same for `torchvision_error` and `ray_error`."""
    torch_cuda: str | None
    """The CUDA that torch was built for; None for a build without."""
    torch_sees_gpu: bool
    torchvision: str | None
    torchvision_error: str | None
    gpus: tuple[Gpu, ...]
    gsplat: str | None
    is_gsplat_built: bool
    has_nvcc: bool
    has_ninja: bool
    has_triton: bool
    has_compiler: bool
    """A C compiler, which triton needs to build its kernel launchers."""
    ray: str | None
    ray_error: str | None
    ray_address: str | None
    ray_answers: bool
    ffmpeg: str | None
    weights_name: str
    weights_folder: str
    missing_files: Mapping[str, tuple[str, ...]]
    """Missing files of the weights folder by role."""
    missing_of_distances: Mapping[str, tuple[str, ...]]
    """Missing parts of the weights folder by optional distance, of its network and its reference."""


def facts(weights: Weights, environment: Mapping[str, str] = os.environ) -> Facts:
    """Collect all facts in less than a second, without importing torch, torchvision or Ray."""
    torch, torchvision = installed.folder("torch"), installed.folder("torchvision")
    torch_cuda = installed.torch_cuda(torch)
    address = address_of(environment)
    return Facts(
        python=(int(platform.python_version_tuple()[0]), int(platform.python_version_tuple()[1]), _patch()),
        system=f"{platform.system()} {platform.machine()}",
        num_cores=_cores(),
        memory_bytes=_memory_bytes(),
        free_bytes=shutil.disk_usage(".").free,
        bfloat16=bfloat16_instructions(),
        torch=installed.version("torch"),
        torch_error=_problem("torch"),
        torch_cuda=torch_cuda,
        torch_sees_gpu=installed.torch_sees_gpu(torch_cuda, installed.cuda_driver()),
        torchvision=installed.version("torchvision"),
        torchvision_error=_problem("torchvision")
        or (installed.torchvision_problem(torch, torchvision) if torch and torchvision else None),
        gpus=_gpus(),
        gsplat=installed.version("gsplat"),
        is_gsplat_built=_is_gsplat_built(environment),
        has_nvcc=_has_nvcc(environment),
        has_ninja=shutil.which("ninja") is not None or importlib.util.find_spec("ninja") is not None,
        has_triton=importlib.util.find_spec("triton") is not None,
        has_compiler=any(map(shutil.which, [*filter(None, [environment.get("CC")]), "cc", "gcc", "clang"])),
        ray=installed.version("ray"),
        ray_error=_problem("ray"),
        ray_address=address,
        ray_answers=address is not None and is_listening(address),
        ffmpeg=_ffmpeg(),
        weights_name=weights.name,
        weights_folder=str(weights.folder),
        missing_files={name: missing(role, weights) for name, role in ROLES.items()} | _own(weights),
        missing_of_distances={
            name: tuple(weights.lacking(distance)) for name, distance in DISTANCES.items() if name != REQUIRED
        },
    )


def missing(role: Role, weights: Weights) -> tuple[str, ...]:
    """What is missing in a folder for a role: files of fetched weights, otherwise the role's part."""
    if weights.is_published:
        return tuple(role.missing(weights.folder))
    if role.name == "upsampler":  # it shares its folder with the base model of the shape role
        return tuple(role.missing(weights.folder))
    return () if has_files(weights.part(role.folder)) else (role.folder,)


def is_listening(address: str) -> bool:
    """Whether something listens at `host:port` or `ray://host:port`. True for `auto`, which only Ray can resolve."""
    try:
        target = endpoint(address)
        if target is not None:
            target.connect(SECONDS_TO_CONNECT)
    except (OSError, ClusterError):
        return False
    return True


def bfloat16_instructions() -> str | None:
    """The processor's instructions for products in bfloat16, AMX or AVX512-BF16; None without any or if unknown."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return next((name for flag, name in BFLOAT16.items() if flag in flags), None)


def _own(weights: Weights) -> dict[str, tuple[str, ...]]:
    """Parts for models of the user's choice, which have no role."""
    return {part: () if has_files(weights.part(part)) else (part,) for part in ("control", "vlm")}


def _problem(library: str) -> str | None:
    return installed.problem(library) if installed.version(library) else None


def _patch() -> int:
    digits = "".join(filter(str.isdigit, platform.python_version_tuple()[2][:2]))
    return int(digits or 0)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes() -> int:
    """Memory of the machine, or of the container if that is less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(whole, int(text)) if text.isdigit() else whole


def _gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver lists, independent of torch."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return parsed_gpus(done.stdout) if done.returncode == 0 else ()


def parsed_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs from lines `name, MiB, driver`."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    return tuple(Gpu(name, int(mib) * 2**20, driver) for name, mib, driver in rows if mib.isdigit())


def _is_gsplat_built(environment: Mapping[str, str]) -> bool:
    """Whether its compiled library is in the package or in torch's folder of compiled extensions."""
    spec = importlib.util.find_spec("gsplat")
    if spec is None or not spec.submodule_search_locations:
        return False
    default = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_extensions"
    cache = Path(environment.get("TORCH_EXTENSIONS_DIR") or default)
    places = [*(Path(place) for place in spec.submodule_search_locations), *cache.glob("**/gsplat*")]
    return any(next(place.glob("*.so"), None) for place in places if place.is_dir())


def _has_nvcc(environment: Mapping[str, str]) -> bool:
    home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    return shutil.which("nvcc") is not None or bool(home and (Path(home) / "bin" / "nvcc").is_file())


def _ffmpeg() -> str | None:
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None
