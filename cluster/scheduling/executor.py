"""The executor protocol, and the executor that runs everything in this process.

A worker of a stage turns an item into a result; while it works it yields progress. Items and results are opaque here.
Every item given to `Executor.run` ends in exactly one `Outcome`.
"""

import os
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
    Signal,
    Start,
    Stop,
    Succeeded,
    Tick,
    WorkerCommand,
)
from cluster.scheduling.scheduler import Limits, Scheduler
from cluster.scheduling.workers import (
    Event,
    EventKind,
    Progress,
    Watcher,
    Workers,
    WorkerView,
    ignore_event,
    progress_events,
)

# Called with one item; yields `Progress` any number of times and returns the result. An exception fails the item.
# If a `yield` returns True, the worker should save a checkpoint at once, so that another worker can resume from it.
Worker = Callable[[Any], Generator[Progress, Any, Any]]


@dataclass(frozen=True)
class Stage:
    """One kind of worker: `make_worker` runs once in each worker's process; each worker reserves `gpus` and `cpus`.

    Items with larger `expected_seconds`, in any unit, start first. Only the first stage's estimates are used.
    """

    name: str
    make_worker: Callable[[], Worker]
    workers: int = 1
    gpus: float = 0.0
    per_gpu: int | None = None  # workers on one GPU; by default as many as `gpus` allows
    cpus: float = 1.0
    min_gpu_gib: float = 0.0  # memory that a GPU must have
    elastic: bool = False  # add workers as nodes with free resources join, remove them as nodes leave
    handoff: int = scheduling.HANDOFF  # items that may wait per worker before the previous stage pauses
    expected_seconds: Callable[[Any], float] = lambda item: 0.0  # by default, as given


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
    preemptions: int = 0  # workers that were preempted or whose node was lost meanwhile; no failure of the item


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
        workers, built = Workers(), dict[Place, Worker]()
        todo: list[Command] = []

        def emit(event: Event) -> WorkerView:
            watcher(event)
            return workers.take(event)

        for number in range(len(stages)):
            todo += scheduler.handle(Joined(Place(number, 0)), time.monotonic())
        while not scheduler.finished or todo:
            if not todo:
                time.sleep(max(0.0, (scheduler.wakes_at or 0.0) - time.monotonic()))
                todo += scheduler.handle(Tick(), time.monotonic())
                continue
            command = todo.pop(_next(todo))
            if isinstance(command, Abort):
                raise error_of(command, stages)
            view = emit(event_of(command, stages))
            if isinstance(command, Start):
                try:
                    built[command.place] = stages[command.place.stage].make_worker()
                except Exception as error:
                    signal: Signal = Failed(command.ticket, Failure.of(error))
                else:
                    emit(Event("ready", view.stage, view.worker, pid=os.getpid(), node=socket.gethostname()))
                    signal = Ready(command.ticket)
                todo += scheduler.handle(signal, time.monotonic())
            elif isinstance(command, Assign):
                reply = _reply(attempt(built[command.place], command.task.payload), view, emit)
                todo += scheduler.handle(signal_of(command.ticket, reply), time.monotonic())
            elif isinstance(command, Stop):
                built.pop(command.place, None)
            elif isinstance(command, End):
                yield outcome_of(command, stages)


def _reply(
    steps: Generator[Progress, None, "Success | Failure"], view: WorkerView, emit: Callable[[Event], WorkerView]
) -> "Success | Failure":
    """The reply of an attempt, after emitting the events of its heartbeats."""
    while True:
        try:
            progress = next(steps)
        except StopIteration as stop:
            return stop.value
        for event in progress_events(view, progress):
            view = emit(event)


def _next(commands: Sequence[Command]) -> int:
    """The index of the next command: notifications first, then the latest stage, so that started items finish."""
    ranks = [command.place.stage if isinstance(command, Start | Assign) else len(commands) for command in commands]
    return ranks.index(max(ranks))


def event_of(command: WorkerCommand, stages: Sequence[Stage]) -> Event:
    """The event that tells a watcher of a command."""
    kind: EventKind
    failure: Failure | None = None
    match command:
        case Start():
            kind = "starting"
        case Assign():
            kind = "started"
        case Advance():
            kind = "finished"
        case Stop():
            kind, failure = "stopped" if command.makes_way else "died", command.failure
        case Retry():
            kind, failure = "retried", command.failure
        case End():
            kind, failure = "failed" if command.failure else "finished", command.failure
    item = None if isinstance(command, Start | Stop) else command.task.item
    note, error_kind = (failure.message, failure.kind) if failure else ("", "")
    place = command.place
    return Event(kind, stages[place.stage].name, place.worker, item, note=note, error_kind=error_kind)


def outcome_of(command: End, stages: Sequence[Stage]) -> Outcome:
    """The outcome of an item that has ended."""
    task, failure = command.task, command.failure
    failed_stage = stages[command.place.stage].name if failure else None
    preemptions = task.failures["preempted"] + task.failures["node_lost"]
    return Outcome(task.item, command.result, failed_stage, failure, task.failures["died"], preemptions)


def error_of(command: Abort, stages: Sequence[Stage]) -> BootError | StorageError:
    """The error to raise when the scheduler stops the run."""
    if command.failure.kind == "storage" and command.is_outage:
        return StorageError(
            f"Storage fails for every worker ({command.failure.message}); check that the run folder can be "
            "written, then run the same command again: finished jobs are kept."
        )
    return BootError(stages[command.stage].name, command.failure)


@dataclass(frozen=True)
class Success:
    """The result of an attempt."""

    value: Any


def signal_of(ticket: int, reply: Success | Failure, saved: int = 0) -> Succeeded | Failed:
    """What the reply of an attempt, whose last checkpoint is of step `saved`, tells the scheduler."""
    return Failed(ticket, reply, saved) if isinstance(reply, Failure) else Succeeded(ticket, reply.value)


def attempt(
    worker: Worker, payload: Any, must_leave: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, Success | Failure]:
    """Run a worker on an item. Exceptions become a `Failure`, so that none crosses a process boundary.

    Once `must_leave` returns True no item is started, and a running one ends with its next checkpoint, if any.
    """
    if must_leave():
        return PREEMPTED
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
                return PREEMPTED
            if answer := requested is None and must_leave():
                requested = progress.done
    except Exception as error:
        return Failure.of(error)


# Before the end of a draining node its workers leave. Two steps and a checkpoint fit; clouds give at least 30 s notice.
LEAVE_SECONDS = 15.0
PREEMPTED = Failure("preempted", "its node is being drained or its process received SIGTERM")
