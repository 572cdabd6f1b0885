"""What this machine can run: facts are looked up, findings are computed from them, each with the command that mends it.

`facts()` touches the machine, everything else is pure. gsplat is never imported: touching its backend begins a
compilation of minutes where there is a compiler.
"""

import importlib
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.catalogue import ROLES, Role
from pipeline.models import EMBEDDED, EVALUATION, GENERATION, Weights, has_files
from sctd.recipe import Recipe

GSPLAT_SECONDS = 540  # CPU seconds of one compilation, for one kind of GPU
OLDEST_TORCH = (2, 9)
SECONDS_TO_CONNECT = 2.0
COMPILER = "pip install 'cuda-toolkit[nvcc,crt,nvvm,cccl,cudart]'"
BUILD = 'MAX_JOBS=4 python -c "import gsplat.cuda._backend"'


@dataclass(frozen=True)
class Gpu:
    """`num_bytes` of memory; `driver` is that of the system."""

    name: str
    num_bytes: int
    driver: str


@dataclass(frozen=True)
class Facts:
    """What was found. A version is None where the library is not installed."""

    python: tuple[int, int, int]
    system: str
    num_cores: int
    memory_bytes: int
    free_bytes: int
    torch: str | None
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
    ray: str | None
    ray_error: str | None
    ray_address: str | None
    ray_answers: bool
    ffmpeg: str | None
    weights_name: str
    weights_folder: str
    missing_files: Mapping[str, tuple[str, ...]]
    """Of each role the files that the folder of weights lacks."""


class Status(StrEnum):
    OK, NOTE, MISSING = "ok", "note", "missing"


@dataclass(frozen=True)
class Finding:
    """`mend` is a command, or a step where there is none."""

    what: str
    status: Status
    text: str
    mend: str | None = None


@dataclass(frozen=True)
class Needs:
    """What a recipe needs beside what everything does: roles of weights, and a GPU."""

    roles: tuple[str, ...]
    gpu: bool


def needs(recipe: Recipe, weights: Weights) -> Needs:
    """Of a benchmark by this recipe on these weights. Published models are too large to distil from on a CPU."""
    parts = [*GENERATION, *EVALUATION, *(["shape"] if recipe.seed_shape.kind == "point_e" else [])]
    roles = [role.name for role in ROLES.values() if role.folder in parts and role.name != "upsampler"]
    return Needs((*roles, *(["control"] if recipe.guidance.control != "none" else [])), weights.name != EMBEDDED)


def findings(facts: Facts, needed: Needs) -> list[Finding]:
    """Everything that was looked at, in the order in which to mend it."""
    return [
        *_software(facts),
        *_gpu(facts, needed.gpu),
        *_machine(facts),
        *_ray(facts),
        *[
            _weights(facts, name, name in needed.roles)
            for name, lacks in facts.missing_files.items()
            # Nobody fetches into the packaged models.
            if name in needed.roles or not lacks or facts.weights_name != EMBEDDED
        ],
    ]


def can_run(found: list[Finding]) -> bool:
    """Whether nothing is missing."""
    return all(finding.status is not Status.MISSING for finding in found)


def _software(facts: Facts) -> list[Finding]:
    version = ".".join(map(str, facts.python))
    found = [
        Finding("python", Status.OK, f"{version} on {facts.system}")
        if facts.python >= (3, 11, 0)
        else Finding("python", Status.MISSING, f"{version}; 3.11 is the oldest that works", "uv python install 3.12")
    ]
    build = f"built for CUDA {facts.torch_cuda}" if facts.torch_cuda else "built without CUDA"
    if facts.torch is None:
        found.append(Finding("torch", Status.MISSING, "not installed", "pip install torch torchvision"))
    elif _numbers(facts.torch) < OLDEST_TORCH:
        text = f"{facts.torch}; {'.'.join(map(str, OLDEST_TORCH))} is the oldest that works"
        found.append(Finding("torch", Status.MISSING, text, "pip install --upgrade torch torchvision"))
    else:
        found.append(Finding("torch", Status.OK, f"{facts.torch}, {build}"))
    if facts.torchvision is None:
        found.append(Finding("torchvision", Status.MISSING, "not installed", "pip install torchvision"))
    elif facts.torchvision_error:
        mismatch = "torchvision::nms" in facts.torchvision_error
        text = f"{facts.torchvision} does not fit torch {facts.torch}: {facts.torchvision_error}"
        mend = "pip install --force-reinstall torch torchvision" + ("" if mismatch else ", both from one index")
        found.append(Finding("torchvision", Status.MISSING, text, mend))
    else:
        found.append(Finding("torchvision", Status.OK, facts.torchvision))
    if facts.ffmpeg:
        found.append(Finding("ffmpeg", Status.OK, facts.ffmpeg))
    else:
        found.append(Finding("ffmpeg", Status.MISSING, "not found", "pip install 'imageio[ffmpeg]'"))
    return found


def _gpu(facts: Facts, is_needed: bool) -> list[Finding]:
    lacking = Status.MISSING if is_needed else Status.NOTE
    if not facts.gpus:
        text = "none; the embedded models need none" if not is_needed else "none, and these models need one"
        return [Finding("gpu", lacking, text, "use a machine with an NVIDIA GPU, or --weights embedded")]
    found = [Finding("gpu", Status.OK, f"{gpu.name}, {_gb(gpu.num_bytes)}, driver {gpu.driver}") for gpu in facts.gpus]
    if not facts.torch_sees_gpu:
        why = (
            "torch is built without CUDA"
            if facts.torch_cuda is None
            else f"the driver is too old for CUDA {facts.torch_cuda}"
        )
        mend = "pip install --force-reinstall torch torchvision" if facts.torch_cuda is None else "update the driver"
        found.append(Finding("gpu", lacking, f"torch cannot use it: {why}", mend))
    if facts.gsplat is None:
        mend = "pip install 'segmentdreamer[gpu]'"
        found.append(Finding("gsplat", lacking, "not installed; without it everything runs on the CPU", mend))
    elif facts.is_gsplat_built:
        found.append(Finding("gsplat", Status.OK, f"{facts.gsplat}, its kernels are built"))
    elif facts.has_nvcc and facts.has_ninja:
        text = f"{facts.gsplat}, not built: its first use compiles for about {GSPLAT_SECONDS // 60} CPU-minutes"
        found.append(Finding("gsplat", Status.NOTE, text, BUILD))
    else:
        steps = [*([] if facts.has_nvcc else [COMPILER]), *([] if facts.has_ninja else ["pip install ninja"]), BUILD]
        tools = [name for name, there in {"nvcc": facts.has_nvcc, "ninja": facts.has_ninja}.items() if not there]
        text = f"{facts.gsplat}, not built, and there is no {' and no '.join(tools)} to build it"
        found.append(Finding("gsplat", lacking, text, " && ".join(steps)))
    return found


def _machine(facts: Facts) -> list[Finding]:
    return [
        Finding("memory", Status.OK, f"{_gb(facts.memory_bytes)} for {facts.num_cores} cores"),
        # A run itself checks that its folder has room for its assets; a fetch, for its files.
        Finding("disk", Status.OK, f"{_gb(facts.free_bytes)} free here")
        if facts.free_bytes
        else Finding("disk", Status.MISSING, "full", "free some space"),
    ]


def _ray(facts: Facts) -> list[Finding]:
    inline = "or work without it: --executor inline"
    if facts.ray is None or facts.ray_error:
        text = "not installed" if facts.ray is None else f"{facts.ray} cannot be imported: {facts.ray_error}"
        return [Finding("ray", Status.MISSING, text, f"pip install 'ray[default]', {inline}")]
    if facts.ray_address is None:
        return [Finding("ray", Status.OK, f"{facts.ray}; a run starts its own on this machine")]
    if facts.ray_answers:
        return [Finding("ray", Status.OK, f"{facts.ray}; the cluster at {facts.ray_address} answers")]
    text = f"{facts.ray}; nothing answers at RAY_ADDRESS={facts.ray_address}"
    return [Finding("ray", Status.MISSING, text, "ray start --head on that machine, or unset RAY_ADDRESS")]


def _weights(facts: Facts, name: str, is_needed: bool) -> Finding:
    missing, role = facts.missing_files[name], ROLES.get(name)
    what = f"weights: {name}"
    if not missing:
        return Finding(what, Status.OK, f"in {facts.weights_folder}")
    text = f"{facts.weights_folder} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
    mend = role.command if role else f"put a model of your own into {name}/"
    return Finding(what, Status.MISSING if is_needed else Status.NOTE, text, mend)


def facts(weights: Weights, environment: Mapping[str, str] = os.environ) -> Facts:
    """Look everything up. A few seconds, for torch and Ray are imported."""
    torch, torch_error = _imported("torch")
    _, torchvision_error = _imported("torchvision")
    _, ray_error = _imported("cluster.ray_executor")
    address = environment.get("RAY_ADDRESS")
    address = None if address in (None, "", "local") else address
    return Facts(
        python=(int(platform.python_version_tuple()[0]), int(platform.python_version_tuple()[1]), _patch()),
        system=f"{platform.system()} {platform.machine()}",
        num_cores=_cores(),
        memory_bytes=_memory_bytes(),
        free_bytes=shutil.disk_usage(".").free,
        torch=None if torch_error else _version("torch"),
        torch_cuda=getattr(getattr(torch, "version", None), "cuda", None),
        torch_sees_gpu=bool(torch and torch.cuda.is_available()),
        torchvision=_version("torchvision"),
        torchvision_error=torchvision_error,
        gpus=_gpus(),
        gsplat=_version("gsplat"),
        is_gsplat_built=_is_gsplat_built(environment),
        has_nvcc=_has_nvcc(environment),
        has_ninja=shutil.which("ninja") is not None or importlib.util.find_spec("ninja") is not None,
        ray=_version("ray"),
        ray_error=ray_error,
        ray_address=address,
        ray_answers=address is not None and answers(address),
        ffmpeg=_ffmpeg(),
        weights_name=weights.name,
        weights_folder=str(weights.folder),
        missing_files={**{name: missing(role, weights) for name, role in ROLES.items()}, **_control(weights)},
    )


def missing(role: Role, weights: Weights) -> tuple[str, ...]:
    """What a folder lacks for a role: of fetched weights each file, of others the role's part."""
    if weights.is_published:
        return tuple(role.missing(weights.folder))
    if role.name == "upsampler":  # it shares its folder with the shape's base
        return tuple(role.missing(weights.folder))
    return () if has_files(weights.part(role.folder)) else (role.folder,)


def answers(address: str) -> bool:
    """Whether something listens at `host:port` or `ray://host:port`; `auto` is found on this machine only by Ray."""
    if address == "auto":
        return True
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=SECONDS_TO_CONNECT):
            return True
    except (OSError, ValueError):
        return False


def _control(weights: Weights) -> dict[str, tuple[str, ...]]:
    return {"control": () if has_files(weights.part("control")) else ("control",)}


def _imported(name: str) -> tuple[Any, str | None]:
    """The module, or why it cannot be imported: a broken pair of torch and torchvision raises RuntimeError."""
    try:
        return importlib.import_module(name), None
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        return None, " ".join(str(error).split())


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])


def _patch() -> int:
    digits = "".join(filter(str.isdigit, platform.python_version_tuple()[2][:2]))
    return int(digits or 0)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_bytes() -> int:
    """Of the machine, or of the container if it has less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(whole, int(text)) if text.isdigit() else whole


def _gpus() -> tuple[Gpu, ...]:
    """As the driver lists them, whatever torch sees."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return parsed_gpus(done.stdout) if done.returncode == 0 else ()


def parsed_gpus(text: str) -> tuple[Gpu, ...]:
    """Of the lines `name, MiB, driver`."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    return tuple(Gpu(name, int(mib) * 2**20, driver) for name, mib, driver in rows if mib.isdigit())


def _is_gsplat_built(environment: Mapping[str, str]) -> bool:
    """Whether its compiled library lies in the package or where torch puts what it compiles."""
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


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"
