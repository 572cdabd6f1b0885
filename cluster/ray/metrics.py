"""Prometheus metrics of a run, exported by Ray on the driver's node; Ray prepends `ray_` to each name.

`cluster/deploy/grafana.json` plots them. They contain no prompt, path or message, so the number of labels stays small.
"""

import math
from collections import Counter as Count
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from cluster.scheduling.workers import Event, Workers, WorkerView

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
    """Exports the events and the workers of one run."""

    def __init__(self, workers: Workers, stages: Sequence[str]):
        self.instruments, self.workers, self.stages = _instruments(), workers, stages
        self.exported = set[tuple[str, int, str]]()  # stage, worker and name of the numbers exported last

    def watch(self, event: Event, view: WorkerView) -> None:
        """Count an event; `view` is its worker's after it."""
        stage = {"stage": event.stage}
        if event.kind == "progress" and view.intervals:
            self.instruments.step.observe(view.intervals[-1], stage)
        if event.kind in STATUS:
            self.instruments.items.inc(1, stage | {"status": STATUS[event.kind], "kind": event.error_kind or "none"})
        if event.kind == "finished" and view.seconds is not None:
            self.instruments.stage.observe(view.seconds, stage)

    def export(self) -> None:
        """Set the gauges of all workers. Call it every few seconds: Ray drops a gauge that is not set again."""
        self._set(list(self.workers.views.values()))

    def close(self) -> None:
        """End the run: clear all numbers and set all worker counts to 0."""
        self._set([])

    def _set(self, views: Sequence[WorkerView]) -> None:
        count = Count[tuple[str, str]]((view.stage, view.state) for view in views)
        for stage, state in product(self.stages, STATES):
            self.instruments.workers.set(count[stage, state], {"stage": stage, "state": state})
        numbers = {
            (view.stage, view.worker, name): value for view in views for name, value in view.progress.numbers.items()
        }
        # NaN is not a sample: Ray's exporter then omits the numbers of an item that its worker has left.
        for (stage, worker, name), value in (dict.fromkeys(self.exported, math.nan) | numbers).items():
            self.instruments.number.set(value, {"stage": stage, "worker": str(worker), "name": name})
        self.exported = set(numbers)
