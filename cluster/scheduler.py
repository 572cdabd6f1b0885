"""Who works on what, and who gets another chance: pure decisions, without processes or clocks.

An executor tells what happened (`succeeded`, `failed`) and asks what to do (`next`, `wanted`). Whatever the order of
events, every item ends exactly once, no item is tried more often than its budget allows, and no stage runs ahead of
the next one by more than `HANDOFF` finished items.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

HANDOFF = 4  # finished items that may wait for the next stage before this one pauses


class Policy(NamedTuple):
    """How often an item may meet one kind of failure, and whether its worker is still to be trusted."""

    attempts: int
    replace_worker: bool


POLICIES = {
    "input": Policy(1, False),  # the same prompt fails the same way
    "numeric": Policy(1, False),
    "storage": Policy(1, False),
    "error": Policy(1, False),
    "out_of_memory": Policy(2, True),  # fragmented memory of a long-lived worker is the usual cause
    "device": Policy(2, True),  # after a device fault every later call in the same process fails
    "died": Policy(3, True),
}


@dataclass(eq=False)
class Task:
    """An item on its way: the stage it is at, what that stage gets (`payload`), and the failures so far."""

    item: Any
    payload: Any
    stage: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class Verdict(NamedTuple):
    retry: bool
    replace_worker: bool


class Scheduler:
    """The state of a run: what waits before each stage, and how many items have not ended yet."""

    def __init__(self, stages: Sequence[str], items: Sequence[Any]):
        self._queues: list[deque[Task]] = [deque() for _ in stages]
        self._queues[0].extend(Task(item, item) for item in items)
        self._open = [len(items) if number == 0 else 0 for number in range(len(stages))]

    @property
    def finished(self) -> bool:
        return not any(self._open)

    def waiting(self, stage: int) -> int:
        return len(self._queues[stage])

    def wanted(self, stage: int) -> int:
        """The number of workers of a stage that can still find something to do."""
        return sum(self._open[: stage + 1])

    def next(self, stage: int) -> Task | None:
        """The task for an idle worker; None when nothing waits, or too much waits behind this stage already."""
        if not self._queues[stage] or (stage + 1 < len(self._queues) and self.waiting(stage + 1) >= HANDOFF):
            return None
        return self._queues[stage].popleft()

    def succeeded(self, task: Task, result: Any) -> bool:
        """A worker finished a task. True when that was the last stage: the item has ended."""
        self._open[task.stage] -= 1
        task.stage, task.payload = task.stage + 1, result
        if task.stage == len(self._queues):
            return True
        self._open[task.stage] += 1
        self._queues[task.stage].append(task)
        return False

    def failed(self, task: Task, kind: str) -> Verdict:
        """A worker failed a task. Without another attempt the item has ended."""
        policy = POLICIES[kind]
        task.failures[kind] += 1
        retry = task.failures[kind] < policy.attempts
        if retry:
            self._queues[task.stage].appendleft(task)
        else:
            self._open[task.stage] -= 1
        return Verdict(retry, policy.replace_worker)
