"""The Ray executor: one actor per worker, and one `ray.wait` loop for progress, results and lost workers."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.ray.actor import ONE_THREAD, Placed, create_actor, loss_of
from cluster.ray.address import HeadWatch
from cluster.ray.metrics import Metrics
from cluster.ray.nodes import Nodes
from cluster.ray.resources import ResourceCheck
from cluster.ray.session import connect, first_line, head_of
from cluster.scheduling import scheduler, stalls
from cluster.scheduling.executor import (
    Outcome,
    Stage,
    Success,
    error_of,
    event_of,
    make_scheduler,
    outcome_of,
    signal_of,
)
from cluster.scheduling.failures import Failure
from cluster.scheduling.protocol import (
    Abort,
    Assign,
    Command,
    End,
    Failed,
    Joined,
    Left,
    Place,
    Ready,
    Signal,
    Start,
    Stop,
    Succeeded,
    Tick,
    Unplaced,
)
from cluster.scheduling.scheduler import Limits
from cluster.scheduling.stalls import StallTimeout
from cluster.scheduling.workers import Event, Progress, Watcher, Workers, WorkerView, ignore_event, progress_events

CHECK_SECONDS = 2.0  # between two checks of the cluster's nodes, and two exports of the metrics


@dataclass(eq=False)
class _Handle:
    """The driver's handle of one actor. `answer` is the stream of its boot or of its current task."""

    place: Place
    actor: Any
    answer: Any
    ticket: int
    unplaced_since: float
    placed: Placed | None = None
    placed_at: float = 0.0


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
        run = _RunLoop(ray, stages, items, watcher, self)
        try:
            yield from run.outcomes()
        finally:
            if run.head.away_since is None:  # otherwise each of these calls would wait for the head
                run.metrics.close()
                for handle in run.handles.values():
                    ray.kill(handle.actor)


class _RunLoop:
    """One call of `RayExecutor.run`: executes the scheduler's commands and turns the actors' replies into signals."""

    def __init__(
        self, ray: Any, stages: Sequence[Stage], items: Sequence[Any], watcher: Watcher, executor: RayExecutor
    ):
        self.ray, self.stages, self.watcher, self.executor = ray, stages, watcher, executor
        self.scheduler = make_scheduler(stages, items, executor.limits)
        self.workers, self.handles = Workers(), dict[Place, _Handle]()
        self.slots = [set[int]() for _ in stages]  # the worker numbers of each stage's slots
        self.nodes, self.checked_at = Nodes(ray), time.monotonic()
        self.head = HeadWatch(head_of(ray))
        self.metrics = Metrics(self.workers, [stage.name for stage in stages])
        self.resources = ResourceCheck(
            ray, self.nodes, executor.infeasible_seconds, executor.stall_timeout.boot_seconds
        )

    def outcomes(self) -> Iterator[Outcome]:
        for signal in self._signals():
            commands = self.scheduler.handle(signal, time.monotonic())
            yield from self._execute(commands)
            for command in commands:
                if isinstance(command, Abort):
                    raise error_of(command, self.stages)

    def _signals(self) -> Iterator[Signal]:
        """The signals for the scheduler, in order, until the run has finished. Each depends on those before."""
        for number, stage in enumerate(self.stages):
            for worker in range(stage.workers):
                self.slots[number].add(worker)
                yield Joined(Place(number, worker))
        while not self.scheduler.finished:
            ready = self._wait()
            yield from filter(None, map(self._signal_of_reply, ready))
            others = [handle for handle in self.handles.values() if handle not in ready]
            yield from filter(None, map(self._signal_of_stall, others))
            yield Tick()
            if time.monotonic() - self.checked_at >= CHECK_SECONDS:
                self.checked_at = time.monotonic()
                self.head.check()
                self.metrics.export()
                yield from [*self._unplaced(), *self._elastic_changes()]
            self.resources.check(self.stages, self.workers)

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
            capacity, slots = max(1, self.nodes.capacity(stage) - others), self.slots[number]
            while len(slots) < min(capacity, self.scheduler.remaining(number)):
                worker = next(free for free in range(len(slots) + 1) if free not in slots)
                slots.add(worker)
                yield Joined(Place(number, worker))
            unplaced = [
                place for place, handle in self.handles.items() if place.stage == number and handle.placed is None
            ]
            for place in unplaced[: max(0, len(slots) - capacity)]:
                slots.discard(place.worker)
                yield Left(place)

    def _execute(self, commands: Sequence[Command]) -> list[Outcome]:
        """Execute the commands and return the outcomes of the items that have ended."""
        outcomes = []
        for command in commands:
            if isinstance(command, Abort):
                continue  # it is the last command, and is raised after the outcomes
            self._emit(event_of(command, self.stages))
            if isinstance(command, Start):
                self.handles[command.place] = self._start(command)
            elif isinstance(command, Assign):
                handle = self.handles[command.place]
                handle.ticket = command.ticket
                handle.answer = handle.actor.work.options(num_returns="streaming").remote(command.task.payload)
            elif isinstance(command, Stop):
                self.ray.kill(self.handles.pop(command.place).actor)
            elif isinstance(command, End):
                outcomes.append(outcome_of(command, self.stages))
        return outcomes

    def _start(self, command: Start) -> _Handle:
        stage = self.stages[command.place.stage]
        actor = create_actor(self.ray, stage, self.executor.environment, self.nodes.selector(stage))
        answer = actor.boot.options(num_returns="streaming").remote(stage.make_worker)
        return _Handle(command.place, actor, answer, command.ticket, time.monotonic())

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

    def _signal_of_reply(self, handle: _Handle) -> Ready | Succeeded | Failed | None:
        """The signal of an actor's reply; None for a heartbeat, or if the actor has been stopped meanwhile."""
        if self.handles.get(handle.place) is not handle:
            return None
        stage = self.stages[handle.place.stage]
        try:
            reply = self.ray.get(next(handle.answer))
        except self.ray.exceptions.RayTaskError as error:  # for example a reply that cannot be pickled
            reply = Failure.of(error.cause or error)
        except (self.ray.exceptions.RayError, StopIteration) as error:
            self.head.check()
            reply = loss_of(self.ray, error, first_line(error))
        if isinstance(reply, Progress):
            for event in progress_events(self._view(handle), reply):
                self._emit(event)
            return None
        if isinstance(reply, Placed):
            handle.placed, handle.placed_at = reply, time.monotonic()
            if self.nodes.is_fit(reply.node, stage):
                return None
            reply = Failure("preempted", "its node joined with too small a GPU")
        handle.answer = None
        if isinstance(reply, Success | Failure):
            return signal_of(handle.ticket, reply, self._view(handle).progress.saved)
        self._emit(Event("ready", stage.name, handle.place.worker, **asdict(handle.placed or Placed(0, "", ""))))
        return Ready(handle.ticket)

    def _signal_of_stall(self, handle: _Handle) -> Failed | None:
        """The failure of a worker that has stalled, or that has not booted in time, also for lack of resources."""
        if self.handles.get(handle.place) is not handle or handle.answer is None:
            return None
        view = self._view(handle)
        limit = self.executor.stall_timeout.limit_seconds(view)
        if time.monotonic() - max(view.heard_at, handle.placed_at) <= limit:
            return None
        handle.answer = None
        return Failed(handle.ticket, Failure("stalled", f"no heartbeat for {limit:.0f} s"), view.progress.saved)

    def _view(self, handle: _Handle) -> WorkerView:
        return self.workers.views[self.stages[handle.place.stage].name, handle.place.worker]

    def _emit(self, event: Event) -> None:
        self.metrics.watch(event, self.workers.take(event))
        self.watcher(event)
