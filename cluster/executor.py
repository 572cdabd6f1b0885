"""Where work runs, in six words: a worker of a stage turns an item into a result, reports progress, or fails.

Items and results are opaque here. Every item given to `Executor.run` comes back in exactly one `Outcome`.
"""

import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from cluster.scheduler import Scheduler


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
class Failure:
    """Why an item failed: a kind of `scheduler.POLICIES`, one sentence, and for the unexpected the traceback."""

    kind: str
    message: str
    details: str = ""

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        kind = kind_of(error)
        text = " ".join(str(error).split())
        if kind == "input" and text:  # written for the user: the class name would only be in the way
            return cls(kind, text)
        return cls(kind, f"{type(error).__name__}: {text}" if text else type(error).__name__, _traceback(error))


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
    """A worker could not be built: no other would fare better, so the run stops."""

    def __init__(self, stage: str, failure: Failure):
        self.stage, self.failure = stage, failure
        super().__init__(f"The {stage} worker could not start: {failure.message}")


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

    def gpus(self) -> int:
        return 0  # nothing is reserved: the workers find the devices of this process themselves

    def run(self, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher = unwatched) -> Iterator[Outcome]:
        scheduler = Scheduler([stage.name for stage in stages], items)
        workers: dict[int, Worker] = {}
        while not scheduler.finished:
            # Finish what is begun: the task furthest on. A retried one may be it again.
            task = next(task for number in reversed(range(len(stages))) if (task := scheduler.next(number)))
            stage, item = stages[task.stage], task.item
            if task.stage not in workers:
                workers[task.stage] = self._born(stage, watcher)
            watcher(Event("started", stage.name, 0, item))
            reply = self._watched(attempt(workers[task.stage], task.payload), stage.name, item, watcher)
            if isinstance(reply, Failure):
                verdict = scheduler.failed(task, reply.kind)
                watcher(Event("retried" if verdict.retry else "failed", stage.name, 0, item, note=reply.message))
                if verdict.replace_worker:
                    del workers[task.stage]
                if not verdict.retry:
                    yield Outcome(item, None, stage.name, reply)
            else:
                watcher(Event("finished", stage.name, 0, item))
                if scheduler.succeeded(task, reply.value):
                    yield Outcome(item, reply.value)

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
    def _born(stage: Stage, watcher: Watcher) -> Worker:
        watcher(Event("starting", stage.name, 0))
        try:
            worker = stage.make_worker()
        except Exception as error:
            raise BootError(stage.name, Failure.of(error)) from error
        watcher(Event("ready", stage.name, 0))
        return worker


@dataclass(frozen=True)
class Success:
    value: Any


def attempt(worker: Worker, payload: Any) -> Generator[Progress, None, Success | Failure]:
    """Run a worker on an item; what it raises becomes a `Failure`, so that no exception crosses a process border."""
    try:
        return Success((yield from worker(payload)))
    except Exception as error:
        return Failure.of(error)


def kind_of(error: BaseException) -> str:
    """The row of `scheduler.POLICIES` an exception belongs to. Names stand in for classes we must not import here."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, MemoryError) or "OutOfMemory" in name:
        return "out_of_memory"
    if "AcceleratorError" in name or "CUDA error" in text or "cuInit" in text:
        return "device"
    if isinstance(error, ArithmeticError):
        return "numeric"
    if isinstance(error, OSError):
        return "storage"
    return "input" if isinstance(error, ValueError) else "error"


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
