"""The launcher contract: submit a job to a cluster, and query, follow and cancel it.

`cluster.ray.jobs`, `cluster.kubernetes.jobs` and `cluster.kubeflow.runs` implement it. A name identifies a job:
submitting the same job again changes nothing and attaches to it.
"""

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from cluster.jobs.description import Job
from cluster.jobs.errors import LaunchError

DELETION_SECONDS = 60
Change = Literal["created", "replaced", "unchanged", "deleted"]  # the effect of `schedule` and `unschedule`
State = Literal["waiting", "running", "succeeded", "failed"]


class Handle(NamedTuple):
    """A submitted job; `is_new` is False if it existed before."""

    name: str
    is_new: bool


class Status(NamedTuple):
    """The state of a job, and the cluster's message about it."""

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
        """Submit a job, or attach to the job of this name if it is the same."""
        ...

    def status(self, name: str) -> Status: ...

    def logs(self, name: str) -> str: ...

    def cancel(self, name: str) -> None:
        """Stop and delete a job. Its files are kept."""
        ...


def wait(
    launcher: Launcher,
    name: str,
    on_status: Callable[[Status], None],
    seconds: float = 15.0,
    sleep: Callable[[float], None] = time.sleep,
    on_log: Callable[[str], None] | None = None,
) -> Status:
    """Poll a job until it ends. Each new status goes to `on_status`, new output to `on_log`. Raises LaunchError."""
    last, printed = None, ""
    while True:
        status = launcher.status(name)
        if status != last:
            on_status(status)
        if on_log is not None:
            text = launcher.logs(name)
            on_log(text.removeprefix(printed))  # each attempt has its own log
            printed = text
        if status.has_ended:
            return status
        last = status
        sleep(seconds)


def run(launcher: Launcher, job: Job, on_status: Callable[[Status], None], **options: Any) -> Status:
    """Submit or attach, then wait for the end. If this process is interrupted, cancel the job. Raises LaunchError."""
    handle = launcher.submit(job)
    try:
        return wait(launcher, handle.name, on_status, **options)
    except (KeyboardInterrupt, SystemExit):
        launcher.cancel(handle.name)
        raise


def resubmit(launcher: Launcher, job: Job, sleep: Callable[[float], None] = time.sleep) -> Handle:
    """Submit or attach, but first delete a failed job of this name. Its files are kept. Raises LaunchError."""
    handle = launcher.submit(job)
    if handle.is_new or launcher.status(job.name).state != "failed":
        return handle
    launcher.cancel(job.name)
    for _ in range(DELETION_SECONDS):  # a deleted job may exist until its operator releases it
        handle = launcher.submit(job)
        if handle.is_new:
            return handle
        sleep(1)
    raise still_deleting(job.name)


def still_deleting(name: str) -> LaunchError:
    """The error about a deleted job that still exists."""
    return LaunchError(
        f"The failed job {name} still exists {DELETION_SECONDS} s after its deletion; run the same command later."
    )


def name_taken(name: str) -> LaunchError:
    """The error about a name that belongs to a different job."""
    return LaunchError(
        f"A different job named {name} exists; choose another --name, or run segmentdreamer job cancel first."
    )


def no_such_job(name: str) -> LaunchError:
    """The error about a name without a job."""
    return LaunchError(f"There is no job {name}; submit it, or try another --namespace or --address.")
