"""The steps of the pipeline against an emulated API server with an operator that runs entrypoints."""

import os
import signal
import subprocess
import sys

import pytest

from cluster.jobs.errors import LaunchError
from pipeline.launch import steps
from pipeline.launch.program import NAME
from tests.support import emulated_kubernetes
from tests.support.cluster_jobs import command_of, job
from tests.support.emulated_kubernetes import until

JOB = job(image="x:1", ray_version="2.60.0", storage="runs")
HOSTILE = "{{$.inputs}} $(touch pwned) ../../x \"; rm -rf . #\n<b>'`"
PROGRAM = """#!{python}
import os, pathlib, sys, time, urllib.parse
words = [urllib.parse.unquote(word) for word in sys.argv[2:]]
print("started", *words, flush=True)
{body}
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    from kubernetes.config import kube_config

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with emulated_kubernetes.running(tmp_path) as (cluster, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        yield cluster


@pytest.fixture
def program(tmp_path):
    """Writes a program that replaces `segmentdreamer` in the pods."""

    def write(body: str) -> None:
        path = tmp_path / NAME
        path.write_text(PROGRAM.format(python=sys.executable, body=body))
        path.chmod(0o755)

    return write


@pytest.fixture
def handlers():
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


pytestmark = pytest.mark.usefixtures("handlers")


def test_the_first_step_deletes_a_failed_job_if_requested(cluster, program, tmp_path, monkeypatch):
    from pipeline.launch import kubeflow

    monkeypatch.setattr(steps, "facts_of_weights", lambda job, listing: {})  # the program lists none

    class Listing:
        path, metadata = str(tmp_path / "listing"), {}

    def first_step(*, again: bool) -> None:
        kubeflow.weights(job.text, "", again, Listing)

    job = JOB.model_copy(update={"retries": 0})
    program("sys.exit(words[:1] == ['bench'] and not os.path.exists('fixed'))")
    with pytest.raises(LaunchError, match="RayJob night failed"):
        steps.launch(job, seconds=0.02)
    (tmp_path / "fixed").touch()
    first_step(again=False)
    with pytest.raises(LaunchError, match="RayJob night failed"):
        steps.launch(job, seconds=0.02)
    assert len(cluster.attempts) == 1
    first_step(again=True)
    steps.launch(job, seconds=0.02)
    assert len(cluster.attempts) == 2
    first_step(again=True)  # a job that has succeeded is kept
    steps.launch(job, seconds=0.02)
    assert len(cluster.attempts) == 2


def test_a_job_runs_to_its_end_and_its_log_is_printed_once(cluster, program, capsys):
    program("time.sleep(0.5); print('4 of 4 assets')")
    steps.launch(JOB, seconds=0.1)
    assert cluster.phases == {"night": ["Initializing", "Running", "Complete"]}
    printed = capsys.readouterr().out
    assert printed.count("started bench --out /storage/night\n") == 1
    assert printed.count("4 of 4 assets\n") == 1
    assert printed.count("succeeded: Complete SUCCEEDED\n") == 1


def test_the_log_of_each_attempt_is_printed_and_the_last_failure_reported(cluster, program, capsys):
    program("sys.exit(len(list(pathlib.Path('.').glob('night-*.log'))) < 2)")
    steps.launch(JOB, seconds=0.02)
    assert cluster.phases["night"] == ["Initializing", "Running", "Retrying", "Initializing", "Running", "Complete"]
    program("print('no weights'); sys.exit(2)")
    with pytest.raises(
        LaunchError, match=r"RayJob other failed \(Failed FAILED all attempts failed\); see segmentdreamer"
    ):
        steps.launch(JOB.model_copy(update={"name": "other", "retries": 0}), seconds=0.02)
    assert "no weights" in capsys.readouterr().out


def test_an_invalid_manifest_fails_at_once_with_the_operators_reason(cluster, program, monkeypatch):
    program("")
    original = steps.KubeRayJobs.submit.__globals__["ray_job"]

    class Invalid:
        def __init__(self, job):
            self.job = job

        def tree(self):
            tree = original(self.job).tree()
            tree["spec"]["entrypointt"] = "x"
            return tree

    monkeypatch.setitem(steps.KubeRayJobs.submit.__globals__, "ray_job", Invalid)
    with pytest.raises(LaunchError, match=r"RayJob night failed \(ValidationFailed .*entrypointt"):
        steps.launch(JOB, seconds=0.02)
    assert cluster.attempts == []


def test_a_retried_step_attaches_to_its_job(cluster, program):
    """Fault test 22."""
    program("while not os.path.exists('go'): time.sleep(0.02)")
    script = f"from pipeline.launch import steps as s; s.launch(s.job_of({JOB.text!r}, ''), seconds=0.05)"
    step = subprocess.Popen([sys.executable, "-c", script])
    until(lambda: len(cluster.attempts) == 1)
    step.kill()
    step.wait()
    retried = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert retried.stdout.readline() == "running: Running RUNNING\n"
    (cluster.folder / "go").touch()
    printed, _ = retried.communicate(timeout=60)
    assert retried.returncode == 0
    assert "succeeded: Complete SUCCEEDED" in printed
    assert cluster.created == ["night"]
    assert len(cluster.attempts) == 1


def test_a_step_that_is_aborted_cancels_its_job(cluster, program):
    program("time.sleep(600)")
    script = f"from pipeline.launch import steps as s; s.launch(s.job_of({JOB.text!r}, ''), seconds=0.05)"
    step = subprocess.Popen([sys.executable, "-c", script])
    until(lambda: len(cluster.attempts) == 1)
    step.send_signal(signal.SIGTERM)
    assert step.wait(240) == 128 + signal.SIGTERM
    assert not cluster.exists("night")
    until(lambda: cluster.running["night"].poll() is not None)


def test_a_hostile_prompt_reaches_the_program_unchanged_and_runs_nothing(cluster, program, tmp_path):
    program("pathlib.Path('words').write_text(repr(words))")
    job = JOB.model_copy(update={"command": command_of("bench", "--prompt", HOSTILE)})
    assert "{{" not in job.text
    before = sorted(path.name for path in tmp_path.iterdir())
    steps.launch(steps.job_of(job.text, ""), seconds=0.02)
    assert (tmp_path / "words").read_text() == repr(["bench", "--prompt", HOSTILE, "--out", "/storage/night"])
    assert sorted({path.name for path in tmp_path.iterdir()} - set(before)) == ["night-0.log", "words"]


def test_each_scheduled_run_has_its_own_job():
    assert steps.job_of(JOB.text, "") == JOB
    job = steps.job_of(JOB.text, "0123456789abcdef")
    assert (job.name, job.results) == ("night-01234567", "/storage/night-01234567")


def test_the_reference_set_is_made_once_by_its_own_job(cluster, program, tmp_path, monkeypatch):
    assert steps.make_reference(JOB) == "bundled with the embedded models"
    monkeypatch.setattr(steps, "STORAGE", str(tmp_path))
    monkeypatch.setattr(steps, "POLL_SECONDS", 0.02)
    program("pathlib.Path('reference.npz').touch()")
    job = JOB.model_copy(update={"weights": "published"})
    assert steps.make_reference(job) == "made by the RayJob night-reference"
    assert cluster.attempts == [["segmentdreamer", "encoded", "reference", "--out", "/storage"]]
    assert steps.make_reference(job) == f"found: {tmp_path}/reference.npz"
    assert len(cluster.attempts) == 1


def test_weights_are_fetched_only_to_a_volume_of_all_nodes(program, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program("with open(sys.argv[0] + '.calls', 'a') as file: print(*sys.argv[1:], file=file)")
    calls = tmp_path / f"{NAME}.calls"
    steps.fetch_weights(JOB)
    assert calls.read_text() == "weights list --json\n"
    calls.unlink()
    steps.fetch_weights(JOB.model_copy(update={"weights": "models"}))
    assert calls.read_text() == "weights fetch --weights /weights\nweights list --json --weights /weights\n"


def test_metadata_of_the_weights_is_text():
    assert steps.facts_of_weights(JOB, '[{"name": "prior"}, {"name": "scorer"}]') == {
        "weights": "embedded", "models": "2",
    }  # fmt: skip


def test_metrics_are_the_scores_and_costs_of_a_leaderboard_without_empty_cells():
    leaderboard = "method,n_prompts,clip@embedded,fd@embedded,prompts_sha\nsctd,4,65.5,,1234\nsds,3,60,1e2,1234\n"
    assert steps.metrics(leaderboard) == {
        "sctd n_prompts": 4.0, "sctd clip@embedded": 65.5,
        "sds n_prompts": 3.0, "sds clip@embedded": 60.0, "sds fd@embedded": 100.0,
    }  # fmt: skip
