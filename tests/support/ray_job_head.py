"""Script of tests/cluster/ray/test_jobs.py: submits, resubmits and cancels a job on the head of a given dashboard."""

import sys

import pytest

from cluster.jobs import description as jobs
from cluster.jobs.errors import LaunchError
from cluster.jobs.launcher import Handle, resubmit, wait
from cluster.ray.jobs import RayJobs

launcher = RayJobs(sys.argv[1])
job = jobs.job(name="night", command=("bench", "--prompt", "  "))
assert launcher.submit(job) == Handle("night", is_new=True)
assert launcher.submit(job) == Handle("night", is_new=False)
with pytest.raises(LaunchError, match="A different job named night exists"):
    launcher.submit(jobs.job(name="night", command=("bench",)))
assert wait(launcher, "night", lambda _: None, seconds=0.5).state == "failed"
assert "Error: The prompt is empty" in launcher.logs("night")
assert resubmit(launcher, job) == Handle("night", is_new=True)
assert wait(launcher, "night", lambda _: None, seconds=0.5).state == "failed"
launcher.cancel("night")
with pytest.raises(LaunchError, match="There is no job night"):
    launcher.status("night")
