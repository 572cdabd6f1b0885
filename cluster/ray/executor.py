"""The Ray executor: one actor per worker, one `ray.wait` loop for progress, results and deaths.

No other file but `ray_jobs.py`, `ray_metrics.py` and `ray_nodes.py` imports ray.
Actors answer through streaming generators: each `yield` is a sign of life, the last one the result or the failure.
Ray itself restarts and retries nothing (`max_restarts=0, max_task_retries=0`): a retried generator that resumed from
a checkpoint would have its first yields dropped by index. Budgets are the scheduler's, state lies in files.
"""

import logging
import math
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from cluster.ray.metrics import Metrics
from cluster.ray.nodes import Leaving, Nodes
from cluster.scheduling import scheduler
from cluster.scheduling import stalls as pulse
from cluster.scheduling.executor import (
    Event,
    Outcome,
    Progress,
    Stage,
    Success,
    Watcher,
    Worker,
    attempt,
    scheduler_of,
    seen,
    told,
    unwatched,
)
from cluster.scheduling.failures import Failure
from cluster.scheduling.protocol import (
    Assign,
    Command,
    Crowded,
    Failed,
    Joined,
    Left,
    Place,
    Ready,
    Start,
    Stop,
    Succeeded,
    Tick,
)
from cluster.scheduling.scheduler import Limits
from cluster.scheduling.stalls import Patience, Pulse

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
LOOK_SECONDS = 2.0  # between two looks at the nodes of the cluster
OBJECT_STORE_BYTES = 128 * 2**20  # only progress and paths travel; big data go through files


class ClusterError(RuntimeError):
    """Ray cannot give what was asked for; the message says what it has."""


@dataclass(frozen=True)
class Placed:
    """A process has found its room; its worker is being built."""

    pid: int
    node: str
    gpu: str


@dataclass(frozen=True)
class Born:
    """The worker is built."""


class _Actor:
    """Lives in its own process: builds the worker once, then answers items one at a time."""

    def boot(self, make_worker: Callable[[], Worker]) -> Generator[Placed | Born | Failure, None, None]:
        import ray

        self.is_leaving = Leaving(ray.get_runtime_context().get_node_id())
        yield Placed(os.getpid(), self.is_leaving.node, ",".join(str(gpu) for gpu in ray.get_gpu_ids()))
        try:
            self.worker = make_worker()
        except Exception as error:
            yield Failure.of(error)
        else:
            yield Born()

    def work(self, payload: Any) -> Generator[Progress | Success | Failure, None, None]:
        yield (yield from attempt(self.worker, payload, self.is_leaving))


@dataclass(eq=False)
class _Live:
    """The driver's view of one actor. `answer` is what we wait for: the boot, or the stream of the present task."""

    place: Place
    actor: Any
    answer: Any
    ticket: int
    pulse: Pulse
    item: Any = None
    booting: bool = True
    placed: Placed | None = None
    crowded_since: float = 0.0
    saved: int = 0  # the step of the last checkpoint that was told of


class RayExecutor:
    """Runs stages on actors: of this machine, or of the cluster that RAY_ADDRESS names.

    `cpus` is the least a new session on this machine shall have. Ray itself would wait for missing resources without a
    word: what no node can ever give stops the run after `infeasible_seconds`, what is not free after the patience for
    a boot; a worker without room for `crowded_seconds` asks idle ones to make way. `environment` is set in every actor.
    """

    def __init__(
        self,
        cpus: float = 0.0,
        patience: Patience = pulse.DEFAULTS,
        limits: Limits = scheduler.DEFAULTS,
        infeasible_seconds: float = 45.0,
        environment: Mapping[str, str] = ONE_THREAD,
        crowded_seconds: float = 30.0,
    ):
        self.cpus, self.patience, self.limits = cpus, patience, limits
        self.infeasible_seconds, self.crowded_seconds = infeasible_seconds, crowded_seconds
        self.environment = dict(environment)

    def gpus(self) -> int:
        return int(connect(self.cpus).cluster_resources().get("GPU", 0))

    def run(self, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher = unwatched) -> Iterator[Outcome]:
        ray = connect(max(self.cpus, sum(stage.workers * stage.cpus for stage in stages)))
        metrics = Metrics()

        def watch(event: Event) -> None:
            metrics.watch(event)
            watcher(event)

        run = _Run(ray, stages, items, watch, self)
        try:
            yield from run.outcomes()
        finally:
            metrics.close()
            for live in run.lives.values():
                ray.kill(live.actor)


class _Run:
    """One call of `RayExecutor.run`: actors come and go as the scheduler commands, and what they say becomes events."""

    def __init__(
        self, ray: Any, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher, executor: RayExecutor
    ):
        self.ray, self.stages, self.watcher, self.executor = ray, stages, watcher, executor
        self.scheduler = scheduler_of(stages, items, executor.limits)
        self.lives: dict[Place, _Live] = {}
        self.places = [set[int]() for _ in stages]  # workers there is thought to be room for
        self.nodes, self.looked_at = Nodes(ray), time.monotonic()
        self.nothing_ready_since: dict[int, float] = {}  # by stage, while it has only workers that are being built

    def outcomes(self) -> Iterator[Outcome]:
        for number, stage in enumerate(self.stages):
            for worker in range(stage.workers):
                self.places[number].add(worker)
                yield from self._happened(Joined(Place(number, worker)))
        while not self.scheduler.finished:
            ready = self._ready()
            for live in ready:
                if (event := self._heard(live)) is not None:
                    yield from self._happened(event)
            for live in [live for live in self.lives.values() if live not in ready]:
                if (event := self._silent(live)) is not None:
                    yield from self._happened(event)
            yield from self._happened(Tick())
            if time.monotonic() - self.looked_at >= LOOK_SECONDS:
                self.looked_at = time.monotonic()
                for change in [*self._crowded(), *self._followed()]:
                    yield from self._happened(change)
            self._check_resources()

    def _crowded(self) -> Iterator[Crowded]:
        """Workers that have found no room for a while."""
        now = time.monotonic()
        for live in self.lives.values():
            if live.placed is None and now - live.crowded_since >= self.executor.crowded_seconds:
                live.crowded_since = now
                yield Crowded(live.place)

    def _followed(self) -> Iterator[Joined | Left]:
        """Elastic stages have as many places as the cluster has room, and no more than there is to do."""
        for number, stage in enumerate(self.stages):
            if not stage.elastic:
                continue
            others = sum(
                other.workers for other in self.stages if other is not stage and stage.gpus and other.gpus >= 1
            )
            room, places = max(1, self.nodes.room(stage) - others), self.places[number]
            while len(places) < min(room, self.scheduler.left(number)):
                worker = next(free for free in range(len(places) + 1) if free not in places)
                places.add(worker)
                yield Joined(Place(number, worker))
            homeless = [place for place, live in self.lives.items() if place.stage == number and live.placed is None]
            for place in homeless[: max(0, len(places) - room)]:
                places.discard(place.worker)
                yield Left(place)

    def _happened(self, event: Any) -> Iterator[Outcome]:
        for command in self.scheduler.handle(event, time.monotonic()):
            yield from self._obey(command)

    def _obey(self, command: Command) -> Iterator[Outcome]:
        if isinstance(command, Start):
            self.lives[command.place] = self._start(command)
        elif isinstance(command, Assign):
            live, task = self.lives[command.place], command.task
            live.ticket, live.item, live.pulse, live.saved = command.ticket, task.item, self._pulse(), 0
            self._tell("started", live)
            live.answer = live.actor.work.options(num_returns="streaming").remote(task.payload)
        else:
            if isinstance(command, Stop):
                self.ray.kill(self.lives.pop(command.place).actor)
            yield from told(command, self.stages, self.watcher)

    def _start(self, command: Start) -> _Live:
        stage = self.stages[command.place.stage]
        environment = dict(self.executor.environment)
        if not stage.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        actor = (
            self.ray.remote(_Actor)
            .options(
                num_cpus=stage.cpus,
                num_gpus=stage.gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": environment},
                label_selector=self.nodes.selector(stage),
            )
            .remote()
        )
        self.watcher(Event("starting", stage.name, command.place.worker))
        answer = actor.boot.options(num_returns="streaming").remote(stage.make_worker)
        live = _Live(command.place, actor, answer, command.ticket, self._pulse())
        live.crowded_since = time.monotonic()
        return live

    def _ready(self) -> list[_Live]:
        """The actors that have something to say; waits for the first, then takes all, so that none starves."""
        waiting = {live.answer: live for live in self.lives.values() if live.answer is not None}
        seconds = min(1.0, max(0.0, (self.scheduler.wakes_at or math.inf) - time.monotonic()))
        if not waiting:
            time.sleep(seconds)
            return []
        first, _ = self.ray.wait(list(waiting), num_returns=1, timeout=seconds)
        if not first:
            return []
        ready, _ = self.ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        return [waiting[answer] for answer in ready or first]

    def _heard(self, live: _Live) -> Ready | Succeeded | Failed | None:
        """What an actor's answer means; None for a sign of life, or if it was stopped meanwhile."""
        if self.lives.get(live.place) is not live:
            return None
        try:
            reply = self.ray.get(next(live.answer))
        except self.ray.exceptions.RayTaskError as error:  # a reply that cannot be pickled, for one
            reply = Failure.of(error.cause or error)
        except (self.ray.exceptions.RayError, StopIteration) as error:
            reply = _lost(self.ray, error)
        if isinstance(reply, Progress):
            live.pulse.beat(time.monotonic(), is_last_step=reply.done >= reply.total)
            for event in seen(reply, self.stages[live.place.stage].name, live.place.worker, live.item, live.saved):
                self.watcher(event)
            live.saved = reply.saved
            return None
        if isinstance(reply, Placed):
            live.placed, live.pulse = reply, self._pulse()
            if self.nodes.is_fit(reply.node, self.stages[live.place.stage]):
                return None
            reply = Failure("preempted", "its node joined with too small a GPU")
        live.answer = None
        if isinstance(reply, Failure):
            return Failed(live.ticket, reply)
        if isinstance(reply, Success):
            return Succeeded(live.ticket, reply.value)
        live.booting = False
        self._tell("ready", live, **asdict(live.placed or Placed(0, "", "")))
        return Ready(live.ticket)

    def _silent(self, live: _Live) -> Failed | None:
        """A worker that has hung, or is not born in time, be it for want of resources."""
        if live.answer is None or not live.pulse.is_stalled(time.monotonic()):
            return None
        limit = live.pulse.limit_seconds
        live.answer = None
        return Failed(live.ticket, Failure("stalled", f"no sign of life for {limit:.0f} s"))

    def _check_resources(self) -> None:
        """Say so if all workers of a stage wait for what there is not, or what is not free."""
        now, begun = time.monotonic(), {live.place.stage for live in self.lives.values()}
        for number in begun - {live.place.stage for live in self.lives.values() if not live.booting}:
            self._check_wait(self.stages[number], now - self.nothing_ready_since.setdefault(number, now))
        for number in begun & {live.place.stage for live in self.lives.values() if not live.booting}:
            self.nothing_ready_since.pop(number, None)

    def _check_wait(self, stage: Stage, waited: float) -> None:
        if waited > self.executor.infeasible_seconds and not self.nodes.can_hold(stage):
            if stage.gpus and self.nodes.can_hold(replace(stage, min_gpu_gib=0.0)):
                raise ClusterError(
                    f"No GPU is large enough for a {stage.name} worker: each asks for one of {stage.min_gpu_gib:g} GiB "
                    f"(compute.min_gpu_gib), and the largest of the cluster has {self.nodes.largest_gpu_gib():g} GiB; "
                    "add a node with a larger one, or ask for less."
                )
            most = self.ray.cluster_resources()
            raise ClusterError(
                f"No node can hold a {stage.name} worker: each asks for {stage.cpus:g} CPU and {stage.gpus:g} GPU, and "
                f"the whole cluster has {most.get('CPU', 0):g} CPU and {most.get('GPU', 0):g} GPU; add such a node, or "
                "ask for less."
            )
        if waited > self.executor.patience.boot_seconds:
            free = self.ray.available_resources()
            raise ClusterError(
                f"No {stage.name} worker was ready after {self.executor.patience.boot_seconds:.0f} s: each asks for "
                f"{stage.cpus:g} CPU and {stage.gpus:g} GPU, of which the cluster has "
                f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} free; ask for fewer --workers."
            )

    def _pulse(self) -> Pulse:
        return Pulse(self.executor.patience, time.monotonic())

    def _tell(self, kind: Any, live: _Live, **more: Any) -> None:
        self.watcher(Event(kind, self.stages[live.place.stage].name, live.place.worker, live.item, **more))


def _lost(ray: Any, error: BaseException) -> Failure:
    """How an actor was lost: its process alone, or the node with it, which is nobody's fault."""
    text, errors = _cause(error), ray.exceptions
    if getattr(error, "preempted", False):
        return Failure("preempted", f"its node was taken away ({text})")
    if isinstance(error, errors.ActorUnavailableError | errors.NodeDiedError) or "node has died" in str(error):
        return Failure("node_lost", f"its node was lost ({text})")
    if isinstance(error, errors.OutOfMemoryError) or "memory pressure" in str(error):
        return Failure("died", f"its process was ended because the node ran out of memory ({text})")
    return Failure("died", f"its process died ({text})")


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
    # Below `uv run` Ray would copy the working folder for every worker and build an environment in it, which takes
    # minutes and much disk; every node has this program already.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray

    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "local")
    if address != "local":
        try:
            with _sigterm_as_before():
                ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError) as error:
            raise ClusterError(
                f"No Ray cluster answers at RAY_ADDRESS={address} ({_cause(error)}); start it, set RAY_AUTH_TOKEN "
                "to its token if it asks for one, or unset RAY_ADDRESS to work on this machine."
            ) from error
        return ray
    # A new session is guarded by a token. It lives in the environment of this process, not in the user's home, and
    # Ray's notice of it is not for the user.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _sigterm_as_before():
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, math.ceil(cpus)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
    return ray


@contextmanager
def _sigterm_as_before() -> Iterator[None]:
    """Ray takes SIGTERM for a crash and prints a stack of addresses; who heard it before, hears it again."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def disconnect() -> None:
    """End the session of this process, if there is one."""
    import ray

    if ray.is_initialized():
        ray.shutdown()


def _cause(error: BaseException) -> str:
    """The first line of Ray's message; its paragraphs of advice say less than the log they point to."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
