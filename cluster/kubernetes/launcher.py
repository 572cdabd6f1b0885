"""Where a job can be sent, and how it is looked after: one contract for Ray's Jobs API and for KubeRay.

A name is a job. To submit it again changes nothing: whoever is started twice attaches to what the first start began.
"""

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from cluster.kubernetes.job import Job

GOING_SECONDS = 60
Change = Literal["created", "replaced", "unchanged", "deleted"]  # what asking for a schedule, or for none, did
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

    def __str__(self) -> str:
        return f"{self.state}: {self.message}" if self.message else self.state

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
    echo: Callable[[str], None] | None = None,
) -> Status:
    """Ask until the job has ended, and tell what changes; `echo` gets what it prints. Raises LaunchError."""
    last, printed = None, ""
    while True:
        status = launcher.status(name)
        if status != last:
            tell(status)
        if echo is not None:
            text = launcher.logs(name)
            echo(text.removeprefix(printed))  # a new attempt has a log of its own
            printed = text
        if status.has_ended:
            return status
        last = status
        sleep(seconds)


def run(launcher: Launcher, job: Job, tell: Callable[[Status], None], **how: Any) -> Status:
    """Submit or attach, wait for the end, and cancel the job if this process is told to stop. Raises LaunchError."""
    handle = launcher.submit(job)
    try:
        return wait(launcher, handle.name, tell, **how)
    except (KeyboardInterrupt, SystemExit):
        launcher.cancel(handle.name)
        raise


def begin_anew(launcher: Launcher, job: Job, sleep: Callable[[float], None] = time.sleep) -> Handle:
    """Submit or attach; but a job of this name that has failed is forgotten first. Files stay. Raises LaunchError."""
    handle = launcher.submit(job)
    if handle.is_new or launcher.status(job.name).state != "failed":
        return handle
    launcher.cancel(job.name)
    for _ in range(GOING_SECONDS):  # what is deleted may stay until its operator has let it go
        handle = launcher.submit(job)
        if handle.is_new:
            return handle
        sleep(1)
    raise going(job.name)


def going(name: str) -> LaunchError:
    """Of a job that was deleted and is still there."""
    return LaunchError(f"The failed job {name} is still going after {GOING_SECONDS} s; start the same command later.")


def another(name: str) -> LaunchError:
    """Of a name that is taken."""
    return LaunchError(
        f"A job {name} is there and asks for something else; choose another --name, or run segmentdreamer "
        "job cancel first."
    )


def missing(name: str) -> LaunchError:
    return LaunchError(f"There is no job {name}; submit it, or look into another --namespace or --address.")
