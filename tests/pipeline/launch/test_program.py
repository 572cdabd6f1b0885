"""Commands as jobs know them: where they write, which weights they need, and the options of `submit kuberay`."""

import pytest

from cluster.jobs.description import ClusterJob
from pipeline.errors import UserError
from pipeline.launch.program import launch_options
from tests.support.cluster_jobs import command_of, job


@pytest.mark.parametrize(
    ("words", "results", "place"),
    [
        ("bench", "", "folder"),
        ("bench --out=s3://bucket/x", "s3://bucket/x", ""),
        ("generate --out /storage/x cube", "/storage/x", ""),
        ("generate -- --out", "", "folder"),
        ("evaluate /storage/x --weights s3://bucket/y", "/storage/x", ""),
        ("reference", "", "storage"),
        ("reference --out s3://bucket/x", "", ""),
    ],
)
def test_results_of_a_command(words, results, place):
    found = command_of(*words.split())
    assert (found.words, found.results, found.place) == (tuple(words.split()), results, place)


@pytest.mark.parametrize(
    ("words", "weights"),
    [
        ("bench", "embedded"),
        ("bench --recipe paper", "published"),
        ("bench --recipe paper --weights /storage/mine", "embedded"),
        ("generate cube --weights published", "published"),
        ("reference", "published"),
    ],
)
def test_weights_follow_from_the_command(words, weights):
    assert command_of(*words.split()).weights == weights


def test_other_commands_are_refused():
    with pytest.raises(UserError, match="is 'status'; expected one of bench, generate, evaluate, reference"):
        command_of("status", "runs/a")
    with pytest.raises(UserError, match=r"is invalid: .*'--limit'.*; see bench --help"):
        command_of("bench", "--limit", "many")


def test_launch_options_are_the_fields_that_differ_and_the_weights():
    assert launch_options(job(image="x:1")) == ["--image", "x:1", "--weights", "embedded"]
    everything = job(
        image="x:1", ray_version="2.60.0", namespace="team", gpus=8, gpus_per_worker=4, gpu_type="H100", gpu_memory=40,
        cpus=4, memory=16, storage="runs", weights="models", secrets=("a=B", "c=D"), queue="q", retries=0,
        deadline_hours=1.5, start_minutes=5.0, keep_minutes=0.0, priority="low", managed_by="ray.io/kuberay-operator",
        spot=True, node_selectors=("zone=a",), tolerations=("spare",), min_workers=1, max_workers=4,
        run_deadline_hours=3.0, command=("bench", "--workers", "4"),
    )  # fmt: skip
    words = launch_options(everything)
    assert words[:4] == ["--image", "x:1", "--ray-version", "2.60.0"]
    assert words[-4:] == ["--secret", "a=B", "--secret", "c=D"]
    words.remove("--spot")  # the only one without a value
    assert len(words) == 2 * 24
    several = {"secrets": "secret", "node_selectors": "node_selector", "tolerations": "toleration"}
    assert set(words[::2]) == {f"--{several.get(key, key).replace('_', '-')}" for key in ClusterJob.model_fields} - {
        "--name", "--command", "--program", "--dashboard-host", "--run-deadline-hours", "--spot"
    }  # fmt: skip
