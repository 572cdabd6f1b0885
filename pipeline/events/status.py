"""The status of a run, from its folder alone. Read-only; loads neither torch nor Ray nor pandas."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import TypeAdapter

from pipeline.events.progress import duration
from pipeline.store import files, lease, manifest
from pipeline.store.attempts import ATTEMPT, HEADER_BYTES, NUMERIC_FAILURE, SCORING
from pipeline.store.manifest import Manifest
from pipeline.store.records import (
    CLAIM_FILE,
    FACTS_FILE,
    FAILURE_FILE,
    Claim,
    Done,
    Failed,
    GenerationFacts,
    JobEntry,
    Record,
)
from pipeline.store.results import current
from pipeline.store.run_folder import CHECKPOINT, GENERATION, Store

T = TypeVar("T")
STATES = "done", "failed", "judging", "generated", "running", "stopped", "waiting"
PRINTED = {"judging": "scoring"}  # JSON keeps its first name, which scripts read


def of(store: Store) -> dict[str, Any]:
    """The object that `status --json` prints. Raises UserError if the folder contains no run."""
    about = manifest.read(store)
    holder = lease.holder(store.root)
    found = files.listing(store.root)
    records = store.records([job.job_id for job in about.jobs])
    jobs = [
        _Job(store, job, about, current(record, job, about), found).state(is_held=holder is not None)
        for job, record in zip(about.jobs, records, strict=True)
    ]
    states = Counter(job["state"] for job in jobs)
    return {
        "run": str(store.root),
        "run_id": about.run_id,
        "states": {state: states[state] for state in STATES},
        "jobs": jobs,
        "lease": holder and {key: holder.get(key) for key in ("host", "pid", "epoch", "expires_utc")},
        "bytes": sum(file.bytes for file in found.values()),
        "started_utc": about.sessions[0].started_utc,
        "next": _next(store, about, states, is_held=holder is not None),
    }


def table(status: dict[str, Any]) -> str:
    """The status as text: totals, a line for each job that is neither done nor waiting, and the command to run next."""
    counts = ", ".join(f"{count} {PRINTED.get(state, state)}" for state, count in status["states"].items() if count)
    lines = [f"{status['run']}: {len(status['jobs'])} jobs: {counts}; {status['bytes'] / 2**20:,.1f} MiB"]
    if holder := status["lease"]:
        until = holder["expires_utc"] or "soon"
        lines.append(f"write lease: held by {lease.name_of(holder)}, expires {until} unless renewed")
    for job in status["jobs"]:
        if job["state"] in ("done", "waiting"):
            continue
        steps = f" at iteration {job['iteration']} of {job['iterations']}" if job["iteration"] is not None else ""
        age = "" if job["age_seconds"] is None else f", {duration(job['age_seconds'])} ago"
        state = PRINTED.get(job["state"], job["state"])
        why = f": {job['error_kind']}: {job['error']}" if job["error"] else ""
        lines.append(f"  {job['prompt']} ({job['method']}): {state}{steps}{age}{why}")
    return "".join(f"{line}\n" for line in [*lines, status["next"]])


@dataclass(frozen=True)
class _Job:
    """A job, its record and the files of the run folder, of which only those that are listed are read."""

    store: Store
    entry: JobEntry
    about: Manifest
    record: Record
    files: Mapping[str, files.Listed]

    def state(self, *, is_held: bool) -> dict[str, Any]:
        job, record = self.entry, self.record
        made = record.generation if isinstance(record, Done) else self._read(GENERATION, FACTS_FILE)
        attempt = self._read(SCORING if made else ATTEMPT, CLAIM_FILE)
        iteration = None if made else _iteration(self._checkpoint)
        state = _state(record, has_asset=made is not None, is_started=attempt is not None, is_held=is_held)
        numeric_failure = self._read(NUMERIC_FAILURE, FAILURE_FILE)
        last = CHECKPOINT if iteration is not None else GENERATION if made else ""
        is_failed = state == "failed"
        iterations = made.iterations if isinstance(made, GenerationFacts) else None
        return {
            "job_id": job.job_id,
            "prompt": job.prompt,
            "method": job.method,
            "state": state,
            "iteration": iteration if iterations is None else iterations,
            "iterations": self.about.recipe(job.method).get("iterations") if iterations is None else iterations,
            "attempt": made.attempt if made else attempt and attempt.number,
            "age_seconds": _age(self._listed(last), attempt),
            "error_kind": record.error_kind if is_failed else "numeric" if numeric_failure else "",
            "error": record.error if is_failed else numeric_failure.error if numeric_failure else "",
            "warnings": list(made.warnings or ()) if made else [],
        }

    def _listed(self, name: str) -> files.Listed | None:
        return self.files.get(f"items/{self.entry.job_id}/{name}")

    def _read(self, name: str, form: TypeAdapter[T]) -> T | None:
        return self.store.read_typed(self.store.item(self.entry.job_id) / name, form) if self._listed(name) else None

    @property
    def _checkpoint(self) -> bytes:
        """The first bytes of the checkpoint; none if there is none, or no longer."""
        try:
            path = self.store.item(self.entry.job_id) / CHECKPOINT
            return files.head(path, HEADER_BYTES) if self._listed(CHECKPOINT) else b""
        except FileNotFoundError:
            return b""


def _iteration(header: bytes) -> int | None:
    try:
        iteration = json.loads(header.partition(b"\n")[0])["iteration"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return iteration if type(iteration) is int else None


def _state(record: Record, *, has_asset: bool, is_started: bool, is_held: bool) -> str:
    if isinstance(record, Done):
        return "done"
    if is_started and is_held:
        return "judging" if has_asset else "running"
    if isinstance(record, Failed):
        return "failed"
    if has_asset:
        return "generated"
    return "stopped" if is_started else "waiting"


def _age(last: files.Listed | None, attempt: Claim | None) -> float | None:
    """Seconds since the last change of a job, by this machine's clock: of its file, else since the attempt's start."""
    if last is not None and last.changed:
        return max(0.0, time.time() - last.changed)
    if attempt is None or attempt.started_utc is None:
        return None
    return max(0.0, (datetime.now(UTC) - attempt.started_utc).total_seconds())


def _next(store: Store, about: Manifest, states: Counter[str], *, is_held: bool) -> str:
    if is_held:
        return f"Running. To check again: segmentdreamer status {store.root}"
    if states["done"] == len(about.jobs):
        return f"Finished: {store.root}/leaderboard.csv, {store.root}/report.md"
    return f"To resume: {about.sessions[-1].command}"
