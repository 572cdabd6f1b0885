"""The Kubeflow pipeline: its IR YAML, and a whole local run whose bench is a RayJob that dies once.

Tests `pipeline/launch/kubeflow.py` and `cluster/kubeflow/pipeline.py`.
"""

import os
import sys
from pathlib import Path

import pytest
import yaml

from cluster.jobs.errors import ManifestError
from cluster.kubeflow.pipeline import compiled
from pipeline.launch.kubeflow import pipeline_of
from tests.support import emulated_kubernetes
from tests.support.cluster_jobs import command_of, job
from tests.support.paths import ROOT

GOLDEN = ROOT / "tests" / "pipeline" / "golden" / "kubeflow.yaml"
JOB = job(
    name="paper", command=("bench", "--recipe", "paper", "--prompt", "a {{$.inputs}} $(red) cube"), gpus=8,
    image="registry.example/python-segmentdreamer:1", ray_version="2.60.0", storage="runs", weights="models",
    secrets=("hub=HF_TOKEN",), queue="gpus",
)  # fmt: skip
SMALL = ["iterations=4", "initialization.kind=ball", "initialization.count=150", "relocate.interval=3"]


def documents(text: str) -> tuple[dict, dict]:
    graph, platforms = yaml.safe_load_all(text)
    return graph, platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_the_pipeline_compiles_to_the_golden_file():
    """After an intended change, `python -m tests.pipeline.launch.test_kubeflow` rewrites the golden file."""
    assert compiled(pipeline_of(JOB)) == GOLDEN.read_text(encoding="utf-8")


def test_steps_run_in_order_without_cache_and_are_retried():
    graph, executors = documents(compiled(pipeline_of(JOB)))
    tasks = graph["root"]["dag"]["tasks"]
    after = {name: task.get("dependentTasks", []) for name, task in tasks.items()}
    order = ["weights", "reference", "bench", "evaluate", "leaderboard"]
    assert after == {name: order[:place][-1:] for place, name in enumerate(order)}
    for task in tasks.values():
        assert not task["cachingOptions"].get("enableCache")
        assert task["retryPolicy"]["maxRetryCount"] == 2
    resubmitting = [name for name, task in tasks.items() if "again" in task["inputs"]["parameters"]]
    assert resubmitting == ["weights"]
    assert graph["root"]["inputDefinitions"]["parameters"]["again"]["defaultValue"] is False
    for executor in graph["deploymentSpec"]["executors"].values():
        assert executor["container"]["image"] == JOB.image
        assert "pip install" not in str(executor)
    assert executors["exec-bench"]["activeDeadlineSeconds"] == str(round((24 + 0.5 + 1) * 3600))
    assert executors["exec-evaluate"]["activeDeadlineSeconds"] == "3600"
    assert [mount["mountPath"] for mount in executors["exec-bench"]["pvcMount"]] == ["/storage", "/weights"]


def test_a_secret_is_referenced_by_name_and_a_prompt_is_not_a_template():
    text = compiled(pipeline_of(JOB))
    _, executors = documents(text)
    (secret,) = executors["exec-weights"]["secretAsEnv"]
    assert (secret["secretName"], secret["keyToEnv"][0]["envVar"]) == ("hub", "HF_TOKEN")
    assert "$.inputs}} $(red)" not in text
    assert "{{$.pipeline_job_uuid}}" in compiled(pipeline_of(JOB, each_run=True))
    assert "{{$.pipeline_job_uuid}}" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"command": command_of("reference")},
            "The command after -- is 'reference'; a Kubeflow pipeline runs bench only.",
        ),
        ({"name": "n" * 29}, "to name its RayJobs: use at most 28 characters"),
        ({"storage": "nfs://files/runs"}, "`storage` is 'nfs://files/runs'; Kubeflow mounts only claims"),
        ({"storage": None}, "The command has no persistent storage"),
        ({"storage": "s3://bucket/runs"}, "The run folder is s3://bucket/runs/paper, but the steps of a pipeline read"),
        (
            {"command": command_of("bench", "--out", "gs://bucket/x")},
            "The run folder is gs://bucket/x, but the steps",
        ),
    ],
)
def test_jobs_that_a_pipeline_does_not_support(change, message):
    with pytest.raises(ManifestError) as error:
        pipeline_of(JOB.model_copy(update=change))
    assert message in str(error.value)


def test_a_whole_pipeline_whose_rayjob_dies_once_and_only_resumes(tiny_weights, tmp_path, monkeypatch):
    """Fault test 21. The second attempt generates what the first has not, and changes nothing else."""
    from kfp import local

    run, records = tmp_path / "run", {}
    words = [
        "bench",
        "--prompt",
        "a red cube",
        "--prompt",
        "a blue ball",
        "--weights",
        str(tiny_weights),
        "--views",
        "4",
    ]
    words += ["--executor", "inline", "--out", str(run), *(word for setting in SMALL for word in ("--set", setting))]
    job = JOB.model_copy(update={"name": "small", "command": command_of(*words), "weights": "embedded", "secrets": ()})

    def after_the_first_asset(attempt: int) -> bool:
        if attempt == 1 and not records and (found := done(run)):
            records.update({path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found})
            return True
        return False

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with emulated_kubernetes.running(tmp_path) as (cluster, config):
        monkeypatch.setenv("KUBECONFIG", str(config))
        cluster.environment, cluster.kill = dict(os.environ), after_the_first_asset
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
        pipeline_of(job)(job=job.text)
    assert cluster.created == ["small"]
    assert cluster.phases["small"] == ["Initializing", "Running", "Retrying", "Initializing", "Running", "Complete"]
    assert len(records) == 1
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in records} == records
    assert len(done(run)) == 2
    (board,) = (tmp_path / "root").rglob("leaderboard/board")
    (report,) = (tmp_path / "root").rglob("leaderboard/report")
    assert board.read_bytes() == (run / "leaderboard.csv").read_bytes()
    assert report.read_bytes() == (run / "report.md").read_bytes()


def done(run: Path) -> list[Path]:
    return sorted(run.glob("items/**/record.json"))


if __name__ == "__main__":
    GOLDEN.write_text(compiled(pipeline_of(JOB)), encoding="utf-8")
