"""The signals and commands exchanged by an executor and the scheduler.

Each boot of a worker and each attempt at an item has its own ticket. A signal carries the ticket of the boot or attempt
it reports, so that late signals of a lost worker are ignored.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cluster.scheduling.failures import Failure


class Place(NamedTuple):
    """A slot for one worker of a stage. If its worker dies, the replacement gets the same place."""

    stage: int
    worker: int


@dataclass(eq=False)
class Task:
    """An item in progress: its current stage, the input of that stage (`payload`), and its failures so far."""

    item: Any
    payload: Any
    number: int
    expected_seconds: float = 0.0
    stage: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    forgiven: Counter[str] = field(default_factory=Counter)  # those before the checkpoint of step `saved`
    saved: int = 0
    successes_before: int = -1  # successes of the whole run when storage first failed for this task


# ---- signals ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Joined:
    """A slot was added."""

    place: Place


@dataclass(frozen=True)
class Left:
    """A slot was removed."""

    place: Place


@dataclass(frozen=True)
class Ready:
    """A worker has been built."""

    ticket: int


@dataclass(frozen=True)
class Succeeded:
    """An attempt returned its result."""

    ticket: int
    result: Any


@dataclass(frozen=True)
class Failed:
    """A boot or an attempt failed, or its process or node was lost. Another attempt can resume from step `saved`."""

    ticket: int
    failure: Failure
    saved: int = 0


@dataclass(frozen=True)
class Unplaced:
    """The worker for `place` has been waiting for free resources."""

    place: Place


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


# ---- commands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """Build a worker in a new process."""

    place: Place
    ticket: int


@dataclass(frozen=True)
class Assign:
    """Give the task to the worker at `place`."""

    place: Place
    ticket: int
    task: Task


@dataclass(frozen=True)
class Stop:
    """Kill the process at `place`, even if it is alive. Its later messages are ignored."""

    place: Place
    failure: Failure
    removes_slot: bool = False  # no replacement will be started
    makes_way: bool = False  # the worker is healthy and idle; another stage needs its resources


@dataclass(frozen=True)
class Retry:
    """Notification: the task will be retried."""

    place: Place
    task: Task
    failure: Failure


@dataclass(frozen=True)
class Advance:
    """Notification: the task has finished this stage and waits for the next."""

    place: Place
    task: Task


@dataclass(frozen=True)
class End:
    """The item has ended, with the last stage's result or with the failure that exhausted its attempts."""

    place: Place
    task: Task
    result: Any = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Abort:
    """Stop the run: no worker of the stage can be built, or (`is_outage`) storage fails for every worker."""

    stage: int
    failure: Failure
    is_outage: bool = False


Signal = Joined | Left | Unplaced | Ready | Succeeded | Failed | Tick
WorkerCommand = Start | Assign | Stop | Retry | Advance | End  # they have a place
Command = WorkerCommand | Abort
