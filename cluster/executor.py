"""Where work runs, in six words: a worker of a stage turns an item into a result, reports progress, or fails.

Items and results are opaque here. Every item given to `Executor.run` comes back in exactly one `Outcome`.
"""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cluster import scheduler as scheduling
from cluster.failures import Failure
from cluster.protocol import (
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
from cluster.scheduler import Limits, Scheduler


@dataclass(frozen=True)
class Progress:
    """A sign of life: `done` of `total` steps of the present item."""

    done: int
    total: int
    note: str = ""


# Called with one item; yields `Progress` as often as it likes and returns the result. An exception fails the item.
Worker = Callable[[Any], Generator[Progress, None, Any]]


@dataclass(frozen=True)
class Stage:
    """One kind of worker: `make_worker` runs once in each worker's process; `gpus` and `cpus` are what one reserves."""

    name: str
    make_worker: Callable[[], Worker]
    workers: int = 1
    gpus: float = 0.0
    cpus: float = 1.0


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
    """What a watcher may want to show. `item` is None while a worker starts."""

    kind: Literal["starting", "ready", "started", "progress", "finished", "failed", "died", "retried"]
    stage: str
    worker: int
    item: Any = None
    progress: Progress | None = None
    note: str = ""
    pid: int | None = None


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
    """Runs items through stages; both implementations pass tests/cluster/test_contract.py."""

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
        scheduler = Scheduler([stage.name for stage in stages], items, self.limits)
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
        while True:
            try:
                watcher(Event("progress", stage, 0, item, next(answer)))
            except StopIteration as stop:
                return stop.value

    @staticmethod
    def _born(command: Start, stage: Stage, workers: dict[Place, Worker], watcher: Watcher) -> Ready | Failed:
        watcher(Event("starting", stage.name, 0))
        try:
            workers[command.place] = stage.make_worker()
        except Exception as error:
            return Failed(command.ticket, Failure.of(error))
        watcher(Event("ready", stage.name, 0))
        return Ready(command.ticket)


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
        watcher(Event("died", stage, place.worker, note=command.failure.message))
    elif isinstance(command, Retry):
        watcher(Event("retried", stage, place.worker, command.task.item, note=command.failure.message))
    elif isinstance(command, Advance):
        watcher(Event("finished", stage, place.worker, command.task.item))
    elif isinstance(command, End):
        task, failure = command.task, command.failure
        deaths = task.failures["died"]
        if failure is None:
            watcher(Event("finished", stage, place.worker, task.item))
            yield Outcome(task.item, command.result, deaths=deaths)
        else:
            watcher(Event("failed", stage, place.worker, task.item, note=failure.message))
            yield Outcome(task.item, None, stage, failure, deaths)


@dataclass(frozen=True)
class Success:
    value: Any


def attempt(worker: Worker, payload: Any) -> Generator[Progress, None, Success | Failure]:
    """Run a worker on an item; what it raises becomes a `Failure`, so that no exception crosses a process border."""
    try:
        return Success((yield from worker(payload)))
    except Exception as error:
        return Failure.of(error)
