"""The event log of a run: one JSON object per line, the source of all progress output and tracking.

A record has `time` (UTC), `kind` and `stage`. It also has those of these keys that are known: `worker`, `pid`, `node`,
`gpu`, `job_id`, `prompt_id`, `method`, `iteration` and `iterations`, `seconds_per_iteration`, `memory_bytes`, `seconds`
since the item was started, `error_kind` and `note`. Progress records of a generator add the worker's numbers: `loss`,
`gaussians`, and `seconds`, the time spent on the asset in all attempts. Records of the kind `preparing` have a `note`
on what a worker does before its next iteration, such as the compilation of a network. If a healthy idle worker makes
way for another stage, the record has the kind `died`, as every exit of a worker, and `stopped: true`.
"""

import json
import math
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from cluster.scheduling.workers import Event, WorkerView
from pipeline.store.run_folder import Store

FOLDER = "events"
PROGRESS_SECONDS = 5.0  # between two progress records of one item
POINTS = 50  # progress records of an item come at least every 1/POINTS of its steps, and at the last step
FLUSH_SECONDS = 5.0
PART_BYTES = 2**20  # object storage cannot append: each flush rewrites the part until it reaches this size


class Sink(Protocol):
    """A consumer of records."""

    def take(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None:
        """Called once, when the command ends. Does nothing by default."""
        return


class EventLog:
    """Writes records to `events/<session>-<part>.jsonl` in a run folder. Each session has its own files.

    A killed command loses only the records of its last `FLUSH_SECONDS`: all state is in other files.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic):
        self.store, self.clock = store, clock
        self.session = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self.part, self.lines, self.size = 0, list[bytes](), 0
        self.written, self.written_at = 0, clock()

    def take(self, record: dict[str, Any]) -> None:
        self.lines.append(line(record).encode() + b"\n")
        self.size += len(self.lines[-1])
        if self.clock() - self.written_at >= FLUSH_SECONDS:
            self._flush()

    def close(self) -> None:
        self._flush()

    def _flush(self) -> None:
        """Write new records. If storage fails, keep them for the next flush: the scheduler handles storage errors."""
        self.written_at = self.clock()
        if self.written == len(self.lines):
            return
        path = self.store.root / FOLDER / f"{self.session}-{self.part:04}.jsonl"
        try:
            self.store.write(path, b"".join(self.lines))
        except OSError:
            return
        self.written = len(self.lines)
        if self.size >= PART_BYTES:
            self.part, self.lines, self.size, self.written = self.part + 1, [], 0, 0


def line(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


def about(item: Any) -> dict[str, Any]:
    """The fields of a record that describe an item: a job, an asset, or any other item by its `str`."""
    if item is None:
        return {}
    job_id = getattr(item, "id", None) or getattr(item, "job_id", None)
    if job_id is None:
        return {"item": str(item)}
    prompt_id, method = getattr(getattr(item, "prompt", None), "id", None), getattr(item, "method", None)
    known = {"job_id": job_id, "prompt_id": prompt_id, "method": method}
    return {key: value for key, value in known.items() if value}


class Recorder:
    """Turns each event into a record with place, time and speed, and passes it to the sinks."""

    def __init__(self, sinks: Sequence[Sink]):
        self.sinks = sinks
        self.recorded: dict[tuple[str, int], tuple[int, float]] = {}  # steps and time of an item's last progress record

    def watch(self, event: Event, view: WorkerView) -> None:
        """Record an event; `view` is its worker's after it."""
        if self.sinks and self._is_due(event, view):
            found = record(event, view)
            for sink in self.sinks:
                sink.take(found)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()

    def _is_due(self, event: Event, view: WorkerView) -> bool:
        """Whether to record an event: any but a progress event too soon after the last record."""
        key = event.stage, event.worker
        if event.kind != "progress":
            if event.kind != "checkpoint":
                self.recorded.pop(key, None)
            return True
        done, total = view.progress.done, view.progress.total
        last, at = self.recorded.get(key, (0, -math.inf))
        if done != total and view.beat_at - at < PROGRESS_SECONDS and (done - last) * POINTS < total:
            return False
        self.recorded[key] = done, view.beat_at
        return True


def record(event: Event, view: WorkerView) -> dict[str, Any]:
    """The record of an event, now; `view` is its worker's after it."""
    found: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
    found |= {"kind": "died", "stopped": True} if event.kind == "stopped" else {"kind": event.kind}
    found |= {"stage": event.stage, "worker": event.worker}
    found |= {key: value for key in ("pid", "node", "gpu") if (value := getattr(view, key)) not in (None, "")}
    found |= about(event.item)
    if event.kind in ("preparing", "progress"):
        found |= _heartbeat(view)
    elif event.kind == "checkpoint" and event.progress:
        found |= {"iteration": event.progress.saved, "iterations": event.progress.total}
    elif event.kind in ("finished", "failed", "retried") and view.seconds is not None:
        found["seconds"] = round(view.seconds, 3)
    return found | {key: value for key in ("error_kind", "note") if (value := getattr(event, key))}


def _heartbeat(view: WorkerView) -> dict[str, Any]:
    """The fields of a record that come from a heartbeat."""
    progress = view.progress
    known = {
        "iteration": progress.done,
        "iterations": progress.total,
        "seconds_per_iteration": None if view.pace is None else round(view.pace, 4),
        "memory_bytes": progress.memory_bytes,
        "note": progress.note or None,
    }
    numbers = {name: value for name, value in progress.numbers.items() if math.isfinite(value)}
    return numbers | {key: value for key, value in known.items() if value is not None}
