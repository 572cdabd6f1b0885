"""Prometheus metrics of a run, exported by Ray on the driver's node; Ray prepends `ray_` to each name.

`cluster/deploy/grafana.json` plots them. They contain no prompt, path or message, so the number of labels stays small.
"""

import math
import time
from collections import Counter as Count
from functools import cache
from typing import Any, NamedTuple

from cluster.scheduling.executor import Event

ITEMS, STEP, STAGE, WORKERS, NUMBER = (
    f"segmentdreamer_{name}" for name in ("items", "step_seconds", "stage_seconds", "workers", "number")
)
STEP_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
STAGE_SECONDS = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0]
STATES = "starting", "idle", "busy"
STATUS = {"finished": "done", "failed": "failed", "retried": "retried"}


class _Instruments(NamedTuple):
    items: Any
    step: Any
    stage: Any
    workers: Any
    number: Any


@cache
def _instruments() -> _Instruments:
    """Created once per process, for all its runs."""
    from ray.util.metrics import Counter, Gauge, Histogram

    return _Instruments(
        Counter(ITEMS, "Items that left a stage, by status (done, failed or retried) and kind of failure.",
                tag_keys=("stage", "status", "kind")),
        Histogram(STEP, "Seconds between two heartbeats.", boundaries=STEP_SECONDS, tag_keys=("stage",)),
        Histogram(STAGE, "Seconds per item at a stage.", boundaries=STAGE_SECONDS, tag_keys=("stage",)),
        Gauge(WORKERS, "Workers by state: starting, idle or busy.", tag_keys=("stage", "state")),
        Gauge(NUMBER, "Measurements of a worker's current item, by name: loss, gaussians, seconds.",
              tag_keys=("stage", "worker", "name")),
    )  # fmt: skip


class Metrics:
    """A watcher that exports the events of one run."""

    def __init__(self) -> None:
        self.instruments = _instruments()
        self.states: dict[tuple[str, int], str] = {}
        self.started_at: dict[tuple[str, int], float] = {}
        self.last_beat: dict[tuple[str, int], float] = {}
        self.stages = set[str]()
        self.exported: dict[tuple[str, int], set[str]] = {}  # names of the numbers of each worker's current item

    def watch(self, event: Event) -> None:
        now, key = time.monotonic(), (event.stage, event.worker)
        self.stages.add(event.stage)
        if event.kind == "progress":
            self._export_numbers(event, key)
            if key in self.last_beat:
                self.instruments.step.observe(now - self.last_beat[key], {"stage": event.stage})
            self.last_beat[key] = now
            return
        if event.kind != "checkpoint":
            self._clear_numbers(key)
        if event.kind in STATUS:
            self.instruments.items.inc(
                1, {"stage": event.stage, "status": STATUS[event.kind], "kind": event.error_kind or "none"}
            )
            if key in self.started_at and event.kind == "finished":
                self.instruments.stage.observe(now - self.started_at[key], {"stage": event.stage})
        if event.kind == "started":
            self.started_at[key] = now
            self.last_beat.pop(key, None)
        self._update_state(event, key)

    def _export_numbers(self, event: Event, key: tuple[str, int]) -> None:
        for name, value in event.progress.numbers.items() if event.progress else ():
            self.exported.setdefault(key, set()).add(name)
            self._set_number(key, name, value)

    def _clear_numbers(self, key: tuple[str, int]) -> None:
        """Remove the numbers of an item that the worker has left."""
        for name in self.exported.pop(key, ()):
            self._set_number(key, name, math.nan)

    def _set_number(self, key: tuple[str, int], name: str, value: float) -> None:
        """NaN is not a sample: Ray's exporter then omits the series."""
        stage, worker = key
        self.instruments.number.set(value, {"stage": stage, "worker": str(worker), "name": name})

    def _update_state(self, event: Event, key: tuple[str, int]) -> None:
        state = {"starting": "starting", "ready": "idle", "started": "busy", "finished": "idle", "failed": "idle",
                 "retried": "idle"}.get(event.kind)  # fmt: skip
        if event.kind == "died":
            self.states.pop(key, None)
        elif state and (key in self.states or event.kind == "starting"):
            self.states[key] = state
        self._export_workers(event.stage)

    def _export_workers(self, stage: str) -> None:
        count = Count(state for (name, _), state in self.states.items() if name == stage)
        for state in STATES:
            self.instruments.workers.set(count[state], {"stage": stage, "state": state})

    def close(self) -> None:
        """End the run: clear all numbers and set all worker counts to 0."""
        for key in list(self.exported):
            self._clear_numbers(key)
        self.states.clear()
        for stage in self.stages:
            self._export_workers(stage)
