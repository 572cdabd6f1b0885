"""The Jobs API of a Ray that is started for this: one test, because its start takes most of the time."""

import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import job as jobs
from cluster.launcher import Handle, LaunchError, wait
from cluster.ray_jobs import RayJobs


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def dashboard(tmp_path_factory, monkeypatch):
    """The address of a head that asks for a token and listens on loopback; it ends with its own process."""
    port = free_port()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    start = ["ray", "start", "--head", "--block", "--num-cpus=1", "--disable-usage-stats", f"--port={free_port()}"]
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}", "--object-store-memory=100000000"]
    start += [f"--temp-dir={tmp_path_factory.mktemp('r')}"]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
        yield f"http://127.0.0.1:{port}"
        head.terminate()


def connected(address: str) -> RayJobs:
    deadline = time.monotonic() + 60
    while True:
        try:
            return RayJobs(address)
        except LaunchError:
            assert time.monotonic() < deadline
            time.sleep(1)


@pytest.mark.skipif("RAY_JOBS_TEST" not in os.environ, reason="not yet steady on a loaded machine: set RAY_JOBS_TEST=1")
def test_jobs_on_a_ray_cluster(dashboard):
    launcher = connected(dashboard)
    job = jobs.job(name="night", command=("bench", "--prompt", "  "))
    assert launcher.submit(job) == Handle("night", is_new=True)
    assert launcher.submit(job) == Handle("night", is_new=False)
    with pytest.raises(LaunchError, match="asks for something else"):
        launcher.submit(jobs.job(name="night", command=("bench",)))
    assert wait(launcher, "night", lambda _: None, seconds=0.5).state == "failed"
    assert "Error: The prompt is empty" in launcher.logs("night")
    launcher.cancel("night")
    with pytest.raises(LaunchError, match="There is no job night"):
        launcher.status("night")


def test_no_cluster_is_told_in_one_line():
    with pytest.raises(LaunchError, match=r"Ray's dashboard at http://127\.0\.0\.1:9 does not do it \(") as error:
        RayJobs("http://127.0.0.1:9")
    assert len(str(error.value).splitlines()) == 1
