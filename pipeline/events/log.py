"""What happened in a run, one JSON line an event: the truth that tables, logs, metrics and trackers tell of.

A record has `time` (UTC), `kind` and `stage`; and, as far as they are known: `worker`, `pid`, `node`, `gpu`, `job_id`,
`prompt_id`, `method`, `iteration` of `iterations`, `seconds_per_iteration`, `memory_bytes`, `seconds` since the item
was begun, `error_kind`, `note`. A record of a generator's progress also has what the worker counts: `loss`,
`gaussians`, and as `seconds` those that the asset has taken so far, before interruptions too.
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
PROGRESS_SECONDS = 5.0  # between two records of the progress of one item
POINTS = 50  # of a curve over the steps of an item: records come at least so often, and with the last step
FLUSH_SECONDS = 5.0
PART_BYTES = 2**20  # object storage cannot append: a part is written anew until it is so long


class Sink(Protocol):
    """Takes records; `close` is called once, at the end of the command."""

    def take(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class EventLog:
    """Keeps records in `events/<session>-<part>.jsonl` of a run folder: a session writes files of its own.

    A command that is killed loses the records of its last seconds and nothing else: state is in other files.
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
        """Write what is new. Storage that fails is the scheduler's business: these lines wait for the next time."""
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
    """What a record says of an item: a job, an asset, or whatever calls itself something."""
    if item is None:
        return {}
    job_id = getattr(item, "id", None) or getattr(item, "job_id", None)
    if job_id is None:
        return {"item": str(item)}
    prompt_id, method = getattr(getattr(item, "prompt", None), "id", None), getattr(item, "method", None)
    known = {"job_id": job_id, "prompt_id": prompt_id, "method": method}
    return {key: value for key, value in known.items() if value}


@dataclass
class _Actor:
    """What is known of a worker beyond its events."""

    place: dict[str, Any] = field(default_factory=dict)
    begun: float | None = None  # clock at the start of the present item
    first: tuple[int, float] | None = None  # steps and clock at its first sign of life
    told: tuple[int, float] | None = None  # steps and clock when its progress was last recorded


class Recorder:
    """A watcher: makes a record of an event, with where, when and how fast, and gives it to the sinks."""

    def __init__(self, sinks: list[Sink], clock: Callable[[], float] = time.monotonic):
        self.sinks, self.clock = sinks, clock
        self.actors: dict[tuple[str, int], _Actor] = {}

    def watch(self, event: Event) -> None:
        if self.sinks and (record := self._record(event)):
            for sink in self.sinks:
                sink.take(record)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()

    def _record(self, event: Event) -> dict[str, Any] | None:
        """None for a sign of life too soon after the last."""
        now, key = self.clock(), (event.stage, event.worker)
        if event.kind == "starting":
            self.actors[key] = _Actor()
        actor = self.actors.setdefault(key, _Actor())
        if event.kind == "ready":
            actor.place = {
                name: value for name in ("pid", "node", "gpu") if (value := getattr(event, name)) not in (None, "")
            }
        elif event.kind == "started":
            actor.begun, actor.first, actor.told = now, None, None
        elif event.kind == "progress" and event.progress:
            actor.first = actor.first or (event.progress.done, now)
            if not _is_due(event.progress, actor.told, now):
                return None
            actor.told = event.progress.done, now
        record: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": event.kind}
        record |= {"stage": event.stage, "worker": event.worker} | actor.place | about(event.item)
        record |= self._pace(event, actor, now)
        if event.kind in ("finished", "failed", "retried") and actor.begun is not None:
            record["seconds"] = round(now - actor.begun, 3)
            actor.begun = None
        return record | {key: value for key in ("error_kind", "note") if (value := getattr(event, key))}

    @staticmethod
    def _pace(event: Event, actor: _Actor, now: float) -> dict[str, Any]:
        progress = event.progress
        if progress is None:
            return {}
        if event.kind == "checkpoint":
            return {"iteration": progress.saved, "iterations": progress.total}
        pace: dict[str, Any] = {name: value for name, value in progress.numbers.items() if math.isfinite(value)}
        pace |= {"iteration": progress.done, "iterations": progress.total}
        if actor.first and progress.done > actor.first[0]:
            pace["seconds_per_iteration"] = round((now - actor.first[1]) / (progress.done - actor.first[0]), 4)
        if progress.memory_bytes is not None:
            pace["memory_bytes"] = progress.memory_bytes
        return pace | ({"note": progress.note} if progress.note else {})


def _is_due(progress: Progress, told: tuple[int, float] | None, now: float) -> bool:
    """Whether a sign of life is worth a record, after one of so many steps at that time."""
    if told is None or progress.done == progress.total:
        return True
    return now - told[1] >= PROGRESS_SECONDS or (progress.done - told[0]) * POINTS >= progress.total
