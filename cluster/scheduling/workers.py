"""The workers of a run: the events that report on them, and the reduction of these events to one view per worker.

Progress output, event log, metrics, stall detection and the Ray executor all read these views, so they cannot disagree.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Progress:
    """A heartbeat: `done` of `total` steps of the current item; another worker can resume from step `saved`.

    With `is_preparing`, the worker is about to do what `note` says before the next step. This is the event `preparing`,
    and does not count for the pace.
    """

    done: int
    total: int
    note: str = ""
    memory_bytes: int | None = None  # peak memory of the worker for this item
    saved: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)  # further measurements, by name
    is_preparing: bool = False


NO_PROGRESS = Progress(0, 0)
REMEMBERED_INTERVALS = 21

EventKind = Literal[
    "starting", "ready", "started", "preparing", "progress", "checkpoint",
    "finished", "failed", "retried", "died", "stopped",
]  # fmt: skip


@dataclass(frozen=True)
class Event:
    """An event for a watcher. `item` is None while a worker starts; `ready` names its process, node and GPU.

    A worker that is lost or replaced has `died`; a healthy idle one that makes way for another stage has `stopped`.
    """

    kind: EventKind
    stage: str
    worker: int
    item: Any = None
    progress: Progress | None = None
    note: str = ""
    error_kind: str = ""  # a kind of `retries.POLICIES`
    pid: int | None = None
    node: str = ""
    gpu: str = ""


Watcher = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """A watcher that does nothing."""


@dataclass(frozen=True)
class WorkerView:
    """One worker after its latest event. Times are readings of the clock of `Workers`, in seconds."""

    stage: str
    worker: int
    pid: int | None = None
    node: str = ""
    gpu: str = ""
    state: Literal["starting", "idle", "busy", "stopped"] = "starting"
    since: float = 0.0  # time of the change to this state
    item: Any = None  # while it is busy
    seconds: float | None = None  # duration of the item that it has just left
    failure: str = ""  # why it failed at that item, which may also be why the worker exits
    progress: Progress = NO_PROGRESS  # the latest heartbeat of the current item
    beats: int = 0  # number of heartbeats of the current item
    beat_at: float = 0.0  # time of the latest one
    intervals: tuple[float, ...] = ()  # between the latest of them, at most `REMEMBERED_INTERVALS`
    first_done: int = 0  # steps done at the first one: a resumed item does not start at 0
    first_at: float = 0.0
    prepared_at: float = 0.0  # time of the latest event of its preparation

    @property
    def pace(self) -> float | None:
        """Seconds per step from the first to the latest heartbeat of the item; None until two steps are known."""
        steps = self.progress.done - self.first_done
        return (self.beat_at - self.first_at) / steps if steps > 0 else None

    @property
    def heard_at(self) -> float:
        """Time of the latest heartbeat, or of the change to the current state if there was none since."""
        return max(self.beat_at if self.beats else self.since, self.prepared_at)

    @property
    def seconds_left(self) -> float | None:
        """Estimated time that the current item still takes after the latest heartbeat; None without a pace."""
        return None if self.pace is None else self.pace * (self.progress.total - self.progress.done)

    def after(self, event: Event, now: float) -> "WorkerView":
        """The view after `event`, which occurs at time `now`."""
        left = WorkerView(self.stage, self.worker, self.pid, self.node, self.gpu, since=now)  # its item
        match event.kind:
            case "starting":
                return WorkerView(self.stage, self.worker, since=now)
            case "ready":
                return replace(left, state="idle", pid=event.pid, node=event.node, gpu=event.gpu)
            case "started":
                return replace(left, state="busy", item=event.item)
            case "preparing" if event.progress:
                return self._preparing(event.progress, now)
            case "progress" if event.progress:
                return self._after_heartbeat(event.progress, now)
            case "finished" | "failed" | "retried":
                seconds = now - self.since if self.state == "busy" else None
                return replace(left, state="idle", seconds=seconds, failure=event.note)
            case "died" | "stopped":
                return replace(left, state="stopped", failure=self.failure)
        return self

    def _preparing(self, progress: Progress, now: float) -> "WorkerView":
        if self.beats:
            return replace(self, progress=replace(self.progress, note=progress.note), prepared_at=now)
        return replace(self, progress=progress, first_done=progress.done, prepared_at=now)

    def _after_heartbeat(self, progress: Progress, now: float) -> "WorkerView":
        view = replace(self, progress=progress, beats=self.beats + 1, beat_at=now)
        if not self.beats:
            return replace(view, first_done=progress.done, first_at=now)
        return replace(view, intervals=(*self.intervals, now - self.beat_at)[-REMEMBERED_INTERVALS:])


class Workers:
    """The workers of a run, from the first event of each until it dies or is stopped."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.views: dict[tuple[str, int], WorkerView] = {}  # by stage and number

    def take(self, event: Event) -> WorkerView:
        """The worker's view after an event."""
        key = event.stage, event.worker
        view = self.views.get(key, WorkerView(*key)).after(event, self.clock())
        if view.state == "stopped":
            self.views.pop(key, None)
        else:
            self.views[key] = view
        return view


def progress_events(view: WorkerView, progress: Progress) -> list[Event]:
    """The events of a heartbeat of the worker, also of a checkpoint if it has saved one since its last heartbeat.

    A heartbeat before or between steps is one event, `preparing`.
    """
    if progress.is_preparing:
        return [Event("preparing", view.stage, view.worker, view.item, progress, progress.note)]
    beat = Event("progress", view.stage, view.worker, view.item, progress)
    return [replace(beat, kind="checkpoint"), beat] if progress.saved > view.progress.saved else [beat]
