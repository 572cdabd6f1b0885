"""What Prometheus may know of a run: Ray's exporter on the driver's node shows it, each name after `ray_`.

`cluster/deploy/grafana.json` draws it. No prompt, no path and no message goes there: labels stay few.
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
    """Made once in a process, however many runs it has."""
    from ray.util.metrics import Counter, Gauge, Histogram

    return _Instruments(
        Counter(ITEMS, "Ends of an item at a stage: done, failed or retried, and the kind of failure.",
                tag_keys=("stage", "status", "kind")),
        Histogram(STEP, "Seconds from one sign of life to the next.", boundaries=STEP_SECONDS, tag_keys=("stage",)),
        Histogram(STAGE, "Seconds an item has spent at a stage.", boundaries=STAGE_SECONDS, tag_keys=("stage",)),
        Gauge(WORKERS, "Workers by what they do: starting, idle or busy.", tag_keys=("stage", "state")),
        Gauge(NUMBER, "What a worker counts of its present item, by name: loss, gaussians, seconds.",
              tag_keys=("stage", "worker", "name")),
    )  # fmt: skip


class Metrics:
    """A watcher of one run."""

    def __init__(self) -> None:
        self.tools = _instruments()
        self.states: dict[tuple[str, int], str] = {}
        self.begun: dict[tuple[str, int], float] = {}
        self.beat: dict[tuple[str, int], float] = {}
        self.stages = set[str]()
        self.told: dict[tuple[str, int], set[str]] = {}  # names of what is shown of a worker's present item

    def watch(self, event: Event) -> None:
        now, key = time.monotonic(), (event.stage, event.worker)
        self.stages.add(event.stage)
        if event.kind == "progress":
            self._count(event, key)
            if key in self.beat:
                self.tools.step.observe(now - self.beat[key], {"stage": event.stage})
            self.beat[key] = now
            return
        if event.kind != "checkpoint":
            self._forget(key)
        if event.kind in STATUS:
            self.tools.items.inc(
                1, {"stage": event.stage, "status": STATUS[event.kind], "kind": event.error_kind or "none"}
            )
            if key in self.begun and event.kind == "finished":
                self.tools.stage.observe(now - self.begun[key], {"stage": event.stage})
        if event.kind == "started":
            self.begun[key] = now
            self.beat.pop(key, None)
        self._state(event, key)

    def _count(self, event: Event, key: tuple[str, int]) -> None:
        for name, value in event.progress.numbers.items() if event.progress else ():
            self.told.setdefault(key, set()).add(name)
            self._number(key, name, value)

    def _forget(self, key: tuple[str, int]) -> None:
        """Show no number of an item that the worker is not at any more."""
        for name in self.told.pop(key, ()):
            self._number(key, name, math.nan)

    def _number(self, key: tuple[str, int], name: str, value: float) -> None:
        """NaN is no sample: Ray's exporter then leaves the series out."""
        stage, worker = key
        self.tools.number.set(value, {"stage": stage, "worker": str(worker), "name": name})

    def _state(self, event: Event, key: tuple[str, int]) -> None:
        state = {"starting": "starting", "ready": "idle", "started": "busy", "finished": "idle", "failed": "idle",
                 "retried": "idle"}.get(event.kind)  # fmt: skip
        if event.kind == "died":
            self.states.pop(key, None)
        elif state and (key in self.states or event.kind == "starting"):
            self.states[key] = state
        self._show(event.stage)

    def _show(self, stage: str) -> None:
        count = Count(state for (name, _), state in self.states.items() if name == stage)
        for state in STATES:
            self.tools.workers.set(count[state], {"stage": stage, "state": state})

    def close(self) -> None:
        """Nobody works any more."""
        for key in list(self.told):
            self._forget(key)
        self.states.clear()
        for stage in self.stages:
            self._show(stage)
