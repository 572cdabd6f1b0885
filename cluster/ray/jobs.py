"""The launcher of jobs on a running Ray cluster, through Ray's Jobs API."""

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster.jobs.description import ClusterJob
from cluster.jobs.errors import LaunchError, UnreachableError
from cluster.jobs.launcher import Handle, JobState, JobStatus, name_taken, no_such_job
from cluster.ray.session import has_token

DIGEST, SUBMITTER = "segmentdreamer_spec", "segmentdreamer_asked_by"
RETRY_SECONDS, STOP_SECONDS = 60, 60
# Ray checks a job once a second until it has ended. If the job is deleted before the last check, Ray records it again,
# as failed and with this entrypoint. If it has been submitted again meanwhile, Ray marks the new job as failed.
SETTLED_SECONDS, GHOST = 3.0, "Entrypoint not found."
TRANSIENT = "No available agent", "ServerDisconnectedError", "Cannot connect to host", "TimeoutError"
# Ray puts the name into URLs without quoting, and into the name of a log file.
NAME, NAME_BYTES = re.compile(r"(?!\.{1,2}$)[^/?#%\x00-\x1f\x7f]+"), 200
CAUSE = re.compile(r"^[\w.]*(?:Error|Exception): .+", re.MULTILINE)  # a traceback's last line, without indentation
STATES: dict[str, JobState] = {"PENDING": "waiting", "RUNNING": "running", "SUCCEEDED": "succeeded"}


class RayJobs:
    """A `Launcher`. A job's name is Ray's submission id, and its metadata holds its digest."""

    def __init__(self, address: str):
        if has_token():
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # otherwise Ray's client sends no token
        from ray.job_submission import JobSubmissionClient

        self.address = address
        with self._launch_errors():
            self.client = JobSubmissionClient(address)

    def submit(self, job: ClusterJob) -> Handle:
        _check_name(job.name)
        metadata = {DIGEST: job.digest, SUBMITTER: secrets.token_hex(8)}

        def find_or_submit() -> Any:
            return self._find(job.name) or self.client.submit_job(
                entrypoint=job.entrypoint, submission_id=job.name, metadata=metadata
            )

        with self._launch_errors():
            self._with_retries(find_or_submit)
        found = self._get(job.name).metadata or {}
        if found.get(DIGEST) != job.digest:
            raise name_taken(job.name)
        return Handle(job.name, is_new=found.get(SUBMITTER) == metadata[SUBMITTER])

    def _with_retries(self, request: Callable[[], Any]) -> Any:
        """Retry a request for `RETRY_SECONDS`: a head that has just started, or is overloaded, drops requests."""
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return request()
            except (OSError, RuntimeError) as error:
                if not _is_transient(error) or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def forget_failed(self, job: ClusterJob) -> None:
        with self._launch_errors():
            found = self._with_retries(lambda: self._find(job.name))
        if found and (found.metadata or {}).get(DIGEST) == job.digest and _status_of(found).state == "failed":
            self.cancel(job.name)

    def status(self, name: str) -> JobStatus:
        return _status_of(self._get(name))

    def logs(self, name: str) -> str:
        self._get(name)
        with self._launch_errors():
            return self._with_retries(lambda: self.client.get_job_logs(name))

    def cancel(self, name: str) -> None:
        found = self._get(name)
        with self._launch_errors():
            if not found.status.is_terminal():
                self._with_retries(lambda: self.client.stop_job(name))
            for _ in range(STOP_SECONDS):  # Ray cannot delete a job that is still stopping
                found = self._with_retries(lambda: self._find(name))
                if found is None or found.status.is_terminal():
                    break
                time.sleep(1)
            if found is not None and not found.status.is_terminal():
                raise LaunchError(
                    f"The job {name} is still {found.status.value} {STOP_SECONDS} s after it was stopped; run the same "
                    "command later."
                )
            ended = ((found and found.end_time) or 0) / 1000
            time.sleep(min(SETTLED_SECONDS, max(0.0, ended + SETTLED_SECONDS - time.time())))
            self._with_retries(lambda: self._find(name) and self.client.delete_job(name))

    def _get(self, name: str) -> Any:
        with self._launch_errors():
            found = self._with_retries(lambda: self._find(name))
        if found is None:
            raise no_such_job(name)
        return found

    def _find(self, name: str) -> Any:
        """The job, or None; what Ray has recorded of a deleted job is removed."""
        found = next((job for job in self.client.list_jobs() if job.submission_id == name), None)
        if found is not None and found.entrypoint == GHOST:
            self.client.delete_job(name)
            return None
        return found

    @contextmanager
    def _launch_errors(self) -> Iterator[None]:
        """Turn errors of Ray's client into a `LaunchError` of one line."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except LaunchError:
            raise
        except AuthenticationError as error:
            reason = "rejects the token in RAY_AUTH_TOKEN" if has_token() else "requires a token, and none is set"
            raise LaunchError(
                f"Ray's dashboard at {self.address} {reason}; set RAY_AUTH_TOKEN to the cluster's token."
            ) from error
        except (OSError, RuntimeError, ValueError) as error:  # OSError includes the errors of requests
            if _is_transient(error):
                reason = type(error).__name__ if isinstance(error, OSError) else _reason(error)
                raise UnreachableError(
                    f"Ray's dashboard at {self.address} does not answer ({reason}); start the cluster, or correct "
                    "`address`."
                ) from error
            raise LaunchError(
                f"Ray's dashboard at {self.address} did not accept the request ({_reason(error)}); check that it is "
                "running and that RAY_AUTH_TOKEN is its token."
            ) from error


def _check_name(name: str) -> None:
    """Refuse a name that Ray would accept and then mix up with another job's, or leave pending. Raises LaunchError."""
    if not NAME.fullmatch(name) or len(name.encode()) > NAME_BYTES:
        raise LaunchError(
            f"`name` is {name!r}; Ray needs 1 to {NAME_BYTES} bytes without /, ?, #, % and control characters; "
            "choose another."
        )


def _is_transient(error: Exception) -> bool:
    return isinstance(error, OSError) or any(word in str(error) for word in TRANSIENT)


def _reason(error: Exception) -> str:
    """One line: the first of the message, or the cause at the end of the tracebacks that Ray's server may send."""
    text = str(error).strip()
    causes = CAUSE.findall(text) if "Traceback (most recent call last)" in text else []
    return ([*causes[-1:], *text.splitlines()] or [type(error).__name__])[0].rstrip(".")


def _status_of(found: Any) -> JobStatus:
    return JobStatus(STATES.get(str(found.status.value), "failed"), " ".join((found.message or "").split()))
