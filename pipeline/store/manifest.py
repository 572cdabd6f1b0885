"""`run.json`: the settings of a run, and the command, versions and hardware of each session."""

import os
import platform
import shlex
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, shortened
from pipeline.plan.protocol import Protocol
from pipeline.plan.run import Run
from pipeline.store.run_folder import Store
from pipeline.weights.models import SCORERS, Weights
from sctd.recipe.names import current_tree

FILE = "run.json"
SCHEMA_VERSION = 1
LIBRARIES = (
    "segmentdreamer",
    "torch",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "numba",
    "numpy",
    "ray",
    "gsplat",
)


def read(store: Store) -> dict[str, Any]:
    """The manifest of a run folder. Raises UserError if there is none."""
    manifest = store.read_json(store.root / FILE)
    if manifest is None:
        raise UserError(f"{store.root} contains no run (no {FILE}); pass the run folder of a bench run.")
    jobs = [{"method": job["objective"], **job} for job in manifest["jobs"]]  # jobs of older folders have no method
    return {"swept": [], **manifest, "jobs": jobs}


def check_same(store: Store, run: Run) -> dict[str, Any] | None:
    """The manifest of a folder that `run` may resume; None if it has none.

    All jobs of the folder must be jobs of `run`, scored in the same way. `run` may have additional scorers, which then
    score the existing assets, too. Raises UserError with the first difference.
    """
    manifest = store.read_json(store.root / FILE)
    if manifest is None:
        return None
    settings = run.settings()
    known = {job["job_id"] for job in settings["jobs"]}
    left_out = [job for job in manifest["jobs"] if job["job_id"] not in known]
    if not left_out and _is_scored_alike(manifest, settings):
        return manifest
    difference = next(_differences(manifest, settings), None)
    if difference is None:
        difference = f"{len(left_out)} of its jobs are missing now, first {shortened(left_out[0]['prompt'])!r}"
    raise UserError(
        f"{store.root} was generated with other settings: {difference}; use those, or choose another --out."
    )


def describe(store: Store, run: Run, argv: list[str]) -> dict[str, Any]:
    """The manifest for this command: the settings and a new session. Raises UserError like `check_same`."""
    before = check_same(store, run)
    sessions = [*(before["sessions"] if before else []), session(argv)]
    run_id = store.root.resolve().name or str(store.root)  # a bucket root has no name
    return {"schema_version": SCHEMA_VERSION, "run_id": run_id, **run.settings(), "sessions": sessions}


def rescored(
    manifest: dict[str, Any],
    scorers: Weights,
    protocol: Protocol,
    metric_version: int,
    evaluation: str,
    argv: list[str],
) -> dict[str, Any]:
    """The manifest after scoring with other scorers or views. The settings of generation stay."""
    generated_by = {part: sha for part, sha in manifest["weights"]["sha256"].items() if part not in SCORERS}
    scored_by = {part: scorers.digests[part] for part in scorers.scorers}
    return manifest | {
        "views": protocol.num_views,
        "protocol": protocol.name,
        "metric_version": metric_version,
        "evaluation": evaluation,
        "weights": {"name": scorers.name, "folder": str(scorers.folder), "sha256": generated_by | scored_by},
        "sessions": [*manifest["sessions"], session(argv)],
    }


def session(argv: list[str]) -> dict[str, Any]:
    """The start time, command, commit, versions and hardware of this session."""
    return {
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["segmentdreamer", *argv]),
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that can change results."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the source tree this code runs from, with '+' if it has changes; None outside a source tree."""
    tree = Path(__file__).resolve().parents[2]
    if _git(tree, "rev-parse", "--show-toplevel") != str(tree):  # installed, perhaps inside another repository
        return None
    changed = "+" if _git(tree, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{_git(tree, 'rev-parse', 'HEAD')}{changed}"


def hardware() -> dict[str, Any]:
    """System, CPU, cores, memory and GPUs of this machine."""
    return {
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus(),
    }


def cores() -> int:
    """The CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs of this machine."""
    return (_output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) or "").splitlines()


def _is_scored_alike(there: dict[str, Any], here: dict[str, Any]) -> bool:
    keys = "protocol", "metric_version"
    before, now = (settings["weights"]["sha256"] for settings in (there, here))
    same_scorers = all(now.get(part) == sha for part, sha in before.items() if part in SCORERS)
    return same_scorers and all(there[key] == here[key] for key in keys)


def _differences(there: dict[str, Any], here: dict[str, Any]) -> Iterator[str]:
    for method in there["recipes"]:
        if method not in here["recipes"]:
            yield f"methods {', '.join(there['recipes'])}, now {', '.join(here['recipes'])}"
            continue
        old, new = (dict(_leaves(current_tree(settings["recipes"][method]))) for settings in (there, here))
        yield from (f"{key} {old[key]!r}, now {new.get(key)!r}" for key in old if old[key] != new.get(key))
    for key in ("seed", "views", "metric_version"):
        if there[key] != here[key]:
            yield f"{key} {there[key]}, now {here[key]}"
    old, new = (settings["weights"]["sha256"] for settings in (there, here))
    yield from (
        f"{part} weights {old[part][:12]}, now {new.get(part, 'none')[:12]}"
        for part in old
        if old[part] != new.get(part)
    )


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(tree: Path, *arguments: str) -> str | None:
    return _output(["git", "-C", str(tree), *arguments])


def _output(command: list[str]) -> str | None:
    """The standard output of a command; None if the command is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
