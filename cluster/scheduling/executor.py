"""Where work runs, in six words: a worker of a stage turns an item into a result, reports progress, or fails.

Items and results are opaque here. Every item given to `Executor.run` comes back in exactly one `Outcome`.
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
    """A sign of life: `done` of `total` steps of the present item, up to `saved` of which another worker can go on."""

    done: int
    total: int
    note: str = ""
    memory_bytes: int | None = None  # the most that the worker has taken for this item
    saved: int = 0
    numbers: Mapping[str, float] = field(default_factory=dict)  # whatever else the worker counts, by name


# Called with one item; yields `Progress` as often as it likes and returns the result. An exception fails the item.
# A `yield` that gives back True asks it to save its state at once, so that another worker can go on from there.
Worker = Callable[[Any], Generator[Progress, Any, Any]]


def unknown(item: Any) -> float:
    """How long an item takes where nobody knows."""
    return 0.0


@dataclass(frozen=True)
class Stage:
    """One kind of worker: `make_worker` runs once in each worker's process; `gpus` and `cpus` are what one reserves.

    `expected_seconds` of an item, in any unit, lets the longest begin first (of the first stage alone).
    """

    name: str
    make_worker: Callable[[], Worker]
    workers: int = 1
    gpus: float = 0.0
    cpus: float = 1.0
    min_gpu_gib: float = 0.0  # memory of a GPU that is large enough
    elastic: bool = False  # more workers as nodes join that have room, fewer as they leave
    handoff: int = scheduling.HANDOFF  # items that may wait per worker before the stage before pauses
    expected_seconds: Callable[[Any], float] = unknown


def scheduler_of(stages: Sequence[Stage], items: Sequence[Any], limits: Limits) -> Scheduler:
    """The scheduler of a run through these stages."""
    expected = stages[0].expected_seconds
    return Scheduler([stage.name for stage in stages], items, limits, expected, [stage.handoff for stage in stages])


@dataclass(frozen=True)
class Outcome:
    """How one item ended: the last stage's `result`, or the stage that failed and its `error`."""

    item: Any
    result: Any = None
    failed_stage: str | None = None
    error: Failure | None = None
    deaths: int = 0  # workers that died while they worked on this item


@dataclass(frozen=True)
class Event:
    """What a watcher may want to show. `item` is None while a worker starts; `ready` says where it lives."""

    kind: Literal["starting", "ready", "started", "progress", "checkpoint", "finished", "failed", "died", "retried"]
    stage: str
    worker: int
    item: Any = None
    progress: Progress | None = None
    note: str = ""
    error_kind: str = ""  # a kind of `failures.POLICIES`
    pid: int | None = None
    node: str = ""
    gpu: str = ""


Watcher = Callable[[Event], None]


def unwatched(event: Event) -> None:
    """The watcher that does not look."""


class BootError(RuntimeError):
    """No worker of a stage could be built, so the run stops."""

    def __init__(self, stage: str, failure: Failure):
        self.stage, self.failure = stage, failure
        super().__init__(f"The {stage} worker could not start: {failure.message}")


class StorageError(RuntimeError):
    """Nobody could write or read for a while, so the run stops; what is unfinished goes on with the next command."""


class Executor(Protocol):
    """Runs items through stages; both implementations pass tests/cluster/scheduling/test_contract.py."""

    def gpus(self) -> int:
        """How many GPUs there are to reserve."""
        ...

    def run(self, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher = unwatched) -> Iterator[Outcome]:
        """Yield one `Outcome` per item, as they come. Raises `BootError`."""
        ...


class InlineExecutor:
    """Everything in this process, one item after the other: for debugging and for tests."""

    def __init__(self, limits: Limits = scheduling.DEFAULTS):
        self.limits = limits

    def gpus(self) -> int:
        return 0  # nothing is reserved: the workers find the devices of this process themselves

    def run(self, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher = unwatched) -> Iterator[Outcome]:
        scheduler = scheduler_of(stages, items, self.limits)
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
                event = self._born(command, stages[command.place.stage], workers, watcher)
            elif isinstance(command, Assign):
                stage = stages[command.place.stage]
                watcher(Event("started", stage.name, 0, command.task.item))
                answer = attempt(workers[command.place], command.task.payload)
                reply = self._watched(answer, stage.name, command.task.item, watcher)
                if isinstance(reply, Failure):
                    event = Failed(command.ticket, reply)
                else:
                    event = Succeeded(command.ticket, reply.value)
            else:
                if isinstance(command, Stop):
                    workers.pop(command.place, None)
                yield from told(command, stages, watcher)
                continue
            todo += scheduler.handle(event, time.monotonic())

    @staticmethod
    def _watched(
        answer: Generator[Progress, None, "Success | Failure"], stage: str, item: Any, watcher: Watcher
    ) -> "Success | Failure":
        saved = 0
        while True:
            try:
                progress = next(answer)
            except StopIteration as stop:
                return stop.value
            for event in seen(progress, stage, 0, item, saved):
                watcher(event)
            saved = progress.saved

    @staticmethod
    def _born(command: Start, stage: Stage, workers: dict[Place, Worker], watcher: Watcher) -> Ready | Failed:
        watcher(Event("starting", stage.name, 0))
        try:
            workers[command.place] = stage.make_worker()
        except Exception as error:
            return Failed(command.ticket, Failure.of(error))
        watcher(Event("ready", stage.name, 0, pid=os.getpid(), node=socket.gethostname()))
        return Ready(command.ticket)


def seen(progress: Progress, stage: str, worker: int, item: Any, saved: int) -> Iterator[Event]:
    """The events of a sign of life after one that told of the checkpoint of step `saved`."""
    if progress.saved > saved:
        yield Event("checkpoint", stage, worker, item, progress)
    yield Event("progress", stage, worker, item, progress)


def _next(commands: Sequence[Command]) -> int:
    """Which command comes first: what is only to be told, then the stage furthest on, so that what is begun ends."""
    ranks = [command.place.stage if isinstance(command, Start | Assign) else len(commands) for command in commands]
    return ranks.index(max(ranks))


def told(command: Command, stages: Sequence[Stage], watcher: Watcher) -> Iterator[Outcome]:
    """What is said of a command, by both executors. Raises the error that stops a run."""
    if isinstance(command, Abort):
        if command.failure.kind == "storage" and command.stopped_working:
            raise StorageError(
                f"Storage fails for every worker ({command.failure.message}); see that the run folder can be written, "
                "then start the same command again: finished jobs are kept."
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
    value: Any


def attempt(
    worker: Worker, payload: Any, is_leaving: Callable[[], bool] = lambda: False
) -> Generator[Progress, None, Success | Failure]:
    """Run a worker on an item; what it raises becomes a `Failure`, so that no exception crosses a process border.

    Once `is_leaving`, nothing is begun, and what was begun ends with a checkpoint, if the worker writes any.
    """
    if is_leaving():
        return LEAVING
    asked: int | None = None  # the step that is to be saved
    try:
        steps = worker(payload)
        answer: bool | None = None
        while True:
            try:
                progress = steps.send(answer)
            except StopIteration as stop:
                return Success(stop.value)
            yield progress
            if asked is not None and progress.saved >= asked:
                return LEAVING
            if answer := asked is None and is_leaving():
                asked = progress.done
    except Exception as error:
        return Failure.of(error)


LEAVING = Failure("preempted", "its node is being taken away")
