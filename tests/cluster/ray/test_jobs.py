"""The Jobs API of a Ray that is started for this."""

import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import requests
from ray.job_submission import JobDetails, JobStatus, JobType

from cluster.kubernetes.launcher import LaunchError
from cluster.ray.jobs import RayJobs
from tests.support import own_process

START_SECONDS = 300
CLI = [sys.executable, "-c", "from pipeline.cli.app import main; main()"]
CONNECT = [sys.executable, "-c", "from cluster.ray.executor import connect; connect()"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Head(NamedTuple):
    dashboard: str
    gcs: str
    environment: dict[str, str]  # with its token, if it asks for one


@pytest.fixture(scope="module")
def head():
    """It asks for a token."""
    with running({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}) as started:
        yield started


@contextmanager
def running(authentication: Mapping[str, str]) -> Iterator[Head]:
    """A head on loopback, which ends with its process. Processes of their own talk to it: Ray reads its token once a
    process."""
    port, gcs = free_port(), free_port()
    environment = own_process.without_ray() | authentication
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    start = ["ray", "start", "--head", "--block", "--num-cpus=1", "--disable-usage-stats", f"--port={gcs}"]
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}", "--object-store-memory=100000000"]
    silence, started = subprocess.DEVNULL, Head(f"http://127.0.0.1:{port}", f"127.0.0.1:{gcs}", environment)
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as short:  # sockets have 107 characters
        # Where a head's agent cannot have its port, be it that another Ray of this machine has it, no job can be sent.
        start += [f"--temp-dir={short}", "--dashboard-agent-listen-port=0"]
        with subprocess.Popen(start, env=environment, stdout=silence, stderr=silence) as process:
            assert answers(started.dashboard)
            yield started
            process.terminate()


def answers(dashboard: str) -> bool:
    """Be it with a refusal: nobody has shown a token."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            requests.get(f"{dashboard}/api/version", timeout=5)
            return True
        except requests.RequestException:
            time.sleep(0.5)
    return False


def side_by_side(asked: list[tuple[list[str], dict[str, str]]]) -> list[tuple[int, str, str]]:
    """Of each command, with its environment, the status and what it printed, as output and as errors."""
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command, environment in asked
    ]
    return [(process.wait(), out, errors) for process in processes for out, errors in [process.communicate()]]


def test_jobs_on_a_ray_cluster(head):
    own_process.run("tests.support.ray_job_head", head.dashboard, environment=head.environment)


def test_a_token_that_is_missing_or_wrong_is_told(head, tmp_path):
    """Fault test 23. In processes of their own, because Ray reads its token once; side by side, because it is slow."""
    without = own_process.without_ray() | {"HOME": str(tmp_path)}
    wrong = without | {"RAY_AUTH_TOKEN": "wrong" * 8}
    submit = [*CLI, "submit", "ray", "--name", "night", "--address", head.dashboard, "--", "bench"]
    asked = [
        (submit, without),
        (submit, wrong),
        *((CONNECT, env | {"RAY_ADDRESS": head.gcs}) for env in (without, wrong)),
    ]
    missing, refused, *unanswered = [told.splitlines()[-1] for _, _, told in side_by_side(asked)]
    ray, ending = f"Error: Ray's dashboard at {head.dashboard}", "; set RAY_AUTH_TOKEN to the cluster's token."
    assert missing == f"{ray} asks for a token, and there is none{ending}"
    assert refused == f"{ray} refuses the token in RAY_AUTH_TOKEN{ending}"
    for line in unanswered:
        assert line.startswith(f"cluster.ray.executor.ClusterError: No Ray cluster answers at RAY_ADDRESS={head.gcs} (")
        assert line.endswith(
            "set RAY_AUTH_TOKEN to its token if it asks for one, or unset RAY_ADDRESS to work on this machine."
        )


def test_a_head_that_asks_for_no_token_takes_whoever_comes_with_one_or_without(tmp_path):
    without = own_process.without_ray() | {"HOME": str(tmp_path)}
    of_another = without | {"RAY_AUTH_TOKEN": "another's" * 8}
    with running({"RAY_AUTH_MODE": "disabled"}) as head:
        submit = [*CLI, "submit", "ray", "--address", head.dashboard, "--name"]
        told = side_by_side(
            [
                *(
                    ([*submit, f"job{n}", "--", "bench", "--prompt", " "], env)
                    for n, env in enumerate((without, of_another))
                ),
                *((CONNECT, env | {"RAY_ADDRESS": head.gcs}) for env in (without, of_another)),
            ]
        )
    assert [(status, out) for status, out, _ in told] == [
        (0, "job0: submitted\n"),
        (0, "job1: submitted\n"),
        (0, ""),
        (0, ""),
    ]


def test_what_ray_writes_down_of_a_job_that_was_deleted_is_no_job():
    """Its monitor looked once more, after the deletion."""
    ghost = JobDetails(
        submission_id="night", type=JobType.SUBMISSION, entrypoint="Entrypoint not found.", status=JobStatus.FAILED
    )
    there = [ghost]
    launcher = RayJobs.__new__(RayJobs)
    launcher.address = "http://127.0.0.1:8265"
    launcher.client = SimpleNamespace(list_jobs=lambda: there, delete_job=lambda name: there.clear())
    with pytest.raises(LaunchError, match="There is no job night"):
        launcher.status("night")
    assert there == []


def test_no_cluster_is_told_in_one_line():
    with pytest.raises(LaunchError, match=r"Ray's dashboard at http://127\.0\.0\.1:9 does not do it \(") as error:
        RayJobs("http://127.0.0.1:9")
    assert len(str(error.value).splitlines()) == 1
