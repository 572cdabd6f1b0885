"""The protocol of launchers: submit a job to a cluster, and query, follow and cancel it.

`cluster.ray.jobs`, `cluster.kubernetes.jobs` and `cluster.kubeflow.runs` implement it. A name identifies a job:
submitting the same job again changes nothing and attaches to it, unless it has failed and `forget_failed` is called.
"""

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from cluster.jobs.description import ClusterJob
from cluster.jobs.errors import LaunchError, UnreachableError

Answer = TypeVar("Answer")
ScheduleChange = Literal["created", "replaced", "unchanged", "deleted"]
JobState = Literal["waiting", "running", "succeeded", "failed"]
AWAY_SECONDS = 120.0  # how long `wait` waits for a cluster that has stopped answering
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 15.0  # between two tries


class Handle(NamedTuple):
    """A submitted job; `is_new` is False if it existed before."""

    name: str
    is_new: bool


class JobStatus(NamedTuple):
    """The state of a job, and the cluster's message about it."""

    state: JobState
    message: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.message}" if self.message else self.state

    @property
    def has_ended(self) -> bool:
        return self.state in ("succeeded", "failed")


class Launcher(Protocol):
    """All methods raise `LaunchError`."""

    def submit(self, job: ClusterJob) -> Handle:
        """Submit a job, or attach to the job of this name if it is the same."""
        ...

    def forget_failed(self, job: ClusterJob) -> None:
        """Delete this job if it has failed, so that it can be submitted again. Its files are kept.

        A different job of this name is kept, and so is a job that has not failed.
        """
        ...

    def status(self, name: str) -> JobStatus: ...

    def logs(self, name: str) -> str: ...

    def cancel(self, name: str) -> None:
        """Stop and delete a job. Its files are kept."""
        ...


def wait(
    launcher: Launcher,
    name: str,
    on_status: Callable[[JobStatus], None],
    seconds: float = 15.0,
    sleep: Callable[[float], None] = time.sleep,
    on_log: Callable[[str], None] | None = None,
) -> JobStatus:
    """Poll a job until it ends. Each new status goes to `on_status`, new output to `on_log`. Raises LaunchError."""
    last, printed = None, ""
    while True:
        status = _when_reachable(launcher.status, name, sleep)
        if status != last:
            on_status(status)
        if on_log is not None:
            text = _when_reachable(launcher.logs, name, sleep)
            on_log(text.removeprefix(printed))  # each attempt has its own log
            printed = text
        if status.has_ended:
            return status
        last = status
        sleep(seconds)


def _when_reachable(request: Callable[[str], Answer], name: str, sleep: Callable[[float], None]) -> Answer:
    """The answer to a request about a job. Tries again for `AWAY_SECONDS`, then raises LaunchError."""
    since, pause = time.monotonic(), FIRST_RETRY_SECONDS
    while True:
        try:
            return request(name)
        except UnreachableError as error:
            if time.monotonic() - since >= AWAY_SECONDS:
                raise LaunchError(
                    f"{error} The job {name} may still run: run the same command again, which attaches to it, or "
                    "resumes its run if the cluster has lost the job."
                ) from error
        sleep(pause)
        pause = min(2 * pause, LAST_RETRY_SECONDS)


def run(launcher: Launcher, job: ClusterJob, on_status: Callable[[JobStatus], None], **options: Any) -> JobStatus:
    """Submit or attach, then wait for the end. If this process is interrupted, cancel the job. Raises LaunchError."""
    handle = launcher.submit(job)
    try:
        return wait(launcher, handle.name, on_status, **options)
    except (KeyboardInterrupt, SystemExit):
        launcher.cancel(handle.name)
        raise


def name_taken(name: str) -> LaunchError:
    """The error about a name that belongs to a different job."""
    return LaunchError(f"A different job named {name} exists; choose another `name`, or cancel that job first.")


def no_such_job(name: str) -> LaunchError:
    """The error about a name without a job."""
    return LaunchError(f"There is no job {name}; submit it, or try another `namespace` or `address`.")
