"""Ray's Jobs API on heads that the tests start."""

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

from cluster.jobs.errors import LaunchError
from cluster.jobs.launcher import Handle
from cluster.ray import jobs
from cluster.ray.jobs import RayJobs
from tests.support import own_process
from tests.support.cluster_jobs import job

START_SECONDS = 300
CLI = [sys.executable, "-c", "from pipeline.cli.app import main; main()"]
# Short waits, for a command whose head is lost.
SOON = """
import time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.5))
from cluster.jobs import launcher
from cluster.ray import jobs
launcher.AWAY_SECONDS = jobs.RETRY_SECONDS = 2.0
"""
CONNECT = [sys.executable, "-c", "from cluster.ray.session import connect; connect()"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Head(NamedTuple):
    dashboard: str
    gcs: str
    environment: dict[str, str]  # with its token, if it requires one
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def head():
    """A head that requires a token."""
    with running({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}) as started:
        yield started


@contextmanager
def running(authentication: Mapping[str, str]) -> Iterator[Head]:
    """A head on loopback. Separate processes connect to it, because Ray reads its token once per process."""
    port, gcs = free_port(), free_port()
    environment = own_process.without_ray() | authentication
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    start = ["ray", "start", "--head", "--block", "--num-cpus=1", "--disable-usage-stats", f"--port={gcs}"]
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={port}", "--object-store-memory=100000000"]
    null = subprocess.DEVNULL
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as short:  # sockets have 107 characters
        # If the port of a head's agent is taken, for example by another Ray of this machine, no job can be submitted.
        # With port 0 the agent of Ray 2.52 chooses one, and then finds no logs of jobs.
        start += [f"--temp-dir={short}", f"--dashboard-agent-listen-port={free_port()}"]
        with subprocess.Popen(start, env=environment, stdout=null, stderr=null) as process:
            head = Head(f"http://127.0.0.1:{port}", f"127.0.0.1:{gcs}", environment, process)
            assert answers(head.dashboard)
            yield head
            process.terminate()


def answers(dashboard: str) -> bool:
    """Whether the dashboard answers in time; a rejected token counts as an answer."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            requests.get(f"{dashboard}/api/version", timeout=5)
            return True
        except requests.RequestException:
            time.sleep(0.5)
    return False


def side_by_side(commands: list[tuple[list[str], dict[str, str]]]) -> list[tuple[int, str, str]]:
    """Run commands with their environments at once; the exit status, output and error output of each."""
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command, environment in commands
    ]
    return [(process.wait(), out, errors) for process in processes for out, errors in [process.communicate()]]


def test_jobs_on_a_ray_cluster(head):
    own_process.run("tests.support.ray_job_head", head.dashboard, environment=head.environment)


def test_a_missing_or_wrong_token_is_reported(head, tmp_path):
    """Fault test 23. In separate processes, because Ray reads its token once; side by side, because they are slow."""
    without = own_process.without_ray() | {"HOME": str(tmp_path)}
    wrong = without | {"RAY_AUTH_TOKEN": "wrong" * 8}
    submit = [*CLI, "submit", "ray", "--name", "night", "--address", head.dashboard, "--", "bench"]
    right = without | {"RAY_AUTH_TOKEN": head.environment["RAY_AUTH_TOKEN"]}
    commands = [
        (submit, without),
        (submit, wrong),
        *((CONNECT, env | {"RAY_ADDRESS": head.gcs}) for env in (without, wrong, right)),
    ]
    *refusals, (status, _, _) = side_by_side(commands)
    assert status == 0  # the token alone is enough
    missing, refused, *unanswered = [errors.splitlines()[-1] for _, _, errors in refusals]
    ray, ending = f"Error: Ray's dashboard at {head.dashboard}", "; set RAY_AUTH_TOKEN to the cluster's token."
    assert missing == f"{ray} requires a token, and none is set{ending}"
    assert refused == f"{ray} rejects the token in RAY_AUTH_TOKEN{ending}"
    for line in unanswered:
        assert line.startswith(f"cluster.ray.address.ClusterError: No Ray cluster answers at RAY_ADDRESS={head.gcs} (")
        assert line.endswith(
            "set RAY_AUTH_TOKEN to its token if it requires one, or unset RAY_ADDRESS to work on this machine."
        )


def test_a_head_without_authentication_accepts_any_token_or_none(tmp_path):
    without = own_process.without_ray() | {"HOME": str(tmp_path)}
    foreign = without | {"RAY_AUTH_TOKEN": "another's" * 8}
    with running({"RAY_AUTH_MODE": "disabled"}) as head:
        submit = [*CLI, "submit", "ray", "--address", head.dashboard, "--name"]
        results = side_by_side(
            [
                *(
                    ([*submit, f"job{n}", "--", "bench", "--prompt", " "], env)
                    for n, env in enumerate((without, foreign))
                ),
                *((CONNECT, env | {"RAY_ADDRESS": head.gcs}) for env in (without, foreign)),
            ]
        )
    assert [(status, out) for status, out, _ in results] == [
        (0, "job0: submitted\n"),
        (0, "job1: submitted\n"),
        (0, ""),
        (0, ""),
    ]


def launcher_of(**methods) -> RayJobs:
    """A launcher whose client has these methods only."""
    launcher = RayJobs.__new__(RayJobs)
    launcher.address, launcher.client = "http://127.0.0.1:8265", SimpleNamespace(**methods)
    return launcher


def test_rays_record_of_a_deleted_job_is_no_job():
    """Ray's monitor records the job once more after its deletion."""
    ghost = JobDetails(
        submission_id="night", type=JobType.SUBMISSION, entrypoint="Entrypoint not found.", status=JobStatus.FAILED
    )
    recorded = [ghost]
    launcher = launcher_of(list_jobs=lambda: recorded, delete_job=lambda name: recorded.clear())
    with pytest.raises(LaunchError, match="There is no job night"):
        launcher.status("night")
    assert recorded == []


def test_a_missing_cluster_is_reported_in_one_line():
    with pytest.raises(LaunchError) as error:
        RayJobs("http://127.0.0.1:9")
    assert str(error.value) == (
        "Ray's dashboard at http://127.0.0.1:9 does not answer (ConnectionError); start the cluster, or correct "
        "`address`."
    )


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a?b", "a#b", "a%2Fb", "a\nb", "n" * 201, "é" * 101])
def test_names_that_ray_mixes_up_or_leaves_pending_are_refused(name):
    """Ray accepts `a?b`, but shows and stops the job `a`; a log file cannot be called `a/b`."""
    with pytest.raises(LaunchError) as error:
        launcher_of().submit(job(name=name))  # before any request
    assert str(error.value) == (
        f"`name` is {name!r}; Ray needs 1 to 200 bytes without /, ?, #, % and control characters; choose another."
    )


@pytest.mark.parametrize("name", ["a b", "-a", "é" * 100, "a.b", "..."])
def test_other_names_are_submitted(name):
    asked = []

    def submit_job(**request):
        asked.append(request)

    def list_jobs():
        return [SimpleNamespace(**request) for request in asked]

    assert launcher_of(list_jobs=list_jobs, submit_job=submit_job).submit(job(name=name)) == Handle(name, is_new=True)


# What Ray 2.60's client raises: the server's tracebacks, one in another.
REFUSED = """Request failed with status code 500: Traceback (most recent call last):
  File "job_head.py", line 419, in submit_job
    resp = await job_agent_client.submit_job_internal(submit_request)
RuntimeError: Request failed with status code 400: Traceback (most recent call last):
  File "job_manager.py", line 553, in submit_job
    raise ValueError(
ValueError: Job with submission_id night already exists. Please use a different submission_id.
.
."""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (REFUSED, "ValueError: Job with submission_id night already exists. Please use a different submission_id"),
        ("Request failed with status code 404: 404: Not Found.", "Request failed with status code 404: 404: Not Found"),
        ("No cluster.\nAdvice: start one", "No cluster"),
        ("Traceback (most recent call last):\n  File 'x'", "Traceback (most recent call last):"),
        ("", "RuntimeError"),
    ],
)
def test_an_error_of_the_server_is_reported_with_its_cause(text, reason):
    def list_jobs():
        raise RuntimeError(text)

    with pytest.raises(LaunchError) as error:
        launcher_of(list_jobs=list_jobs).status("night")
    assert f"did not accept the request ({reason}); check" in str(error.value)


def test_a_job_that_ray_does_not_stop_is_reported(monkeypatch):
    """A job that waits for resources remains pending until it has them, and cannot be deleted before."""
    waiting = JobDetails(submission_id="night", type=JobType.SUBMISSION, entrypoint="sleep 9", status=JobStatus.PENDING)
    monkeypatch.setattr(jobs.time, "sleep", lambda _: None)
    launcher = launcher_of(list_jobs=lambda: [waiting], stop_job=lambda name: True)
    with pytest.raises(
        LaunchError, match=r"^The job night is still PENDING 60 s after it was stopped; run the same command later\.$"
    ):
        launcher.cancel("night")


def test_fault_28_a_command_that_waits_for_a_job_reports_the_loss_of_the_head(head, tmp_path):
    """The last test of this head, which it ends."""
    words = ["submit", "ray", "--wait", "--name", "lost", "--address", head.dashboard, "--", "bench", "--prompt", "a"]
    with subprocess.Popen(
        [CLI[0], "-c", SOON + CLI[2], *words, "--out", str(tmp_path)],
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout.readline() == "lost: submitted\n"
        head.process.terminate()
        _, errors = command.communicate()
    assert command.returncode == 2
    assert errors.splitlines()[-1] == (
        f"Error: Ray's dashboard at {head.dashboard} does not answer (ConnectionError); start the cluster, or correct "
        "--address. The job lost may still run: run the same command again, which attaches to it, or resumes its run "
        "if the cluster has lost the job."
    )
    assert len(errors.splitlines()) == 1
