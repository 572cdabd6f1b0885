"""Pinned baselines: a run as far as later nights compare with it. Numbered, so that a new one never replaces an old.

001/baseline.json  001/features.npz  002/…  nights.jsonl     (the highest number counts)
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipeline.errors import UserError
from pipeline.nightly.verdict import Made, Night
from pipeline.store import files
from pipeline.store.run_folder import Store

ABOUT, FEATURES, NIGHTS = "baseline.json", "features.npz", "nights.jsonl"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Pinned:
    """A baseline: its number, the run, and who accepted it, when and why."""

    number: int
    night: Night
    accepted: dict[str, str]


def read(folder: Path) -> Pinned:
    """The newest baseline. Raises UserError where there is none or it is damaged."""
    numbers = _numbers(folder)
    if not numbers:
        raise UserError(
            f"{folder} holds no baseline; pin a finished run by segmentdreamer nightly accept RUN --baseline {folder} "
            "--reason TEXT."
        )
    place = _place(folder, numbers[-1])
    try:
        about = json.loads((place / ABOUT).read_bytes())
        features = (place / FEATURES).read_bytes()
        if about["schema_version"] != SCHEMA_VERSION or about["features_sha256"] != _sha256(features):
            raise ValueError("its parts do not belong together")
        return Pinned(numbers[-1], _night(about, features), about["accepted"])
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise UserError(f"{place} is damaged ({error}); put it back, or accept a run anew.") from error


def pin(folder: Path, night: Night, accepted: dict[str, str]) -> Pinned:
    """Write a further baseline beside those that are there. Its description comes last: without it there is none."""
    store = Store(folder, "--baseline")
    store.prepare(0)
    with store.locked():
        number = (_numbers(folder) or [0])[-1] + 1
        features = _features(night.objects)
        store.write(_place(folder, number) / FEATURES, features)
        about = {
            "schema_version": SCHEMA_VERSION,
            "accepted": accepted,
            "run_id": night.run_id,
            "date_utc": night.date_utc,
            "commit": night.commit,
            "machine": night.machine,
            "keys": dict(night.keys),
            "recipes": dict(night.recipes),
            "features_sha256": _sha256(features),
            "objects": [
                {"method": made.method, "prompt": made.prompt, "seed": made.seed, "values": made.values}
                | ({"error": made.error} if made.values is None else {})
                for made in night.objects
            ],
        }
        store.write_json(_place(folder, number) / ABOUT, about)
    return Pinned(number, night, accepted)


def nights(folder: Path, number: int) -> list[dict[str, Any]]:
    """The lines of the history that compare with this baseline, oldest first; of one run the last counts."""
    path = folder / NIGHTS
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); take out the line, or the file.") from error
    by_run = {line["run"]: line for line in lines if line["baseline"] == number}
    return list(by_run.values())


def append(folder: Path, line: dict[str, Any]) -> None:
    """One more night; what is there is not touched."""
    text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
    path = folder / NIGHTS
    if not files.is_local(path):  # where nothing can be appended
        files.put(path, (files.read(path) if path.exists() else b"") + text.encode())
        return
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in folder.glob(f"[0-9]*/{ABOUT}") if path.parent.name.isdigit())


def _place(folder: Path, number: int) -> Path:
    return folder / f"{number:03d}"


def _features(objects: Sequence[Made]) -> bytes:
    file = io.BytesIO()
    arrays = {f"{i} {name}": array for i, made in enumerate(objects) for name, array in made.features.items()}
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _night(about: dict[str, Any], features: bytes) -> Night:
    arrays: dict[int, dict[str, np.ndarray]] = {}
    with np.load(io.BytesIO(features)) as file:
        for name in file.files:
            number, _, distance = name.partition(" ")
            arrays.setdefault(int(number), {})[distance] = file[name]
    objects = tuple(
        Made(one["method"], one["prompt"], one["seed"], one["values"], one.get("error", ""), arrays.get(i, {}))
        for i, one in enumerate(about["objects"])
    )
    names = "run_id", "date_utc", "commit", "machine", "keys", "recipes"
    return Night(**{name: about[name] for name in names}, objects=objects)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
