"""Reads and writes pinned baselines and the history of nightly runs. A new baseline never replaces an older one.

001/baseline.json  001/features.npz  002/…  nights.jsonl     (the highest number is the current baseline)
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import FiniteFloat, ValidationError

from evaluation.arrays import from_npz
from pipeline.errors import UserError
from pipeline.nightly.verdict import JobResult, NightlyRun
from pipeline.store import files
from pipeline.store.records import Stored, first_error
from pipeline.store.run_folder import Store
from sctd.errors import one_line

ABOUT, FEATURES, HISTORY = "baseline.json", "features.npz", "nights.jsonl"
SCHEMA_VERSION = 1


class _Job(Stored):
    method: str
    prompt: str
    seed: int
    values: dict[str, FiniteFloat] | None
    error: str = ""


class _Baseline(Stored):
    """`baseline.json`."""

    schema_version: int
    accepted: dict[str, str]
    run_id: str
    date_utc: str
    commit: str | None
    machine: str
    keys: dict[str, Any]
    recipes: dict[str, Any]
    features_sha256: str
    objects: tuple[_Job, ...]


class _Gate(Stored):
    """A gate in a line of the history."""

    method: str
    metric: str
    better: Literal["higher", "lower", "same"]
    difference: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    delta: FiniteFloat
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    loss: FiniteFloat


class _Line(Stored):
    """A line of the history."""

    run: str
    baseline: int
    date_utc: str = ""
    verdict: str = ""
    reason: str = ""
    gates: tuple[_Gate, ...] = ()


@dataclass(frozen=True)
class Pinned:
    """A baseline: its number, its run, and who accepted it when and why."""

    number: int
    nightly_run: NightlyRun
    accepted: dict[str, str]


def read(folder: Path) -> Pinned:
    """The newest baseline. Raises UserError if there is none or it is damaged."""
    numbers = _numbers(folder)
    if not numbers:
        raise UserError(
            f"{folder} contains no baseline; set a new baseline with segmentdreamer nightly accept RUN "
            f"--baseline {folder} --reason TEXT."
        )
    place = _place(folder, numbers[-1])
    try:
        about = _Baseline.model_validate_json((place / ABOUT).read_bytes())
        features = (place / FEATURES).read_bytes()
        if about.schema_version != SCHEMA_VERSION or about.features_sha256 != _sha256(features):
            raise ValueError("baseline.json and features.npz do not belong together")
        return Pinned(numbers[-1], _nightly_run(about, features), about.accepted)
    except (OSError, ValueError) as error:
        reason = one_line(first_error(error) if isinstance(error, ValidationError) else error)
        raise UserError(f"{place} is damaged ({reason}); restore it, or set a new baseline.") from error


def pin(folder: Path, nightly_run: NightlyRun, accepted: dict[str, str]) -> Pinned:
    """Write the next baseline. `baseline.json` is written last, so that an interrupted one does not count."""
    store = Store(folder, "--baseline")
    store.prepare(0)
    with store.locked():
        number = (_numbers(folder) or [0])[-1] + 1
        features = _features(nightly_run.objects)
        store.write(_place(folder, number) / FEATURES, features)
        about = {
            "schema_version": SCHEMA_VERSION,
            "accepted": accepted,
            "run_id": nightly_run.run_id,
            "date_utc": nightly_run.date_utc,
            "commit": nightly_run.commit,
            "machine": nightly_run.machine,
            "keys": dict(nightly_run.keys),
            "recipes": dict(nightly_run.recipes),
            "features_sha256": _sha256(features),
            "objects": [
                {"method": result.method, "prompt": result.prompt, "seed": result.seed, "values": result.values}
                | ({"error": result.error} if result.values is None else {})
                for result in nightly_run.objects
            ],
        }
        store.write_json(_place(folder, number) / ABOUT, about)
    return Pinned(number, nightly_run, accepted)


def history(folder: Path, number: int) -> list[dict[str, Any]]:
    """The history of nightly runs compared with this baseline, oldest first; the last line of a run counts."""
    path = folder / HISTORY
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [_Line.model_validate_json(line) for line in lines]
    except ValueError as error:
        reason = one_line(first_error(error) if isinstance(error, ValidationError) else error)
        raise UserError(f"{path} is damaged ({reason}); remove the line, or the file.") from error
    by_run = {line.run: line.to_json() for line in found if line.baseline == number}
    return list(by_run.values())


def append(folder: Path, line: dict[str, Any]) -> None:
    """Append the line of a nightly run to the history."""
    text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / HISTORY
    if not files.is_local(path):  # object stores cannot append
        files.put(path, (files.read(path) if path.exists() else b"") + text.encode())
        return
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in folder.glob(f"[0-9]*/{ABOUT}") if path.parent.name.isdigit())


def _place(folder: Path, number: int) -> Path:
    return folder / f"{number:03d}"


def _features(objects: Sequence[JobResult]) -> bytes:
    file = io.BytesIO()
    arrays = {f"{i} {name}": array for i, result in enumerate(objects) for name, array in result.features.items()}
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _nightly_run(about: _Baseline, features: bytes) -> NightlyRun:
    """Raises ValueError for damaged features."""
    arrays: dict[int, dict[str, np.ndarray]] = {}
    for name, array in from_npz(features).items():
        number, _, distance = name.partition(" ")
        if array.ndim != 2 or array.dtype.kind != "f":
            raise ValueError(f"{FEATURES} has arrays of another shape or type")
        arrays.setdefault(int(number), {})[distance] = array
    objects = tuple(
        JobResult(one.method, one.prompt, one.seed, one.values, one.error, arrays.get(i, {}))
        for i, one in enumerate(about.objects)
    )
    names = "run_id", "date_utc", "commit", "machine", "keys", "recipes"
    return NightlyRun(**{name: getattr(about, name) for name in names}, objects=objects)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
