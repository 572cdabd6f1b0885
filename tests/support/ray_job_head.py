"""Run by test_ray_jobs.py: a job's life on the head whose dashboard is named, which asks for this process's token."""

import sys

import pytest

from cluster.kubernetes import job as jobs
from cluster.kubernetes.launcher import Handle, LaunchError, begin_anew, wait
from cluster.ray.jobs import RayJobs

launcher = RayJobs(sys.argv[1])
job = jobs.job(name="night", command=("bench", "--prompt", "  "))
assert launcher.submit(job) == Handle("night", is_new=True)
assert launcher.submit(job) == Handle("night", is_new=False)
with pytest.raises(LaunchError, match="asks for something else"):
    launcher.submit(jobs.job(name="night", command=("bench",)))
assert wait(launcher, "night", lambda _: None, seconds=0.5).state == "failed"
assert "Error: The prompt is empty" in launcher.logs("night")
assert begin_anew(launcher, job) == Handle("night", is_new=True)
assert wait(launcher, "night", lambda _: None, seconds=0.5).state == "failed"
launcher.cancel("night")
with pytest.raises(LaunchError, match="There is no job night"):
    launcher.status("night")
