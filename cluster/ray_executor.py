"""The Ray executor: one actor per worker, one `ray.wait` loop for progress, results and deaths.

No other file but `ray_jobs.py` imports ray.
Actors answer through streaming generators: each `yield` is a sign of life, the last one the result or the failure.
Ray itself restarts and retries nothing (`max_restarts=0, max_task_retries=0`): a retried generator that resumed from
a checkpoint would have its first yields dropped by index. Budgets are the scheduler's, state lies in files.
"""

import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import Any

from cluster.executor import (
    BootError,
    Event,
    Failure,
    Outcome,
    Progress,
    Stage,
    Success,
    Watcher,
    Worker,
    attempt,
    unwatched,
)
from cluster.scheduler import POLICIES, Scheduler, Task

# One thread an actor: side by side, actors use all cores; a spinning OpenMP pool per actor would fight for them.
ONE_THREAD = MappingProxyType(
    {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
OBJECT_STORE_BYTES = 128 * 2**20  # only progress and paths travel; big data go through files


class ClusterError(RuntimeError):
    """Ray cannot give what was asked for; the message says what it has."""


@dataclass(frozen=True)
class Born:
    pid: int


class _Actor:
    """Lives in its own process: builds the worker once, then answers items one at a time."""

    def boot(self, make_worker: Callable[[], Worker]) -> Born | Failure:
        try:
            self.worker = make_worker()
        except Exception as error:
            return Failure.of(error)
        return Born(os.getpid())

    def work(self, payload: Any) -> Generator[Progress | Success | Failure, None, None]:
        yield (yield from attempt(self.worker, payload))


@dataclass(eq=False)
class _Slot:
    """The driver's view of one actor. `answer` is what we wait for: the boot, or the stream of the present task."""

    stage: int
    worker: int
    actor: Any
    answer: Any
    born_by: float  # time.monotonic() at which a worker that is not ready is given up
    booting: bool = True
    task: Task | None = None


class RayExecutor:
    """Runs stages on actors: of this machine, or of the cluster that RAY_ADDRESS names.

    `cpus` is the least a new session on this machine shall have. A worker that is not ready after `boot_seconds` stops
    the run: Ray itself would wait for missing resources without a word. `environment` is set in every actor.
    """

    def __init__(self, cpus: float = 0.0, boot_seconds: float = 900.0, environment: Mapping[str, str] = ONE_THREAD):
        self.cpus = cpus
        self.boot_seconds = boot_seconds
        self.environment = dict(environment)

    def gpus(self) -> int:
        return int(connect(self.cpus).cluster_resources().get("GPU", 0))

    def run(self, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher = unwatched) -> Iterator[Outcome]:
        ray = connect(max(self.cpus, sum(stage.workers * stage.cpus for stage in stages)))
        run = _Run(ray, stages, items, watcher, self)
        try:
            yield from run.outcomes()
        finally:
            for slot in run.slots:
                ray.kill(slot.actor)


class _Run:
    """One call of `RayExecutor.run`: the slots, and the loop that serves them."""

    def __init__(
        self, ray: Any, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher, executor: RayExecutor
    ):
        self.ray, self.stages, self.watcher, self.executor = ray, stages, watcher, executor
        self.scheduler = Scheduler([stage.name for stage in stages], items)
        self.slots: list[_Slot] = []
        self.failed_boots = [0 for _ in stages]

    def outcomes(self) -> Iterator[Outcome]:
        while not self.scheduler.finished:
            self._staff()
            for slot in self.slots:
                self._assign(slot)
            for slot in self._ready():
                yield from self._serve(slot)

    def _staff(self) -> None:
        """Open slots for work that has no worker; those of a later stage once the stage before has a worker.

        So the first stage has the machine to itself while it loads, and the next loads while the first computes.
        """
        for number, stage in enumerate(self.stages):
            has_supply = any(slot.stage == number - 1 and not slot.booting for slot in self.slots)
            if number and not has_supply and not self.scheduler.waiting(number):
                return
            taken = {slot.worker for slot in self.slots if slot.stage == number}
            for _ in range(len(taken), min(stage.workers, self.scheduler.wanted(number))):
                worker = next(free for free in count() if free not in taken)
                taken.add(worker)
                self.slots.append(self._open(number, worker))

    def _open(self, number: int, worker: int) -> _Slot:
        stage = self.stages[number]
        actor = (
            self.ray.remote(_Actor)
            .options(
                num_cpus=stage.cpus,
                num_gpus=stage.gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": self.executor.environment},
            )
            .remote()
        )
        self.watcher(Event("starting", stage.name, worker))
        born_by = time.monotonic() + self.executor.boot_seconds
        return _Slot(number, worker, actor, actor.boot.remote(stage.make_worker), born_by)

    def _assign(self, slot: _Slot) -> None:
        if slot.answer is None and (task := self.scheduler.next(slot.stage)):
            slot.task = task
            slot.answer = slot.actor.work.options(num_returns="streaming").remote(task.payload)
            self._tell("started", slot)

    def _ready(self) -> list[_Slot]:
        """The slots that have something to say; waits for the first, then takes all, so that none starves."""
        waiting = {slot.answer: slot for slot in self.slots if slot.answer is not None}
        first, _ = self.ray.wait(list(waiting), num_returns=1, timeout=1.0)
        if not first:
            self._check_births()
            return []
        ready, _ = self.ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        return [waiting[answer] for answer in ready or first]

    def _serve(self, slot: _Slot) -> Iterator[Outcome]:
        try:
            reply = self.ray.get(slot.answer if slot.task is None else next(slot.answer))
        except self.ray.exceptions.RayTaskError as error:  # a reply that cannot be pickled, for one
            reply = Failure.of(error.cause or error)
        except (self.ray.exceptions.RayError, StopIteration) as error:
            reply = Failure("died", f"its process died ({_cause(error)})")
        if slot.task is None:
            self._born(slot, reply)
        elif isinstance(reply, Progress):
            self._tell("progress", slot, progress=reply)
        elif isinstance(reply, Failure):
            yield from self._failed(slot, slot.task, reply)
        else:
            yield from self._succeeded(slot, slot.task, reply.value)

    def _born(self, slot: _Slot, reply: Born | Failure) -> None:
        stage = self.stages[slot.stage]
        if isinstance(reply, Born):
            slot.booting, slot.answer = False, None
            self.failed_boots[slot.stage] = 0
            self.watcher(Event("ready", stage.name, slot.worker, pid=reply.pid))
            return
        self.failed_boots[slot.stage] += 1
        if self.failed_boots[slot.stage] >= POLICIES[reply.kind].attempts:
            raise BootError(stage.name, reply)
        self._replace(slot, reply)
        time.sleep(self.failed_boots[slot.stage])  # a GPU needs a moment to free what the last process held

    def _succeeded(self, slot: _Slot, task: Task, result: Any) -> Iterator[Outcome]:
        self._tell("finished", slot)
        slot.task = slot.answer = None
        if self.scheduler.succeeded(task, result):
            yield Outcome(task.item, result, deaths=task.failures["died"])

    def _failed(self, slot: _Slot, task: Task, failure: Failure) -> Iterator[Outcome]:
        stage = self.stages[slot.stage]
        verdict = self.scheduler.failed(task, failure.kind)
        self._tell("retried" if verdict.retry else "failed", slot, note=failure.message)
        slot.task = slot.answer = None
        if verdict.replace_worker:
            self._replace(slot, failure)
        if not verdict.retry:
            yield Outcome(task.item, None, stage.name, failure, task.failures["died"])

    def _replace(self, slot: _Slot, failure: Failure) -> None:
        """Give the slot up; `_staff` opens another while there is work for it."""
        self.watcher(Event("died", self.stages[slot.stage].name, slot.worker, note=failure.message))
        self.ray.kill(slot.actor)
        self.slots.remove(slot)

    def _check_births(self) -> None:
        for slot in self.slots:
            if slot.booting and time.monotonic() > slot.born_by:
                stage, free = self.stages[slot.stage], self.ray.available_resources()
                raise ClusterError(
                    f"No {stage.name} worker was ready after {self.executor.boot_seconds:.0f} s: each asks for "
                    f"{stage.cpus:g} CPU and {stage.gpus:g} GPU, of which the cluster has "
                    f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} free; ask for fewer --workers."
                )

    def _tell(self, kind: Any, slot: _Slot, **more: Any) -> None:
        self.watcher(
            Event(kind, self.stages[slot.stage].name, slot.worker, slot.task.item if slot.task else None, **more)
        )


def connect(cpus: float = 0.0) -> Any:
    """The ray module, connected: to the session that exists, else to RAY_ADDRESS, else to a new one on this machine.

    A new session has at least `cpus` CPUs, however many cores there are: asking for more workers than cores is slow,
    not impossible. `address="local"` keeps it apart from any other Ray of this machine.
    """
    # Our own report of a dead worker says which prompt it was; without this Ray prints a paragraph beside it.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Actors with their own environment start afresh: idle workers started ahead would only take memory and seconds.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    import ray

    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "local")
    if address != "local":
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError) as error:
            raise ClusterError(
                f"No Ray cluster answers at RAY_ADDRESS={address} ({_cause(error)}); start it, or unset RAY_ADDRESS to "
                "work on this machine."
            ) from error
        return ray
    # A new session is guarded by a token. It lives in the environment of this process, not in the user's home, and
    # Ray's notice of it is not for the user.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, math.ceil(cpus)),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        **quiet,
    )
    return ray


def disconnect() -> None:
    """End the session of this process, if there is one."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


def _cause(error: BaseException) -> str:
    """The first line of Ray's message; its paragraphs of advice say less than the log they point to."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
