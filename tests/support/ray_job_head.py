"""Script of tests/cluster/ray/test_jobs.py: submits, resubmits and cancels a job on the head of a given dashboard."""

import sys

import pytest

from cluster.jobs.errors import LaunchError
from cluster.jobs.launcher import Handle, wait
from cluster.ray.jobs import RayJobs
from tests.support.cluster_jobs import job

launcher = RayJobs(sys.argv[1])
empty = job(command=("bench", "--prompt", "  "))
assert launcher.submit(empty) == Handle("night", is_new=True)
assert launcher.submit(empty) == Handle("night", is_new=False)
with pytest.raises(LaunchError, match="A different job named night exists"):
    launcher.submit(job())
assert wait(launcher, "night", lambda _: None, seconds=0.5).state == "failed"
assert "Error: The prompt is empty" in launcher.logs("night")
with (
    pytest.raises(LaunchError, match=r"request \(ValueError: Job with submission_id night already exists"),
    launcher._launch_errors(),
):
    launcher.client.submit_job(entrypoint="true", submission_id="night")
launcher.forget_failed(job())  # a different job is kept
assert launcher.submit(empty) == Handle("night", is_new=False)
launcher.forget_failed(empty)
assert launcher.submit(empty) == Handle("night", is_new=True)
assert wait(launcher, "night", lambda _: None, seconds=0.5).state == "failed"
launcher.cancel("night")
with pytest.raises(LaunchError, match="There is no job night"):
    launcher.status("night")
