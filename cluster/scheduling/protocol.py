"""The words between an executor and the scheduler: events say what happened, commands what to do.

Whatever runs has a ticket: the boot of a worker and each attempt at an item have their own. An event carries the ticket
of what it tells of, so that a worker that was given up cannot be heard any more.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cluster.scheduling.failures import Failure


class Place(NamedTuple):
    """A slot: where one worker of a stage lives, and after its death the next one."""

    stage: int
    worker: int


@dataclass(eq=False)
class Task:
    """An item on its way: the stage it is at, what that stage gets (`payload`), and the failures so far."""

    item: Any
    payload: Any
    number: int
    expected_seconds: float = 0.0
    stage: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    successes_before: int = -1  # successes of the whole run when storage first failed for it


@dataclass(frozen=True)
class Joined:
    """There is room for a worker."""

    place: Place


@dataclass(frozen=True)
class Left:
    """There is no such room any more."""

    place: Place


@dataclass(frozen=True)
class Ready:
    """A worker is built."""

    ticket: int


@dataclass(frozen=True)
class Succeeded:
    ticket: int
    result: Any


@dataclass(frozen=True)
class Failed:
    """A boot or an attempt failed, or its process, or its node did."""

    ticket: int
    failure: Failure


@dataclass(frozen=True)
class Crowded:
    """The worker that is to live at `place` finds no room."""

    place: Place


@dataclass(frozen=True)
class Tick:
    """Time went by."""


@dataclass(frozen=True)
class Start:
    """Build a worker, in a process of its own."""

    place: Place
    ticket: int


@dataclass(frozen=True)
class Assign:
    """Let the worker at `place` work on the task."""

    place: Place
    ticket: int
    task: Task


@dataclass(frozen=True)
class Stop:
    """End the process at `place`, though it may be alive: nothing it says will be heard."""

    place: Place
    failure: Failure
    given_up: bool = False  # no other will be started there


@dataclass(frozen=True)
class Retry:
    """To be told: the task will be tried again."""

    place: Place
    task: Task
    failure: Failure


@dataclass(frozen=True)
class Advance:
    """To be told: the task is done at this stage and waits for the next."""

    place: Place
    task: Task


@dataclass(frozen=True)
class End:
    """The item has ended: with the last stage's result, or with the failure that was one too many."""

    place: Place
    task: Task
    result: Any = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Abort:
    """Stop the run: no worker of the stage can be born, or nothing can be written."""

    stage: int
    failure: Failure
    stopped_working: bool = False  # it was not a birth that failed


Event = Joined | Left | Crowded | Ready | Succeeded | Failed | Tick
Command = Start | Assign | Stop | Retry | Advance | End | Abort
