"""Who works on what, and who gets another chance: pure decisions, without processes or clocks.

`Scheduler.handle` takes an event and the time, and answers with commands. Whatever the order of events, every item ends
exactly once, no item meets a failure more often than its budget allows, no stage runs ahead of the next one by more
than its bound, and no worker is idle while there is something for it. What it costs does not grow with slots or items.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, Literal

from cluster.scheduling.failures import POLICIES, Failure
from cluster.scheduling.protocol import (
    Abort,
    Advance,
    Assign,
    Command,
    Crowded,
    End,
    Event,
    Failed,
    Joined,
    Left,
    Place,
    Ready,
    Retry,
    Start,
    Stop,
    Succeeded,
    Task,
)

HANDOFF = 4  # finished items that may wait per worker of the next stage before this one pauses


@dataclass(frozen=True)
class Limits:
    """What a run puts up with. A wait doubles with every failure in a row, up to `longest_backoff_seconds`."""

    strikes: int = 4  # failures of a slot in a row, whatever the items, before it is given up: more than an item has
    backoff_seconds: float = 1.0
    longest_backoff_seconds: float = 60.0

    def backoff(self, failures: int) -> float:
        return min(self.backoff_seconds * 2.0 ** (failures - 1), self.longest_backoff_seconds)


DEFAULTS = Limits()


@dataclass(eq=False)
class Slot:
    """`waiting` slots have no worker and get none before their time; `vacant` ones get one when it is needed."""

    place: Place
    state: Literal["waiting", "vacant", "booting", "idle", "busy", "gone"] = "vacant"
    ticket: int = -1
    task: Task | None = None
    strikes: int = 0
    boots: int = 0  # that failed, in a row


class Scheduler:
    """The state of a run. `expected_seconds` of an item, where it is known, lets the longest begin first."""

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
        self._usable = [0 for _ in numbers]  # slots that are not gone
        self._live = [0 for _ in numbers]  # slots with a worker, or one that is being built
        self._ready = [0 for _ in numbers]  # slots with a worker
        self._queues: list[list[tuple[bool, float, int, Task]]] = [[] for _ in numbers]
        self._delayed = [0 for _ in numbers]  # tasks that wait for their time
        self._open = [len(items) if number == 0 else 0 for number in numbers]
        self._later: list[tuple[float, int, Task | Slot]] = []
        self._serial = count()
        self._successes = 0
        self._outage: Failure | None = None  # storage fails for everybody: nothing is begun
        self._commands: list[Command] = []
        for number, item in enumerate(items):
            self._enqueue(Task(item, item, number, expected_seconds(item)), is_retry=False)

    @property
    def finished(self) -> bool:
        return self.aborted or not any(self._open)

    @property
    def wakes_at(self) -> float | None:
        """When to come back with a `Tick`, though nothing happened."""
        return self._later[0][0] if self._later else None

    def waiting(self, stage: int) -> int:
        """Tasks that a stage has not begun."""
        return len(self._queues[stage]) + self._delayed[stage]

    def bound(self, stage: int) -> int:
        """How many tasks may wait before `stage` until the stage before begins no more."""
        return self._handoffs[stage] * max(1, self._usable[stage])

    def left(self, stage: int) -> int:
        """Items that have this stage before them, or are at it."""
        return sum(self._open[: stage + 1])

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in what happened; what is to be done, in order. Events of what was given up change nothing."""
        self._commands = []
        self._wake(now)
        if isinstance(event, Joined):
            self._join(event.place)
        elif isinstance(event, Left):
            self._leave(event.place, now)
        elif isinstance(event, Crowded):
            self._make_way(event.place, now)
        elif isinstance(event, Ready | Succeeded | Failed) and (slot := self._running.pop(event.ticket, None)):
            if isinstance(event, Failed):
                self._fail(slot, event.failure, now)
            elif isinstance(event, Succeeded) and slot.task:
                self._succeed(slot, slot.task, event.result)
            else:
                self._ready[slot.place.stage] += 1
                self._rest(slot)
        if not self.finished:
            self._assign()
            self._staff()
            self._give_up_on_storage()
        return self._commands

    def _wake(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _, _, thing = heappop(self._later)
            if isinstance(thing, Task):
                self._delayed[thing.stage] -= 1
                self._enqueue(thing, is_retry=True)
            elif thing.state == "waiting":
                thing.state = "vacant"
                self._vacant[thing.place.stage].append(thing)

    def _join(self, place: Place) -> None:
        if place not in self._slots or self._slots[place].state == "gone":
            slot = self._slots[place] = Slot(place)
            self._usable[place.stage] += 1
            self._vacant[place.stage].append(slot)

    def _leave(self, place: Place, now: float) -> None:
        slot = self._slots.get(place)
        if slot is None or slot.state == "gone":
            return
        lost = Failure("node_lost", "its node left the cluster")
        if self._running.pop(slot.ticket, None) and slot.task:
            self._judge(slot, slot.task, lost, now)
        self._empty(slot, lost, now, given_up=True)

    def _make_way(self, place: Place, now: float) -> None:
        """End a worker of another stage that has nothing to do, if a stage has work and nobody: it may be in the way.

        So stages whose workers do not fit beside each other take turns, and never wait for one another.
        """
        slot, stage = self._slots.get(place), place.stage
        if slot is None or slot.state != "booting" or self._ready[stage] or not self.waiting(stage):
            return
        for other, idle in enumerate(self._idle):
            while other != stage and idle:
                if (found := idle.popleft()).state == "idle":
                    reason = f"it makes way for a worker of stage {self._stages[stage]}"
                    self._empty(found, Failure("preempted", reason), now, given_up=False, pauses=True)
                    return

    def _staff(self) -> None:
        """Have workers built for work that has none; those of a later stage once the stage before has a worker.

        So the first stage has the machine to itself while it loads, and the next loads while the first computes.
        """
        for stage, vacant in enumerate(self._vacant):
            if stage and not self._ready[stage - 1] and not self.waiting(stage):
                return
            while vacant and self._live[stage] < self.left(stage):
                slot = vacant.popleft()
                if slot.state == "vacant":
                    self._live[stage] += 1
                    slot.state = "booting"
                    self._commands.append(Start(slot.place, self._ticket(slot)))

    def _assign(self) -> None:
        """Give idle workers what waits, the furthest first."""
        if self._outage:
            return
        for stage in reversed(range(len(self._queues))):
            queue, idle = self._queues[stage], self._idle[stage]
            while queue and idle and not self._is_ahead(stage):
                slot = idle.popleft()
                if slot.state == "idle":
                    slot.state, slot.task = "busy", heappop(queue)[-1]
                    self._commands.append(Assign(slot.place, self._ticket(slot), slot.task))

    def _is_ahead(self, stage: int) -> bool:
        return stage + 1 < len(self._queues) and self.waiting(stage + 1) >= self.bound(stage + 1)

    def _succeed(self, slot: Slot, task: Task, result: Any) -> None:
        slot.strikes = slot.boots = 0
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
        self._rest(slot)

    def _fail(self, slot: Slot, failure: Failure, now: float) -> None:
        policy = POLICIES[failure.kind]
        slot.strikes += policy.strikes
        if slot.task is None:
            slot.boots += 1
            others = self._usable[slot.place.stage] > 1
            given_up = slot.boots >= policy.boots or (slot.strikes >= self.limits.strikes and others)
            self._empty(slot, failure, now, given_up)
            if not self._usable[slot.place.stage]:
                self._abort(Abort(slot.place.stage, failure))
            return
        self._judge(slot, slot.task, failure, now)
        if policy.replace_worker:
            # The last slot is kept: budgets of items end the run, and a row says more than a run that stopped.
            given_up = slot.strikes >= self.limits.strikes and self._usable[slot.place.stage] > 1
            self._empty(slot, failure, now, given_up)
        else:
            self._rest(slot)

    def _judge(self, slot: Slot, task: Task, failure: Failure, now: float) -> None:
        """Another attempt for the task, at once or later, or its end."""
        policy = POLICIES[failure.kind]
        task.failures[failure.kind] += 1
        if policy.backs_off and task.successes_before < 0:
            task.successes_before = self._successes
        has_attempts = task.failures[failure.kind] < policy.attempts
        if not has_attempts and policy.backs_off and task.successes_before == self._successes:
            self._outage, has_attempts = failure, True  # nobody succeeded meanwhile: it is not this item
            task.failures[failure.kind] -= 1  # so it is not charged
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

    def _give_up_on_storage(self) -> None:
        """Nothing is begun while storage fails for everybody; what runs may prove the contrary, else the run stops."""
        if self._outage and not any(slot.task for slot in self._running.values()):
            self._abort(Abort(0, self._outage, stopped_working=True))

    def _abort(self, command: Abort) -> None:
        self.aborted = True
        self._commands.append(command)

    def _rest(self, slot: Slot) -> None:
        slot.state, slot.task = "idle", None
        self._idle[slot.place.stage].append(slot)

    def _empty(self, slot: Slot, failure: Failure, now: float, given_up: bool, pauses: bool = False) -> None:
        """End the slot's worker; another is built at once, after some time, or never."""
        stage = slot.place.stage
        if slot.state in ("booting", "idle", "busy"):
            self._live[stage] -= 1
            self._ready[stage] -= slot.state != "booting"
            self._commands.append(Stop(slot.place, failure, given_up))
        slot.task = None
        if given_up:
            slot.state = "gone"
            self._usable[stage] -= 1
        elif pauses or slot.boots or slot.strikes > 1:
            slot.state = "waiting"  # a GPU needs a moment to free what the last process held
            self._postpone(slot, now + self.limits.backoff(max(slot.boots, slot.strikes - 1, 1)))
        else:
            slot.state = "vacant"
            self._vacant[stage].append(slot)

    def _enqueue(self, task: Task, *, is_retry: bool) -> None:
        """First what was begun, so that its checkpoint is used while it is warm; then the longest; then as given."""
        heappush(self._queues[task.stage], (not is_retry, -task.expected_seconds, task.number, task))

    def _postpone(self, thing: Task | Slot, until: float) -> None:
        heappush(self._later, (until, next(self._serial), thing))

    def _ticket(self, slot: Slot) -> int:
        slot.ticket = next(self._serial)
        self._running[slot.ticket] = slot
        return slot.ticket
