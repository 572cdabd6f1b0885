"""How a run stands, from its folder alone: read and never touched, without torch, Ray or pandas."""

import json
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from pipeline.events.progress import duration
from pipeline.store import files, lease, manifest
from pipeline.store.attempts import ATTEMPT, BREAKDOWN, HEADER_BYTES, JUDGING
from pipeline.store.run_folder import CHECKPOINT, GENERATION, Store

STATES = "done", "failed", "judging", "generated", "running", "stopped", "waiting"


def of(store: Store) -> dict[str, Any]:
    """All that `status --json` prints. Raises UserError where there is no run."""
    about = manifest.read(store)
    holder = lease.holder(store.root)
    jobs = [_job(store, job, about, is_held=holder is not None) for job in about["jobs"]]
    states = Counter(job["state"] for job in jobs)
    return {
        "run": str(store.root),
        "run_id": about["run_id"],
        "states": {state: states[state] for state in STATES},
        "jobs": jobs,
        "lease": holder and {key: holder.get(key) for key in ("host", "pid", "epoch", "expires_utc")},
        "bytes": sum(files.sizes(store.root)),
        "started_utc": about["sessions"][0]["started_utc"],
        "next": _next(store, about, states, is_held=holder is not None),
    }


def table(status: dict[str, Any]) -> str:
    """The same for people: a line per job that is not done, and what to do."""
    counts = ", ".join(f"{count} {state}" for state, count in status["states"].items() if count)
    lines = [f"{status['run']}: {len(status['jobs'])} jobs: {counts}; {status['bytes'] / 2**20:,.1f} MiB"]
    if holder := status["lease"]:
        lines.append(f"held by {lease.name_of(holder)} until {holder['expires_utc']} unless renewed")
    for job in status["jobs"]:
        if job["state"] in ("done", "waiting"):
            continue
        steps = f" at iteration {job['iteration']} of {job['iterations']}" if job["iteration"] is not None else ""
        age = "" if job["age_seconds"] is None else f", {duration(job['age_seconds'])} ago"
        why = f": {job['error_kind']}: {job['error']}" if job["error"] else ""
        lines.append(f"  {job['prompt']} ({job['method']}): {job['state']}{steps}{age}{why}")
    return "".join(f"{line}\n" for line in [*lines, status["next"]])


def _job(store: Store, job: dict[str, Any], about: dict[str, Any], *, is_held: bool) -> dict[str, Any]:
    folder = store.item(job["job_id"])
    record, made = store.record(job["job_id"]) or {}, store.read_json(folder / GENERATION)
    attempt = store.read_json(folder / (JUDGING if made else ATTEMPT))
    checkpoint, iteration = folder / CHECKPOINT, None
    if not made and checkpoint.exists():
        iteration = _iteration(files.head(checkpoint, HEADER_BYTES))
    state = _state(record, about.get("evaluation"), is_made=bool(made), is_begun=bool(attempt), is_held=is_held)
    breakdown = store.read_json(folder / BREAKDOWN) or {}
    last = checkpoint if iteration is not None else folder / GENERATION if made else None
    is_failed = state == "failed"
    return {
        "job_id": job["job_id"],
        "prompt": job["prompt"],
        "method": job["method"],
        "state": state,
        "iteration": made["iterations"] if made else iteration,
        "iterations": made["iterations"] if made else about["recipes"][job["method"]]["iterations"],
        "attempt": made.get("attempt") if made else (attempt or {}).get("number"),
        "age_seconds": _age(last, attempt),
        "error_kind": record["error_kind"] if is_failed else "numeric" if breakdown else "",
        "error": record["error"] if is_failed else breakdown.get("error", ""),
        "warnings": (made or {}).get("warnings", []),
    }


def _state(record: dict[str, Any], evaluation: str | None, *, is_made: bool, is_begun: bool, is_held: bool) -> str:
    ended = record.get("status")
    if ended == "done" and evaluation in (None, record["evaluation"]):
        return "done"
    if is_begun and is_held:
        return "judging" if is_made else "running"
    if ended == "failed":
        return "failed"
    if is_made:
        return "generated"
    return "stopped" if is_begun else "waiting"


def _iteration(header: bytes) -> int | None:
    try:
        return json.loads(header.partition(b"\n")[0])["iteration"]
    except (ValueError, KeyError, TypeError):
        return None


def _age(path: Any, attempt: dict[str, Any] | None) -> float | None:
    """Seconds since the last thing that happened to a job, by this machine's clock."""
    try:
        if path is not None and (written := path.stat().st_mtime):
            return max(0.0, time.time() - written)
    except FileNotFoundError:  # it went on meanwhile
        return None
    if attempt is None:
        return None
    begun = datetime.fromisoformat(attempt["started_utc"])
    return max(0.0, (datetime.now(UTC) - begun).total_seconds())


def _next(store: Store, about: dict[str, Any], states: Counter[str], *, is_held: bool) -> str:
    if is_held:
        return f"At work. Look again: segmentdreamer status {store.root}"
    if states["done"] == len(about["jobs"]):
        return f"Finished: {store.root}/leaderboard.csv, {store.root}/report.md"
    return f"Go on: {about['sessions'][-1]['command']}"
