"""The event log of a run: one JSON object per line, the source of all progress output and tracking.

A record has `time` (UTC), `kind` and `stage`. It also has those of these keys that are known: `worker`, `pid`, `node`,
`gpu`, `job_id`, `prompt_id`, `method`, `iteration` and `iterations`, `seconds_per_iteration`, `memory_bytes`, `seconds`
since the item was started, `error_kind` and `note`. Progress records of a generator add the worker's numbers: `loss`,
`gaussians`, and `seconds`, the time spent on the asset in all attempts.
"""

import json
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from cluster.scheduling.executor import Event, Progress
from pipeline.store.run_folder import Store

FOLDER = "events"
PROGRESS_SECONDS = 5.0  # between two progress records of one item
POINTS = 50  # progress records of an item come at least every 1/POINTS of its steps, and at the last step
FLUSH_SECONDS = 5.0
PART_BYTES = 2**20  # object storage cannot append: each flush rewrites the part until it reaches this size


class Sink(Protocol):
    """A consumer of records. `close` is called once, when the command ends."""

    def take(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


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


@dataclass
class _WorkerState:
    """The state of one worker that its events do not carry."""

    place: dict[str, Any] = field(default_factory=dict)
    started: float | None = None  # clock at the start of the current item
    first: tuple[int, float] | None = None  # steps and clock at the item's first progress event
    recorded: tuple[int, float] | None = None  # steps and clock at the item's last progress record


class Recorder:
    """An event watcher that turns each event into a record with place, time and speed, and passes it to the sinks."""

    def __init__(self, sinks: list[Sink], clock: Callable[[], float] = time.monotonic):
        self.sinks, self.clock = sinks, clock
        self.workers: dict[tuple[str, int], _WorkerState] = {}

    def watch(self, event: Event) -> None:
        if self.sinks and (record := self._record(event)):
            for sink in self.sinks:
                sink.take(record)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()

    def _record(self, event: Event) -> dict[str, Any] | None:
        """The record, or None for a progress event too soon after the last record."""
        now, key = self.clock(), (event.stage, event.worker)
        if event.kind == "starting":
            self.workers[key] = _WorkerState()
        worker = self.workers.setdefault(key, _WorkerState())
        if event.kind == "ready":
            worker.place = {
                name: value for name in ("pid", "node", "gpu") if (value := getattr(event, name)) not in (None, "")
            }
        elif event.kind == "started":
            worker.started, worker.first, worker.recorded = now, None, None
        elif event.kind == "progress" and event.progress:
            worker.first = worker.first or (event.progress.done, now)
            if not _is_due(event.progress, worker.recorded, now):
                return None
            worker.recorded = event.progress.done, now
        record: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": event.kind}
        record |= {"stage": event.stage, "worker": event.worker} | worker.place | about(event.item)
        record |= self._pace(event, worker, now)
        if event.kind in ("finished", "failed", "retried") and worker.started is not None:
            record["seconds"] = round(now - worker.started, 3)
            worker.started = None
        return record | {key: value for key in ("error_kind", "note") if (value := getattr(event, key))}

    @staticmethod
    def _pace(event: Event, worker: _WorkerState, now: float) -> dict[str, Any]:
        progress = event.progress
        if progress is None:
            return {}
        if event.kind == "checkpoint":
            return {"iteration": progress.saved, "iterations": progress.total}
        pace: dict[str, Any] = {name: value for name, value in progress.numbers.items() if math.isfinite(value)}
        pace |= {"iteration": progress.done, "iterations": progress.total}
        if worker.first and progress.done > worker.first[0]:
            pace["seconds_per_iteration"] = round((now - worker.first[1]) / (progress.done - worker.first[0]), 4)
        if progress.memory_bytes is not None:
            pace["memory_bytes"] = progress.memory_bytes
        return pace | ({"note": progress.note} if progress.note else {})


def _is_due(progress: Progress, last: tuple[int, float] | None, now: float) -> bool:
    """Whether to record this progress event; `last` is the steps and clock of the last progress record."""
    if last is None or progress.done == progress.total:
        return True
    return now - last[1] >= PROGRESS_SECONDS or (progress.done - last[0]) * POINTS >= progress.total
