"""Jobs on a Ray cluster that is there, through its Jobs API. With `ray_executor.py` the only files with ray."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.kubernetes.job import Job
from cluster.kubernetes.launcher import Handle, LaunchError, State, Status, another, missing

DIGEST, ASKED_BY = "segmentdreamer_spec", "segmentdreamer_asked_by"
TOKEN_FILE = Path("~/.ray/auth_token")
PATIENCE_SECONDS, STOP_SECONDS = 60, 60
# Ray looks after a job once a second until it finds it ended. One that is deleted before that look is written down
# anew, failed and with this in place of its command; if it was submitted again meanwhile, that one is called failed.
SETTLED_SECONDS, GHOST = 3.0, "Entrypoint not found."
PASSING = "No available agent", "ServerDisconnectedError", "Cannot connect to host", "TimeoutError"
STATES: dict[str, State] = {"PENDING": "waiting", "RUNNING": "running", "SUCCEEDED": "succeeded"}


class RayJobs:
    """A `Launcher`: the job's name is Ray's submission id, its digest in the metadata tells it from another."""

    def __init__(self, address: str):
        if _has_token():
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # else Ray's client sends none
        from ray.job_submission import JobSubmissionClient

        self.address = address
        with self._asking():
            self.client = JobSubmissionClient(address)

    def submit(self, job: Job) -> Handle:
        metadata = {DIGEST: job.digest, ASKED_BY: secrets.token_hex(8)}

        def find_or_send() -> Any:
            return self._find(job.name) or self.client.submit_job(
                entrypoint=job.entrypoint, submission_id=job.name, metadata=metadata
            )

        with self._asking():
            self._patiently(find_or_send)
        there = self._get(job.name).metadata or {}
        if there.get(DIGEST) != job.digest:
            raise another(job.name)
        return Handle(job.name, is_new=there.get(ASKED_BY) == metadata[ASKED_BY])

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Ask again for a while: a head that has just started, or is short of time, drops requests."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return ask()
            except (OSError, RuntimeError) as error:
                passes = isinstance(error, OSError) or any(word in str(error) for word in PASSING)
                if not passes or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def status(self, name: str) -> Status:
        there = self._get(name)
        return Status(STATES.get(str(there.status.value), "failed"), " ".join((there.message or "").split()))

    def logs(self, name: str) -> str:
        self._get(name)
        with self._asking():
            return self._patiently(lambda: self.client.get_job_logs(name))

    def cancel(self, name: str) -> None:
        there = self._get(name)
        with self._asking():
            if not there.status.is_terminal():
                self._patiently(lambda: self.client.stop_job(name))
            for _ in range(STOP_SECONDS):  # Ray deletes no job that still ends
                there = self._patiently(lambda: self._find(name))
                if there is None or there.status.is_terminal():
                    break
                time.sleep(1)
            ended = ((there and there.end_time) or 0) / 1000
            time.sleep(min(SETTLED_SECONDS, max(0.0, ended + SETTLED_SECONDS - time.time())))
            self._patiently(lambda: self._find(name) and self.client.delete_job(name))

    def _get(self, name: str) -> Any:
        with self._asking():
            there = self._patiently(lambda: self._find(name))
        if there is None:
            raise missing(name)
        return there

    def _find(self, name: str) -> Any:
        """The job, or None; what is left of one that was deleted goes."""
        found = next((job for job in self.client.list_jobs() if job.submission_id == name), None)
        if found is not None and found.entrypoint == GHOST:
            self.client.delete_job(name)
            return None
        return found

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What Ray's client says becomes a `LaunchError` of one line."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            found = "refuses the token in RAY_AUTH_TOKEN" if _has_token() else "asks for a token, and there is none"
            raise LaunchError(
                f"Ray's dashboard at {self.address} {found}; set RAY_AUTH_TOKEN to the cluster's token."
            ) from error
        except (OSError, RuntimeError, ValueError) as error:  # OSError: those of requests, too
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise LaunchError(
                f"Ray's dashboard at {self.address} does not do it ({reason}); see that it runs, and that "
                "RAY_AUTH_TOKEN is its token."
            ) from error


def _has_token() -> bool:
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or TOKEN_FILE.expanduser().exists()
