"""The Jobs API of a Ray that is started for this: one test, because its start takes most of the time."""

import os
import secrets
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from cluster import job as jobs
from cluster.launcher import Handle, LaunchError, begin_anew, wait
from cluster.ray_jobs import RayJobs


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


ON_REQUEST = pytest.mark.skipif("RAY_JOBS_TEST" not in os.environ, reason="not steady under load: set RAY_JOBS_TEST=1")


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The dashboard and the address of a head on loopback that asks for a token; it ends with its process."""
    port, gcs = free_port(), free_port()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        start = ["ray", "start", "--head", "--block", "--num-cpus=1", "--disable-usage-stats", f"--port={gcs}"]
        start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}", "--object-store-memory=100000000"]
        start += [f"--temp-dir={tmp_path_factory.mktemp('r')}"]
        with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            yield f"http://127.0.0.1:{port}", f"127.0.0.1:{gcs}"
            process.terminate()


def connected(address: str) -> RayJobs:
    deadline = time.monotonic() + 120
    while True:
        try:
            return RayJobs(address)
        except LaunchError:
            assert time.monotonic() < deadline
            time.sleep(1)


@ON_REQUEST
def test_jobs_on_a_ray_cluster(head):
    launcher = connected(head[0])
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


@ON_REQUEST
def test_a_token_that_is_missing_or_wrong_is_told(head, tmp_path):
    """Fault test 23. In processes of their own, because Ray reads its token once; side by side, because it is slow."""
    connected(head[0])
    without = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {"HOME": str(tmp_path)}
    wrong = without | {"RAY_AUTH_TOKEN": "wrong" * 8}
    cli = [sys.executable, "-c", "from pipeline.cli import main; main()"]
    submit = [*cli, "submit", "ray", "--name", "night", "--address", head[0], "--", "bench"]
    connect = [sys.executable, "-c", "from cluster.ray_executor import connect; connect()"]
    asked = [
        (submit, without),
        (submit, wrong),
        *((connect, env | {"RAY_ADDRESS": head[1]}) for env in (without, wrong)),
    ]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command, environment in asked
    ]
    missing, refused, *unanswered = [process.communicate()[1].splitlines()[-1] for process in processes]
    ray, ending = f"Error: Ray's dashboard at {head[0]}", "; set RAY_AUTH_TOKEN to the cluster's token."
    assert missing == f"{ray} asks for a token, and there is none{ending}"
    assert refused == f"{ray} refuses the token in RAY_AUTH_TOKEN{ending}"
    for line in unanswered:
        assert line.startswith(f"cluster.ray_executor.ClusterError: No Ray cluster answers at RAY_ADDRESS={head[1]} (")
        assert line.endswith(
            "set RAY_AUTH_TOKEN to its token if it asks for one, or unset RAY_ADDRESS to work on this machine."
        )


def test_no_cluster_is_told_in_one_line():
    with pytest.raises(LaunchError, match=r"Ray's dashboard at http://127\.0\.0\.1:9 does not do it \(") as error:
        RayJobs("http://127.0.0.1:9")
    assert len(str(error.value).splitlines()) == 1
