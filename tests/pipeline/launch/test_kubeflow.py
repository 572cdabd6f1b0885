"""The Kubeflow pipeline: its IR YAML, and a whole local run whose bench is a RayJob that dies once.

Tests `pipeline/launch/kubeflow.py` and `cluster/kubeflow/pipeline.py`.
"""

import inspect
import json
import os
import sys
from pathlib import Path

import kfp
import pytest
import yaml
from kfp import dsl, local

from cluster.jobs.errors import ManifestError
from cluster.kubeflow import pipeline
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
LATER_KFP = "active_deadline_seconds" in inspect.signature(dsl.PipelineConfig).parameters
SINCE_217 = pytest.mark.skipif(not LATER_KFP, reason=f"kfp {kfp.__version__} has none of these")
LONGEST = 3 * (3 * 3600 + 2 * round(25.5 * 3600)) + 5 * (5 + 10)  # seconds: three tries of five steps, and their waits
EXACT_SEED = 2**53 + 1  # no float
SMALL = ["iterations=4", "initialization.kind=ball", "initialization.count=150", "relocate.interval=3"]


def documents(text: str) -> tuple[dict, dict]:
    graph, platforms = yaml.safe_load_all(text)
    return graph, platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_the_pipeline_compiles_to_the_golden_file():
    """After an intended change, `python -m tests.pipeline.launch.test_kubeflow` rewrites the golden file."""
    made, golden = (text.split("\n---\n") for text in (compiled(pipeline_of(JOB)), GOLDEN.read_text(encoding="utf-8")))
    assert made[0] == golden[0].replace("sdkVersion: kfp-2.16.1", f"sdkVersion: kfp-{kfp.__version__}")
    platform = yaml.safe_load(made[1])
    configuration = platform["platforms"]["kubernetes"].pop("pipelineConfig", None)
    assert platform == yaml.safe_load(golden[1])
    assert configuration == ({"activeDeadlineSeconds": LONGEST, "resourceTtlOnCompletion": 3600} if LATER_KFP else None)


def test_steps_run_in_order_without_cache_and_are_retried():
    graph, executors = documents(compiled(pipeline_of(JOB)))
    tasks = graph["root"]["dag"]["tasks"]
    after = {name: task.get("dependentTasks", []) for name, task in tasks.items()}
    order = ["weights", "reference", "bench", "evaluate", "leaderboard"]
    assert after == {name: order[:place][-1:] for place, name in enumerate(order)}
    assert [task["cachingOptions"] for task in tasks.values()] == [{}] * 5
    resubmitting = [name for name, task in tasks.items() if "again" in task["inputs"]["parameters"]]
    assert resubmitting == ["weights"]
    assert graph["root"]["inputDefinitions"]["parameters"]["again"]["defaultValue"] is False
    for executor in graph["deploymentSpec"]["executors"].values():
        assert executor["container"]["image"] == JOB.image
        assert "pip install" not in str(executor)
    assert executors["exec-bench"]["activeDeadlineSeconds"] == str(round((24 + 0.5 + 1) * 3600))
    assert executors["exec-evaluate"]["activeDeadlineSeconds"] == "3600"
    assert [mount["mountPath"] for mount in executors["exec-bench"]["pvcMount"]] == ["/storage", "/weights"]


def test_retries_begin_at_once_and_last_as_long_as_the_steps():
    """Argo ends a step at `backoffMaxDuration` after its first start, so it is no limit of one wait."""
    text = compiled(pipeline_of(JOB))
    graph, executors = documents(text)
    for task in graph["root"]["dag"]["tasks"].values():
        assert task["retryPolicy"] == {
            "maxRetryCount": 2, "backoffDuration": "5s", "backoffFactor": 2.0, "backoffMaxDuration": f"{LONGEST}s",
        }  # fmt: skip
    assert max(3 * int(executor["activeDeadlineSeconds"]) for executor in executors.values()) < LONGEST


def test_types_of_the_artifacts():
    graph, _ = documents(compiled(pipeline_of(JOB)))
    assert {
        f"{name.removeprefix('comp-')} {key}": artifact["artifactType"]["schemaTitle"]
        for name, component in graph["components"].items()
        for key, artifact in component.get("outputDefinitions", {}).get("artifacts", {}).items()
    } == {
        "weights listing": "system.Model", "leaderboard board": "system.Dataset",
        "leaderboard report": "system.Markdown", "leaderboard scores": "system.Metrics",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kept", "deadline"),
    [
        ({}, 3600, LONGEST),
        ({"keep_minutes": 0.0}, 60, LONGEST),  # kfp reads 0 as unset
        ({"run_deadline_hours": 2.5}, 3600, 9000),
        ({"run_deadline_hours": 1e-9}, 3600, 1),
        ({"keep_minutes": 1e9, "run_deadline_hours": 1e9}, 2**31 - 1, 2**31 - 1),
    ],
)
def test_deadline_of_a_run_and_time_that_its_pods_are_kept(monkeypatch, change, kept, deadline):
    given = {}

    class PipelineConfig:
        """kfp 2.17's."""

        workspace = None
        ttl_seconds_after_success = ttl_seconds_after_failure = None

        def __init__(self, *, ttl_seconds_after_finished: int, active_deadline_seconds: int):
            self.ttl_seconds_after_finished = given["kept"] = ttl_seconds_after_finished
            self.active_deadline_seconds = given["deadline"] = active_deadline_seconds

    monkeypatch.setattr(dsl, "PipelineConfig", PipelineConfig)
    text = compiled(pipeline_of(JOB.model_copy(update=change)))
    assert given == {"kept": kept, "deadline": deadline}
    if LATER_KFP:
        platform = list(yaml.safe_load_all(text))[1]["platforms"]["kubernetes"]
        assert platform["pipelineConfig"] == {
            "activeDeadlineSeconds": deadline, "resourceTtlOnCompletion": kept,
        }  # fmt: skip


def test_a_deadline_is_not_lost_with_an_older_kfp(monkeypatch):
    class PipelineConfig:
        """kfp 2.16's."""

        def __init__(self, workspace: object = None):
            self.workspace = workspace

    monkeypatch.setattr(dsl, "PipelineConfig", PipelineConfig)
    assert "pipelineConfig" not in compiled(pipeline_of(JOB))
    with pytest.raises(ManifestError) as error:
        pipeline_of(JOB.model_copy(update={"run_deadline_hours": 2.0}))
    assert str(error.value) == (
        f"`run_deadline_hours` needs kfp 2.17 or later, and kfp {kfp.__version__} is installed; upgrade kfp, or omit "
        "`run_deadline_hours`."
    )


def test_a_very_long_job_compiles():
    graph, executors = documents(compiled(pipeline_of(JOB.model_copy(update={"deadline_hours": 1e9}))))
    assert executors["exec-bench"]["activeDeadlineSeconds"] == str(2**31 - 1)
    assert graph["root"]["dag"]["tasks"]["bench"]["retryPolicy"]["backoffMaxDuration"] == f"{2**31 - 1}s"


def fails_once(job: str, run_id: str, again: bool) -> None:
    import os

    with open(os.environ["TRIES"], "a+") as file:
        file.write("x")
        file.seek(0)
        if file.read() == "x":
            raise RuntimeError("the first try")


@SINCE_217
def test_a_step_is_retried_and_never_cached_by_the_local_runner(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "WAIT_SECONDS", 1)
    monkeypatch.setenv("TRIES", str(tmp_path / "tries"))
    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner, pipeline_root=str(tmp_path / "root"), enable_caching=True)
    made = pipeline.pipeline_of(pipeline.Steps("small", "", (fails_once,), (), 0), JOB)
    for tries in (2, 3):
        made(job=JOB.text)
        assert (tmp_path / "tries").read_text() == "x" * tries


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
    words += [
        "--seed",
        str(EXACT_SEED),
        "--executor",
        "inline",
        "--out",
        str(run),
        *(word for setting in SMALL for word in ("--set", setting)),
    ]
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
    metadata = {key: value for file in (tmp_path / "root").rglob("executor_output.json") for key, value in facts(file)}
    assert metadata["board"] == metadata["report"]
    assert {type(value) for value in [*metadata["board"].values(), *metadata["listing"].values()]} == {str}
    assert metadata["board"].items() >= {
        "job": "small", "job_digest": job.digest, "image": job.image, "run_folder": str(run), "suite": "prompts",
        "seed": str(EXACT_SEED), "views": "4", "methods": "sctd", "prompts": "2", "assets": "2",
    }.items()  # fmt: skip
    assert metadata["listing"]["weights"] == "embedded"
    assert metadata["scores"]["sctd n_prompts"] == 2


def facts(executor_output: Path) -> list[tuple[str, dict]]:
    """The metadata of each artifact of a step."""
    artifacts = json.loads(executor_output.read_text()).get("artifacts", {})
    return [(name, of["artifacts"][0].get("metadata", {})) for name, of in artifacts.items()]


def done(run: Path) -> list[Path]:
    return sorted(run.glob("items/**/record.json"))


if __name__ == "__main__":
    GOLDEN.write_text(compiled(pipeline_of(JOB)), encoding="utf-8")
