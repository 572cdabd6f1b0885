"""The executor contract, and the executor that runs everything in this process.

A worker of a stage turns an item into a result; while it works it yields progress. Items and results are opaque here.
Every item given to `Executor.run` ends in exactly one `Outcome`.
"""

import os
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from cluster.scheduling import scheduler as scheduling
from cluster.scheduling.failures import Failure
from cluster.scheduling.protocol import (
    Abort,
    Advance,
    Assign,
    Command,
    End,
    Failed,
    Joined,
    Place,
    Ready,
    Retry,
    Start,
    Stop,
    Succeeded,
    Tick,
)
from cluster.scheduling.scheduler import Limits, Scheduler


@dataclass(frozen=True)
class Progress:
    """A heartbeat: `done` of `total` steps of the current item; another worker can resume from step `saved`."""

    done: int
    total: int
    note: str = ""
    memory_bytes: int | None = None  # peak memory of the worker for this item
    saved: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)  # further measurements, by name


# Called with one item; yields `Progress` any number of times and returns the result. An exception fails the item.
# If a `yield` returns True, the worker should save a checkpoint at once, so that another worker can resume from it.
Worker = Callable[[Any], Generator[Progress, Any, Any]]


def unknown_duration(item: Any) -> float:
    """The expected duration of an item if no estimate exists."""
    return 0.0


@dataclass(frozen=True)
class Stage:
    """One kind of worker: `make_worker` runs once in each worker's process; each worker reserves `gpus` and `cpus`.

    Items with larger `expected_seconds`, in any unit, start first. Only the first stage's estimates are used.
    """

    name: str
    make_worker: Callable[[], Worker]
    workers: int = 1
    gpus: float = 0.0
    cpus: float = 1.0
    min_gpu_gib: float = 0.0  # memory that a GPU must have
    elastic: bool = False  # add workers as nodes with free resources join, remove them as nodes leave
    handoff: int = scheduling.HANDOFF  # items that may wait per worker before the previous stage pauses
    expected_seconds: Callable[[Any], float] = unknown_duration


def make_scheduler(stages: Sequence[Stage], items: Sequence[Any], limits: Limits) -> Scheduler:
    """The scheduler of a run of `items` through `stages`."""
    expected = stages[0].expected_seconds
    return Scheduler([stage.name for stage in stages], items, limits, expected, [stage.handoff for stage in stages])


@dataclass(frozen=True)
class Outcome:
    """The end of one item: the last stage's `result`, or the stage that failed and its `error`."""

    item: Any
    result: Any = None
    failed_stage: str | None = None
    error: Failure | None = None
    deaths: int = 0  # workers that died while they worked on this item


@dataclass(frozen=True)
class Event:
    """An event for a watcher. `item` is None while a worker starts; `ready` names its process, node and GPU."""

    kind: Literal["starting", "ready", "started", "progress", "checkpoint", "finished", "failed", "died", "retried"]
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


class BootError(RuntimeError):
    """No worker of a stage could be built, so the run stops."""

    def __init__(self, stage: str, failure: Failure):
        self.stage, self.failure = stage, failure
        super().__init__(f"The {stage} worker could not start: {failure.message}")


class StorageError(RuntimeError):
    """Storage failed for every worker for a while, so the run stops. The same command resumes it."""


class Executor(Protocol):
    """Runs items through stages. Both implementations pass tests/cluster/scheduling/test_contract.py."""

    def gpus(self) -> int:
        """The number of GPUs that can be reserved."""
        ...

    def run(self, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher = ignore_event) -> Iterator[Outcome]:
        """Yield one `Outcome` per item, in order of completion. Raises BootError, StorageError."""
        ...


class InlineExecutor:
    """Runs everything in this process, one item after the other; for debugging and tests."""

    def __init__(self, limits: Limits = scheduling.DEFAULTS):
        self.limits = limits

    def gpus(self) -> int:
        return 0  # nothing is reserved: workers find the devices of this process themselves

    def run(self, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher = ignore_event) -> Iterator[Outcome]:
        scheduler = make_scheduler(stages, items, self.limits)
        workers: dict[Place, Worker] = {}
        todo: list[Command] = []
        for number in range(len(stages)):
            todo += scheduler.handle(Joined(Place(number, 0)), time.monotonic())
        while not scheduler.finished or todo:
            if not todo:
                time.sleep(max(0.0, (scheduler.wakes_at or 0.0) - time.monotonic()))
                todo += scheduler.handle(Tick(), time.monotonic())
                continue
            command = todo.pop(_next(todo))
            event: Ready | Succeeded | Failed
            if isinstance(command, Start):
                event = self._boot(command, stages[command.place.stage], workers, watcher)
            elif isinstance(command, Assign):
                stage = stages[command.place.stage]
                watcher(Event("started", stage.name, 0, command.task.item))
                steps = attempt(workers[command.place], command.task.payload)
                reply = self._finish(steps, stage.name, command.task.item, watcher)
                if isinstance(reply, Failure):
                    event = Failed(command.ticket, reply)
                else:
                    event = Succeeded(command.ticket, reply.value)
            else:
                if isinstance(command, Stop):
                    workers.pop(command.place, None)
                yield from report(command, stages, watcher)
                continue
            todo += scheduler.handle(event, time.monotonic())

    @staticmethod
    def _finish(
        steps: Generator[Progress, None, "Success | Failure"], stage: str, item: Any, watcher: Watcher
    ) -> "Success | Failure":
        saved = 0
        while True:
            try:
                progress = next(steps)
            except StopIteration as stop:
                return stop.value
            for event in progress_events(progress, stage, 0, item, saved):
                watcher(event)
            saved = progress.saved

    @staticmethod
    def _boot(command: Start, stage: Stage, workers: dict[Place, Worker], watcher: Watcher) -> Ready | Failed:
        watcher(Event("starting", stage.name, 0))
        try:
            workers[command.place] = stage.make_worker()
        except Exception as error:
            return Failed(command.ticket, Failure.of(error))
        watcher(Event("ready", stage.name, 0, pid=os.getpid(), node=socket.gethostname()))
        return Ready(command.ticket)


def progress_events(progress: Progress, stage: str, worker: int, item: Any, saved: int) -> Iterator[Event]:
    """The events of one `Progress`; `saved` is the step of the last checkpoint that was reported."""
    if progress.saved > saved:
        yield Event("checkpoint", stage, worker, item, progress)
    yield Event("progress", stage, worker, item, progress)


def _next(commands: Sequence[Command]) -> int:
    """The index of the next command: notifications first, then the latest stage, so that started items finish."""
    ranks = [command.place.stage if isinstance(command, Start | Assign) else len(commands) for command in commands]
    return ranks.index(max(ranks))


def report(command: Command, stages: Sequence[Stage], watcher: Watcher) -> Iterator[Outcome]:
    """Report a command to the watcher and yield its outcome, if any. Raises the error that stops a run."""
    if isinstance(command, Abort):
        if command.failure.kind == "storage" and command.is_outage:
            raise StorageError(
                f"Storage fails for every worker ({command.failure.message}); check that the run folder can be "
                "written, then run the same command again: finished jobs are kept."
            )
        raise BootError(stages[command.stage].name, command.failure)
    place = command.place
    stage = stages[place.stage].name
    if isinstance(command, Stop):
        failure = command.failure
        watcher(Event("died", stage, place.worker, note=failure.message, error_kind=failure.kind))
    elif isinstance(command, Retry):
        item, failure = command.task.item, command.failure
        watcher(Event("retried", stage, place.worker, item, note=failure.message, error_kind=failure.kind))
    elif isinstance(command, Advance):
        watcher(Event("finished", stage, place.worker, command.task.item))
    elif isinstance(command, End):
        task, error = command.task, command.failure
        deaths = task.failures["died"]
        if error is None:
            watcher(Event("finished", stage, place.worker, task.item))
            yield Outcome(task.item, command.result, deaths=deaths)
        else:
            watcher(Event("failed", stage, place.worker, task.item, note=error.message, error_kind=error.kind))
            yield Outcome(task.item, None, stage, error, deaths)


@dataclass(frozen=True)
class Success:
    """The result of an attempt."""

    value: Any


def attempt(
    worker: Worker, payload: Any, is_draining: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, Success | Failure]:
    """Run a worker on an item. Exceptions become a `Failure`, so that none crosses a process boundary.

    Once `is_draining` returns True no item is started, and a running one ends with its next checkpoint, if any.
    """
    if is_draining():
        return DRAINED
    requested: int | None = None  # the step at which a checkpoint was requested
    try:
        steps = worker(payload)
        answer: bool | None = None
        while True:
            try:
                progress = steps.send(answer)
            except StopIteration as stop:
                return Success(stop.value)
            yield progress
            if requested is not None and progress.saved >= requested:
                return DRAINED
            if answer := requested is None and is_draining():
                requested = progress.done
    except Exception as error:
        return Failure.of(error)


DRAINED = Failure("preempted", "its node is being drained")
