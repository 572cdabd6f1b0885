"""The Ray executor: one actor per worker, and one `ray.wait` loop for progress, results and lost workers."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cluster.ray.actor import ONE_THREAD, Placed, create_actor, loss_of
from cluster.ray.metrics import Metrics
from cluster.ray.nodes import Nodes
from cluster.ray.session import ClusterError, connect, first_line
from cluster.scheduling import scheduler, stalls
from cluster.scheduling.executor import (
    Event,
    Outcome,
    Progress,
    Stage,
    Success,
    Watcher,
    ignore_event,
    make_scheduler,
    progress_events,
    report,
)
from cluster.scheduling.failures import Failure
from cluster.scheduling.protocol import (
    Assign,
    Command,
    Failed,
    Joined,
    Left,
    Place,
    Ready,
    Start,
    Stop,
    Succeeded,
    Tick,
    Unplaced,
)
from cluster.scheduling.scheduler import Limits
from cluster.scheduling.stalls import Heartbeat, StallTimeout

NODE_CHECK_SECONDS = 2.0  # between two checks of the cluster's nodes


@dataclass(eq=False)
class _Handle:
    """The driver's handle of one actor. `answer` is the stream of its boot or of its current task."""

    place: Place
    actor: Any
    answer: Any
    ticket: int
    heartbeat: Heartbeat
    item: Any = None
    booting: bool = True
    placed: Placed | None = None
    unplaced_since: float = 0.0
    saved: int = 0  # the step of the last checkpoint that was reported


class RayExecutor:
    """Runs stages on actors, on this machine or on the cluster of RAY_ADDRESS.

    `cpus` is the minimum of a new session on this machine. Ray itself would wait silently for missing resources. Here,
    resources that no node has stop the run after `infeasible_seconds`, and resources that are not free stop it after
    the stall timeout of a boot. If a worker cannot be placed for `placement_seconds`, an idle worker of another stage
    is stopped. `environment` is set in every actor.
    """

    def __init__(
        self,
        cpus: float = 0.0,
        stall_timeout: StallTimeout = stalls.DEFAULTS,
        limits: Limits = scheduler.DEFAULTS,
        infeasible_seconds: float = 45.0,
        environment: Mapping[str, str] = ONE_THREAD,
        placement_seconds: float = 30.0,
    ):
        self.cpus, self.stall_timeout, self.limits = cpus, stall_timeout, limits
        self.infeasible_seconds, self.placement_seconds = infeasible_seconds, placement_seconds
        self.environment = dict(environment)

    def gpus(self) -> int:
        return int(connect(self.cpus).cluster_resources().get("GPU", 0))

    def run(self, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher = ignore_event) -> Iterator[Outcome]:
        """Yield one `Outcome` per item, in order of completion. Raises BootError, StorageError, ClusterError."""
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
            for handle in run.handles.values():
                ray.kill(handle.actor)


class _Run:
    """One call of `RayExecutor.run`: executes the scheduler's commands and turns the actors' replies into events."""

    def __init__(
        self, ray: Any, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher, executor: RayExecutor
    ):
        self.ray, self.stages, self.watcher, self.executor = ray, stages, watcher, executor
        self.scheduler = make_scheduler(stages, items, executor.limits)
        self.handles: dict[Place, _Handle] = {}
        self.workers = [set[int]() for _ in stages]  # the worker numbers of each stage's slots
        self.nodes, self.nodes_checked_at = Nodes(ray), time.monotonic()
        self.nothing_ready_since: dict[int, float] = {}  # by stage, while all its workers are booting

    def outcomes(self) -> Iterator[Outcome]:
        for number, stage in enumerate(self.stages):
            for worker in range(stage.workers):
                self.workers[number].add(worker)
                yield from self._handle(Joined(Place(number, worker)))
        while not self.scheduler.finished:
            ready = self._wait()
            for handle in ready:
                if (event := self._event_of_reply(handle)) is not None:
                    yield from self._handle(event)
            for handle in [handle for handle in self.handles.values() if handle not in ready]:
                if (event := self._event_of_stall(handle)) is not None:
                    yield from self._handle(event)
            yield from self._handle(Tick())
            if time.monotonic() - self.nodes_checked_at >= NODE_CHECK_SECONDS:
                self.nodes_checked_at = time.monotonic()
                for change in [*self._unplaced(), *self._elastic_changes()]:
                    yield from self._handle(change)
            self._check_resources()

    def _unplaced(self) -> Iterator[Unplaced]:
        """Workers that could not be placed for `placement_seconds`."""
        now = time.monotonic()
        for handle in self.handles.values():
            if handle.placed is None and now - handle.unplaced_since >= self.executor.placement_seconds:
                handle.unplaced_since = now
                yield Unplaced(handle.place)

    def _elastic_changes(self) -> Iterator[Joined | Left]:
        """Fit the slots of elastic stages to the cluster's capacity and to the remaining items."""
        for number, stage in enumerate(self.stages):
            if not stage.elastic:
                continue
            others = sum(
                other.workers for other in self.stages if other is not stage and stage.gpus and other.gpus >= 1
            )
            capacity, workers = max(1, self.nodes.capacity(stage) - others), self.workers[number]
            while len(workers) < min(capacity, self.scheduler.remaining(number)):
                worker = next(free for free in range(len(workers) + 1) if free not in workers)
                workers.add(worker)
                yield Joined(Place(number, worker))
            unplaced = [
                place for place, handle in self.handles.items() if place.stage == number and handle.placed is None
            ]
            for place in unplaced[: max(0, len(workers) - capacity)]:
                workers.discard(place.worker)
                yield Left(place)

    def _handle(self, event: Any) -> Iterator[Outcome]:
        for command in self.scheduler.handle(event, time.monotonic()):
            yield from self._execute(command)

    def _execute(self, command: Command) -> Iterator[Outcome]:
        if isinstance(command, Start):
            self.handles[command.place] = self._start(command)
        elif isinstance(command, Assign):
            handle, task = self.handles[command.place], command.task
            handle.ticket, handle.item, handle.heartbeat, handle.saved = command.ticket, task.item, self._heartbeat(), 0
            self._report("started", handle)
            handle.answer = handle.actor.work.options(num_returns="streaming").remote(task.payload)
        else:
            if isinstance(command, Stop):
                self.ray.kill(self.handles.pop(command.place).actor)
            yield from report(command, self.stages, self.watcher)

    def _start(self, command: Start) -> _Handle:
        stage = self.stages[command.place.stage]
        actor = create_actor(self.ray, stage, self.executor.environment, self.nodes.selector(stage))
        self.watcher(Event("starting", stage.name, command.place.worker))
        answer = actor.boot.options(num_returns="streaming").remote(stage.make_worker)
        handle = _Handle(command.place, actor, answer, command.ticket, self._heartbeat())
        handle.unplaced_since = time.monotonic()
        return handle

    def _wait(self) -> list[_Handle]:
        """The actors with a reply. Waits for the first reply, then takes all, so that no actor starves."""
        waiting = {handle.answer: handle for handle in self.handles.values() if handle.answer is not None}
        seconds = min(1.0, max(0.0, (self.scheduler.wakes_at or math.inf) - time.monotonic()))
        if not waiting:
            time.sleep(seconds)
            return []
        first, _ = self.ray.wait(list(waiting), num_returns=1, timeout=seconds)
        if not first:
            return []
        ready, _ = self.ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        return [waiting[answer] for answer in ready or first]

    def _event_of_reply(self, handle: _Handle) -> Ready | Succeeded | Failed | None:
        """The event of an actor's reply; None for a heartbeat, or if the actor has been stopped meanwhile."""
        if self.handles.get(handle.place) is not handle:
            return None
        try:
            reply = self.ray.get(next(handle.answer))
        except self.ray.exceptions.RayTaskError as error:  # for example a reply that cannot be pickled
            reply = Failure.of(error.cause or error)
        except (self.ray.exceptions.RayError, StopIteration) as error:
            reply = loss_of(self.ray, error, first_line(error))
        if isinstance(reply, Progress):
            handle.heartbeat.beat(time.monotonic(), is_last_step=reply.done >= reply.total)
            stage, worker = self.stages[handle.place.stage].name, handle.place.worker
            for event in progress_events(reply, stage, worker, handle.item, handle.saved):
                self.watcher(event)
            handle.saved = reply.saved
            return None
        if isinstance(reply, Placed):
            handle.placed, handle.heartbeat = reply, self._heartbeat()
            if self.nodes.is_fit(reply.node, self.stages[handle.place.stage]):
                return None
            reply = Failure("preempted", "its node joined with too small a GPU")
        handle.answer = None
        if isinstance(reply, Failure):
            return Failed(handle.ticket, reply)
        if isinstance(reply, Success):
            return Succeeded(handle.ticket, reply.value)
        handle.booting = False
        self._report("ready", handle, **asdict(handle.placed or Placed(0, "", "")))
        return Ready(handle.ticket)

    def _event_of_stall(self, handle: _Handle) -> Failed | None:
        """The failure of a worker that has stalled, or that has not booted in time, also for lack of resources."""
        if handle.answer is None or not handle.heartbeat.is_stalled(time.monotonic()):
            return None
        limit = handle.heartbeat.limit_seconds
        handle.answer = None
        return Failed(handle.ticket, Failure("stalled", f"no heartbeat for {limit:.0f} s"))

    def _check_resources(self) -> None:
        """Raise ClusterError if all workers of a stage wait for resources that do not exist or are not free."""
        now, started = time.monotonic(), {handle.place.stage for handle in self.handles.values()}
        for number in started - {handle.place.stage for handle in self.handles.values() if not handle.booting}:
            self._check_wait(self.stages[number], now - self.nothing_ready_since.setdefault(number, now))
        for number in started & {handle.place.stage for handle in self.handles.values() if not handle.booting}:
            self.nothing_ready_since.pop(number, None)

    def _check_wait(self, stage: Stage, waited: float) -> None:
        if waited > self.executor.infeasible_seconds and not self.nodes.can_hold(stage):
            if stage.gpus and self.nodes.can_hold(replace(stage, min_gpu_gib=0.0)):
                raise ClusterError(
                    f"No GPU is large enough for a {stage.name} worker: each needs one of {stage.min_gpu_gib:g} GiB "
                    f"(compute.min_gpu_gib), and the largest of the cluster has {self.nodes.largest_gpu_gib():g} GiB; "
                    "add a node with a larger GPU, or request less."
                )
            total = self.ray.cluster_resources()
            raise ClusterError(
                f"No node can fit a {stage.name} worker: each needs {stage.cpus:g} CPU and {stage.gpus:g} GPU, and "
                f"the whole cluster has {total.get('CPU', 0):g} CPU and {total.get('GPU', 0):g} GPU; add such a node, "
                "or request less."
            )
        if waited > self.executor.stall_timeout.boot_seconds:
            free = self.ray.available_resources()
            raise ClusterError(
                f"No {stage.name} worker was ready after {self.executor.stall_timeout.boot_seconds:.0f} s: each needs "
                f"{stage.cpus:g} CPU and {stage.gpus:g} GPU, of which the cluster has "
                f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} free; request fewer --workers."
            )

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(self.executor.stall_timeout, time.monotonic())

    def _report(self, kind: Any, handle: _Handle, **more: Any) -> None:
        self.watcher(Event(kind, self.stages[handle.place.stage].name, handle.place.worker, handle.item, **more))
