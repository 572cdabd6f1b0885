"""Jobs on a Ray cluster that is there, through its Jobs API. With `ray_executor.py` the only files with ray."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.job import Job
from cluster.launcher import Handle, LaunchError, State, Status, another, missing

DIGEST = "segmentdreamer_spec"
TOKEN_FILE = Path("~/.ray/auth_token")
START_SECONDS, STOP_SECONDS = 60, 30
STATES: dict[str, State] = {"PENDING": "waiting", "RUNNING": "running", "SUCCEEDED": "succeeded"}


class RayJobs:
    """A `Launcher`: the job's name is Ray's submission id, its digest in the metadata tells it from another."""

    def __init__(self, address: str):
        if os.environ.get("RAY_AUTH_TOKEN") or TOKEN_FILE.expanduser().exists():
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # else Ray's client sends none
        from ray.job_submission import JobSubmissionClient

        self.address = address
        with self._asking():
            self.client = JobSubmissionClient(address)

    def submit(self, job: Job) -> Handle:
        with self._asking():
            there = self._find(job.name)
            if there is None:
                self._send(job)
                return Handle(job.name, is_new=True)
        if (there.metadata or {}).get(DIGEST) != job.digest:
            raise another(job.name)
        return Handle(job.name, is_new=False)

    def _send(self, job: Job) -> None:
        """A head that has just started has no agent for jobs yet, and asks to come again."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                metadata = {DIGEST: job.digest}
                self.client.submit_job(entrypoint=job.entrypoint, submission_id=job.name, metadata=metadata)
                return
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def status(self, name: str) -> Status:
        there = self._get(name)
        return Status(STATES.get(str(there.status.value), "failed"), " ".join((there.message or "").split()))

    def logs(self, name: str) -> str:
        self._get(name)
        with self._asking():
            return self.client.get_job_logs(name)

    def cancel(self, name: str) -> None:
        there = self._get(name)
        with self._asking():
            if not there.status.is_terminal():
                self.client.stop_job(name)
            for _ in range(STOP_SECONDS):  # Ray deletes no job that still ends
                if self._find(name).status.is_terminal():
                    break
                time.sleep(1)
            self.client.delete_job(name)

    def _get(self, name: str) -> Any:
        with self._asking():
            there = self._find(name)
        if there is None:
            raise missing(name)
        return there

    def _find(self, name: str) -> Any:
        return next((job for job in self.client.list_jobs() if job.submission_id == name), None)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What Ray's client says becomes a `LaunchError` of one line."""
        try:
            yield
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise LaunchError(
                f"Ray's dashboard at {self.address} does not do it ({reason}); see that it runs, and that "
                "RAY_AUTH_TOKEN is its token."
            ) from error
