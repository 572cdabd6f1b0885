"""Where a job can be sent, and how it is looked after: one contract for Ray's Jobs API and for KubeRay.

A name is a job. To submit it again changes nothing: whoever is started twice attaches to what the first start began.
"""

import time
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from cluster.job import Job

State = Literal["waiting", "running", "succeeded", "failed"]


class LaunchError(RuntimeError):
    """A job could not be sent or asked after; the message says why, and what to do."""


class Handle(NamedTuple):
    """`is_new` is False of a job that was there."""

    name: str
    is_new: bool


class Status(NamedTuple):
    state: State
    message: str = ""

    @property
    def has_ended(self) -> bool:
        return self.state in ("succeeded", "failed")


class Launcher(Protocol):
    """All methods raise `LaunchError`."""

    def submit(self, job: Job) -> Handle:
        """Send it, or attach to the job of this name if it asks for the same."""
        ...

    def status(self, name: str) -> Status: ...

    def logs(self, name: str) -> str: ...

    def cancel(self, name: str) -> None:
        """Stop and forget it. Files stay."""
        ...


def wait(
    launcher: Launcher,
    name: str,
    tell: Callable[[Status], None],
    seconds: float = 15.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Status:
    """Ask until the job has ended, and tell what changes. Raises LaunchError."""
    last = None
    while True:
        status = launcher.status(name)
        if status != last:
            tell(status)
        if status.has_ended:
            return status
        last = status
        sleep(seconds)


def another(name: str) -> LaunchError:
    """Of a name that is taken."""
    return LaunchError(
        f"A job {name} is there and asks for something else; choose another --name, or run segmentdreamer "
        "job cancel first."
    )


def missing(name: str) -> LaunchError:
    return LaunchError(f"There is no job {name}; submit it, or look into another --namespace or --address.")
