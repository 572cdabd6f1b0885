"""Whether this machine can run a recipe: findings from facts (`pipeline.weights.machine`), each with a fix.

The functions are pure.
"""

from dataclasses import dataclass
from enum import StrEnum

from pipeline.weights.catalogue import REFERENCE, ROLES, of_part
from pipeline.weights.machine import Facts
from pipeline.weights.models import EMBEDDED, EVALUATION, GENERATION, Weights
from sctd.recipe.recipe import Recipe

GSPLAT_SECONDS = 540  # CPU time of a compilation for one GPU architecture
OLDEST_TORCH = (2, 9)
EXPECTED = "fid"  # the distance that published tables report
COMPILER = "pip install 'cuda-toolkit[nvcc,crt,nvvm,cccl,cudart]'"
BUILD = 'MAX_JOBS=4 python -c "import gsplat.cuda._backend"'


class FindingStatus(StrEnum):
    OK, NOTE, MISSING = "ok", "note", "missing"


@dataclass(frozen=True)
class Finding:
    """The result of one check. `mend` is a command that fixes it, or a step in words."""

    what: str
    status: FindingStatus
    text: str
    mend: str | None = None


@dataclass(frozen=True)
class Needs:
    """What a recipe needs: roles of weights, a GPU, and the compilers of the CUDA-graph path."""

    roles: tuple[str, ...]
    gpu: bool
    compiles: bool = False


def needs(recipe: Recipe, weights: Weights) -> Needs:
    """What a run of this recipe with these weights needs. Published models are too large for distillation on a CPU."""
    parts = [*GENERATION, *EVALUATION, *(["shape"] if recipe.initialization.kind == "point_e" else [])]
    roles = [role.name for role in ROLES.values() if role.folder in parts and role.name != "upsampler"]
    return Needs(
        (*roles, *(["control"] if recipe.guidance.control != "none" else [])),
        weights.name != EMBEDDED,
        recipe.compute.cuda_graphs,
    )


def findings(facts: Facts, needed: Needs) -> list[Finding]:
    """The results of all checks, in the order in which to fix problems."""
    return [
        *_software(facts),
        *_gpu(facts, needed.gpu),
        *_cuda_graphs(facts, needed),
        *_machine(facts),
        *_ray(facts),
        *[
            _weights(facts, name, name in needed.roles)
            for name, lacks in facts.missing_files.items()
            # Nothing is fetched into the folder of the bundled models.
            if name in needed.roles or not lacks or facts.weights_name != EMBEDDED
        ],
        *(_distances(facts) if facts.weights_name != EMBEDDED else []),
    ]


def can_run(found: list[Finding]) -> bool:
    """Whether no finding is MISSING."""
    return all(finding.status is not FindingStatus.MISSING for finding in found)


def _software(facts: Facts) -> list[Finding]:
    version = ".".join(map(str, facts.python))
    found = [
        Finding("python", FindingStatus.OK, f"{version} on {facts.system}")
        if facts.python >= (3, 11, 0)
        else Finding("python", FindingStatus.MISSING, f"{version}; 3.11 or later is required", "uv python install 3.12")
    ]
    build = f"built for CUDA {facts.torch_cuda}" if facts.torch_cuda else "built without CUDA"
    if facts.torch is None:
        found.append(Finding("torch", FindingStatus.MISSING, "not installed", "pip install torch torchvision"))
    elif facts.torch_error:
        text = f"{facts.torch} cannot be imported: {facts.torch_error}"
        found.append(Finding("torch", FindingStatus.MISSING, text, "pip install --force-reinstall torch torchvision"))
    elif _numbers(facts.torch) < OLDEST_TORCH:
        text = f"{facts.torch}; {'.'.join(map(str, OLDEST_TORCH))} or later is required"
        found.append(Finding("torch", FindingStatus.MISSING, text, "pip install --upgrade torch torchvision"))
    else:
        found.append(Finding("torch", FindingStatus.OK, f"{facts.torch}, {build}"))
    if facts.torchvision is None:
        found.append(Finding("torchvision", FindingStatus.MISSING, "not installed", "pip install torchvision"))
    elif facts.torchvision_error:
        text = f"{facts.torchvision} does not match torch {facts.torch}: {facts.torchvision_error}"
        found.append(
            Finding("torchvision", FindingStatus.MISSING, text, "pip install --force-reinstall torch torchvision")
        )
    else:
        found.append(Finding("torchvision", FindingStatus.OK, facts.torchvision))
    if facts.ffmpeg:
        found.append(Finding("ffmpeg", FindingStatus.OK, facts.ffmpeg))
    else:
        found.append(Finding("ffmpeg", FindingStatus.MISSING, "not found", "pip install imageio-ffmpeg"))
    return found


def _gpu(facts: Facts, is_needed: bool) -> list[Finding]:
    lacking = FindingStatus.MISSING if is_needed else FindingStatus.NOTE
    if not facts.gpus:
        text = "none; the bundled models do not need one" if not is_needed else "none, but these models need one"
        return [Finding("gpu", lacking, text, "use a machine with an NVIDIA GPU, or --weights embedded")]
    found = [
        Finding("gpu", FindingStatus.OK, f"{gpu.name}, {_gb(gpu.num_bytes)}, driver {gpu.driver}") for gpu in facts.gpus
    ]
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
        found.append(Finding("gsplat", lacking, "not installed; everything runs on the CPU without it", mend))
    elif facts.is_gsplat_built:
        found.append(Finding("gsplat", FindingStatus.OK, f"{facts.gsplat}, kernels are compiled"))
    elif facts.has_nvcc and facts.has_ninja:
        text = f"{facts.gsplat}, not compiled; the first use takes about {GSPLAT_SECONDS // 60} CPU minutes to compile"
        found.append(Finding("gsplat", FindingStatus.NOTE, text, BUILD))
    else:
        steps = [*([] if facts.has_nvcc else [COMPILER]), *([] if facts.has_ninja else ["pip install ninja"]), BUILD]
        tools = [name for name, there in {"nvcc": facts.has_nvcc, "ninja": facts.has_ninja}.items() if not there]
        text = f"{facts.gsplat}, not compiled; compiling it requires {' and '.join(tools)}"
        found.append(Finding("gsplat", lacking, text, " && ".join(steps)))
    return found


def _cuda_graphs(facts: Facts, needed: Needs) -> list[Finding]:
    """Compilers for the CUDA-graph path, which is used on a GPU unless the recipe disables it."""
    if not (facts.gpus and needed.compiles):
        return []
    steps = {
        "triton": (facts.has_triton, "pip install triton"),
        "a C compiler": (facts.has_compiler, "apt-get install gcc"),
    }
    if lacks := [tool for tool, (is_there, _) in steps.items() if not is_there]:
        mend = " && ".join(steps[tool][1] for tool in lacks) + ", or --set compute.cuda_graphs=false"
        text = f"compiling the networks requires {' and '.join(lacks)}"
        return [Finding("cuda graphs", FindingStatus.MISSING, text, mend)]
    return [Finding("cuda graphs", FindingStatus.OK, "triton and a C compiler are installed")]


def _machine(facts: Facts) -> list[Finding]:
    return [
        Finding("processor", FindingStatus.OK, _precision(facts)),
        Finding("memory", FindingStatus.OK, f"{_gb(facts.memory_bytes)} for {facts.num_cores} cores"),
        # A run checks the free disk space for its assets itself, and a fetch for its files.
        Finding("disk", FindingStatus.OK, f"{_gb(facts.free_bytes)} free here")
        if facts.free_bytes
        else Finding("disk", FindingStatus.MISSING, "full", "free disk space"),
    ]


def _precision(facts: Facts) -> str:
    """The precision of runs on the processor (`pipeline.work.precision`)."""
    if facts.bfloat16 is None:
        return "no AMX or AVX512-BF16; on the CPU, the embedded recipes use float32"
    return f"{facts.bfloat16}; on the CPU, the embedded recipes use bfloat16 unless compute.dtype is set"


def _ray(facts: Facts) -> list[Finding]:
    inline = "or use --executor inline"
    if facts.ray is None or facts.ray_error:
        text = "not installed" if facts.ray is None else f"{facts.ray} cannot be imported: {facts.ray_error}"
        return [Finding("ray", FindingStatus.MISSING, text, f"pip install 'ray[default]', {inline}")]
    if facts.ray_address is None:
        return [Finding("ray", FindingStatus.OK, f"{facts.ray}; a run starts a local Ray")]
    if facts.ray_answers:
        return [Finding("ray", FindingStatus.OK, f"{facts.ray}; the cluster at {facts.ray_address} is reachable")]
    text = f"{facts.ray}; no cluster is reachable at RAY_ADDRESS={facts.ray_address}"
    return [Finding("ray", FindingStatus.MISSING, text, "ray start --head on that machine, or unset RAY_ADDRESS")]


def _weights(facts: Facts, name: str, is_needed: bool) -> Finding:
    missing, role = facts.missing_files[name], ROLES.get(name)
    what = f"weights: {name}"
    if not missing:
        return Finding(what, FindingStatus.OK, f"in {facts.weights_folder}")
    text = f"{facts.weights_folder} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
    mend = role.command if role else f"put your own model into {name}/"
    return Finding(what, FindingStatus.MISSING if is_needed else FindingStatus.NOTE, text, mend)


def _distances(facts: Facts) -> list[Finding]:
    """The optional distances: those that are measured, `fid` in any case, and those with only one of their parts."""
    found = []
    for metric, missing in facts.missing_of_distances.items():
        if not missing:
            found.append(
                Finding(f"metric: {metric}", FindingStatus.OK, f"measured with the files in {facts.weights_folder}")
            )
        elif len(missing) == 1 or metric == EXPECTED:
            text = f"not measured: {facts.weights_folder} lacks {' and '.join(missing)}"
            roles = [of_part(part) or REFERENCE for part in missing]
            found.append(
                Finding(f"metric: {metric}", FindingStatus.NOTE, text, " && ".join(role.command for role in roles))
            )
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"
