"""The scheduler: assigns items to workers and decides on retries, as a state machine without processes or clocks.

`Scheduler.handle` takes a signal and the time and returns commands. In any order of signals, every item ends exactly
once, no item exceeds the attempts of `retries.POLICIES`, no stage runs ahead of the next one by more than its queue
limit, and no worker is idle while an item waits for it. The cost of a signal does not grow with slots or items.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, Literal

from cluster.scheduling.failures import Failure
from cluster.scheduling.protocol import (
    Abort,
    Advance,
    Assign,
    Command,
    End,
    Failed,
    Joined,
    Left,
    Place,
    Ready,
    Retry,
    Signal,
    Start,
    Stop,
    Succeeded,
    Task,
    Unplaced,
)
from cluster.scheduling.retries import POLICIES

HANDOFF = 4  # finished items that may wait per worker of the next stage before the previous stage pauses


@dataclass(frozen=True)
class Limits:
    """Limits of a run. The backoff doubles with each consecutive failure, up to `longest_backoff_seconds`."""

    strikes: int = 4  # consecutive failures, of any items, that remove a slot; more than one item has attempts
    backoff_seconds: float = 1.0
    longest_backoff_seconds: float = 60.0

    def backoff(self, failures: int) -> float:
        return min(self.backoff_seconds * 2.0 ** (failures - 1), self.longest_backoff_seconds)


DEFAULTS = Limits()


@dataclass(eq=False)
class Slot:
    """A place and its state: `backoff` slots get no worker until their backoff ends, `vacant` ones when needed."""

    place: Place
    state: Literal["backoff", "vacant", "booting", "idle", "busy", "removed"] = "vacant"
    ticket: int = -1
    task: Task | None = None
    strikes: int = 0
    failed_boots: int = 0  # in a row


class Scheduler:
    """The state of a run. Items with larger `expected_seconds` start first."""

    def __init__(
        self,
        stages: Sequence[str],
        items: Sequence[Any],
        limits: Limits = DEFAULTS,
        expected_seconds: Callable[[Any], float] = lambda item: 0.0,
        handoffs: Sequence[int] = (),
    ):
        self.limits, self.aborted = limits, False
        numbers = range(len(stages))
        self._stages, self._handoffs = list(stages), list(handoffs) or [HANDOFF for _ in numbers]
        self._slots: dict[Place, Slot] = {}
        self._running: dict[int, Slot] = {}  # by ticket
        self._vacant: list[deque[Slot]] = [deque() for _ in numbers]
        self._idle: list[deque[Slot]] = [deque() for _ in numbers]
        self._usable = [0 for _ in numbers]  # slots that are not removed
        self._live = [0 for _ in numbers]  # slots whose worker is booting or built
        self._ready = [0 for _ in numbers]  # slots whose worker is built
        self._queues: list[list[tuple[bool, float, int, Task]]] = [[] for _ in numbers]
        self._delayed = [0 for _ in numbers]  # tasks in backoff
        self._open = [len(items) if number == 0 else 0 for number in numbers]
        self._later: list[tuple[float, int, Task | Slot]] = []
        self._serial = count()
        self._successes = 0
        self._outage: Failure | None = None  # storage fails for every worker: no item is started
        self._commands: list[Command] = []
        for number, item in enumerate(items):
            self._enqueue(Task(item, item, number, expected_seconds(item)), is_retry=False)

    @property
    def finished(self) -> bool:
        return self.aborted or not any(self._open)

    @property
    def wakes_at(self) -> float | None:
        """When a `Tick` is due even if nothing else happens; None if nothing is delayed."""
        return self._later[0][0] if self._later else None

    def waiting(self, stage: int) -> int:
        """The number of tasks that wait for a stage."""
        return len(self._queues[stage]) + self._delayed[stage]

    def queue_limit(self, stage: int) -> int:
        """The number of tasks waiting for `stage` at which the previous stage pauses."""
        return self._handoffs[stage] * max(1, self._usable[stage])

    def remaining(self, stage: int) -> int:
        """The number of items that have not finished this stage."""
        return sum(self._open[: stage + 1])

    def handle(self, signal: Signal, now: float) -> list[Command]:
        """Process a signal and return commands, in order. Signals with the ticket of a lost worker change nothing."""
        self._commands = []
        self._end_backoffs(now)
        if isinstance(signal, Joined):
            self._add_slot(signal.place)
        elif isinstance(signal, Left):
            self._remove_slot(signal.place, now)
        elif isinstance(signal, Unplaced):
            self._free_resources(signal.place, now)
        elif isinstance(signal, Ready | Succeeded | Failed) and (slot := self._running.pop(signal.ticket, None)):
            if isinstance(signal, Failed):
                self._fail(slot, signal.failure, signal.saved, now)
            elif isinstance(signal, Succeeded) and slot.task:
                self._succeed(slot, slot.task, signal.result)
            else:
                self._ready[slot.place.stage] += 1
                self._make_idle(slot)
        if not self.finished:
            self._assign()
            self._start_workers()
            self._abort_on_outage()
        return self._commands

    def _end_backoffs(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _, _, delayed = heappop(self._later)
            if isinstance(delayed, Task):
                self._delayed[delayed.stage] -= 1
                self._enqueue(delayed, is_retry=True)
            elif delayed.state == "backoff":
                delayed.state = "vacant"
                self._vacant[delayed.place.stage].append(delayed)

    def _add_slot(self, place: Place) -> None:
        if place not in self._slots or self._slots[place].state == "removed":
            slot = self._slots[place] = Slot(place)
            self._usable[place.stage] += 1
            self._vacant[place.stage].append(slot)

    def _remove_slot(self, place: Place, now: float) -> None:
        slot = self._slots.get(place)
        if slot is None or slot.state == "removed":
            return
        lost = Failure("node_lost", "its node left the cluster")
        if self._running.pop(slot.ticket, None) and slot.task:
            self._retry_or_end(slot, slot.task, lost, now)
        self._stop(slot, lost, now, removes_slot=True)

    def _free_resources(self, place: Place, now: float) -> None:
        """Stop an idle worker of another stage if this stage has work and no worker; it may hold the resources.

        Stages whose workers do not fit side by side therefore alternate and never deadlock.
        """
        slot, stage = self._slots.get(place), place.stage
        if slot is None or slot.state != "booting" or self._ready[stage] or not self.waiting(stage):
            return
        for other, idle in enumerate(self._idle):
            while other != stage and idle:
                if (found := idle.popleft()).state == "idle":
                    reason = f"stopped to free resources for the {self._stages[stage]} stage"
                    self._stop(found, Failure("preempted", reason), now, removes_slot=False, makes_way=True)
                    return

    def _start_workers(self) -> None:
        """Start workers for waiting work. A stage's first workers start once the previous stage has a worker.

        So the first stage has the machine to itself while it loads, and the next loads while the first computes.
        """
        for stage, vacant in enumerate(self._vacant):
            if stage and not self._ready[stage - 1] and not self.waiting(stage):
                return
            while vacant and self._live[stage] < self.remaining(stage):
                slot = vacant.popleft()
                if slot.state == "vacant":
                    self._live[stage] += 1
                    slot.state = "booting"
                    self._commands.append(Start(slot.place, self._ticket(slot)))

    def _assign(self) -> None:
        """Assign waiting tasks to idle workers, the latest stage first."""
        if self._outage:
            return
        for stage in reversed(range(len(self._queues))):
            queue, idle = self._queues[stage], self._idle[stage]
            while queue and idle and not self._is_paused(stage):
                slot = idle.popleft()
                if slot.state == "idle":
                    slot.state, slot.task = "busy", heappop(queue)[-1]
                    self._commands.append(Assign(slot.place, self._ticket(slot), slot.task))

    def _is_paused(self, stage: int) -> bool:
        return stage + 1 < len(self._queues) and self.waiting(stage + 1) >= self.queue_limit(stage + 1)

    def _succeed(self, slot: Slot, task: Task, result: Any) -> None:
        slot.strikes = slot.failed_boots = 0
        self._successes += 1
        self._outage = None
        self._open[task.stage] -= 1
        if task.stage + 1 == len(self._queues):
            self._commands.append(End(slot.place, task, result))
        else:
            self._commands.append(Advance(slot.place, task))
            task.stage, task.payload = task.stage + 1, result
            self._open[task.stage] += 1
            self._enqueue(task, is_retry=False)
        self._make_idle(slot)

    def _fail(self, slot: Slot, failure: Failure, saved: int, now: float) -> None:
        policy = POLICIES[failure.kind]
        slot.strikes += policy.strikes
        if slot.task is None:
            slot.failed_boots += 1
            has_others = self._usable[slot.place.stage] > 1
            removes_slot = slot.failed_boots >= policy.boots or (slot.strikes >= self.limits.strikes and has_others)
            self._stop(slot, failure, now, removes_slot)
            if not self._usable[slot.place.stage]:
                self._abort(Abort(slot.place.stage, failure))
            return
        if saved > slot.task.saved:
            slot.task.saved, slot.task.forgiven = saved, slot.task.failures.copy()
        self._retry_or_end(slot, slot.task, failure, now)
        if policy.replace_worker:
            # The last slot is kept: each item then ends by its own attempts, and its row says more than an abort.
            removes_slot = slot.strikes >= self.limits.strikes and self._usable[slot.place.stage] > 1
            self._stop(slot, failure, now, removes_slot)
        else:
            self._make_idle(slot)

    def _retry_or_end(self, slot: Slot, task: Task, failure: Failure, now: float) -> None:
        """Retry the task, at once or after a backoff, or end it."""
        policy = POLICIES[failure.kind]
        task.failures[failure.kind] += 1
        if policy.backs_off and task.successes_before < 0:
            task.successes_before = self._successes
        forgiven = task.forgiven[failure.kind] if policy.forgives else 0
        has_attempts = task.failures[failure.kind] - forgiven < policy.attempts
        if not has_attempts and policy.backs_off and task.successes_before == self._successes:
            self._outage, has_attempts = failure, True  # no task has succeeded since: it is not this item's fault,
            task.failures[failure.kind] -= 1  # so this failure is not counted
        if not has_attempts:
            self._open[task.stage] -= 1
            self._commands.append(End(slot.place, task, failure=failure))
            return
        self._commands.append(Retry(slot.place, task, failure))
        if policy.backs_off:
            self._delayed[task.stage] += 1
            self._postpone(task, now + self.limits.backoff(task.failures[failure.kind]))
        else:
            self._enqueue(task, is_retry=True)

    def _abort_on_outage(self) -> None:
        """During a storage outage no task starts. If the running ones end without a success, stop the run."""
        if self._outage and not any(slot.task for slot in self._running.values()):
            self._abort(Abort(0, self._outage, is_outage=True))

    def _abort(self, command: Abort) -> None:
        self.aborted = True
        self._commands.append(command)

    def _make_idle(self, slot: Slot) -> None:
        slot.state, slot.task = "idle", None
        self._idle[slot.place.stage].append(slot)

    def _stop(self, slot: Slot, failure: Failure, now: float, removes_slot: bool, makes_way: bool = False) -> None:
        """Stop the slot's worker. A replacement starts at once, after a backoff, or never."""
        stage = slot.place.stage
        if slot.state in ("booting", "idle", "busy"):
            self._live[stage] -= 1
            self._ready[stage] -= slot.state != "booting"
            self._commands.append(Stop(slot.place, failure, removes_slot, makes_way))
        slot.task = None
        if removes_slot:
            slot.state = "removed"
            self._usable[stage] -= 1
        elif makes_way or slot.failed_boots or slot.strikes > 1:
            slot.state = "backoff"  # a GPU needs a moment to free the memory of the previous process
            self._postpone(slot, now + self.limits.backoff(max(slot.failed_boots, slot.strikes - 1, 1)))
        else:
            slot.state = "vacant"
            self._vacant[stage].append(slot)

    def _enqueue(self, task: Task, *, is_retry: bool) -> None:
        """Order: retries, while their checkpoints are still cached; then the longest; then as given."""
        heappush(self._queues[task.stage], (not is_retry, -task.expected_seconds, task.number, task))

    def _postpone(self, delayed: Task | Slot, until: float) -> None:
        heappush(self._later, (until, next(self._serial), delayed))

    def _ticket(self, slot: Slot) -> int:
        slot.ticket = next(self._serial)
        self._running[slot.ticket] = slot
        return slot.ticket
