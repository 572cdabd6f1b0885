"""The commands `manifest`, `submit`, `schedule` and `job`: golden files, errors, the commands of docs/cluster.md."""

import json
import re
import shlex

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from cluster.jobs.description import decoded
from pipeline.cli.app import app, loaded
from tests.support import crd_schemas, emulated_kubernetes, fake_kubeflow, fake_kubernetes
from tests.support.paths import ROOT

GOLDEN = ROOT / "tests" / "pipeline" / "golden"
IMAGE = ["--image", "registry.example/segmentdreamer:1", "--ray-version", "2.60.0"]
TYPICAL = {
    "rayjob": ["rayjob", "--name", "paper", *IMAGE, "--gpus", "8", "--gpu-memory", "24", "--storage", "runs",
        "--secret", "hub=HF_TOKEN", "--queue", "gpus", "--", "bench", "--recipe", "paper", "--prompt", "a $(red) cube"],
    "cronjob": ["cronjob", "--name", "nightly", *IMAGE, "--schedule", "0 2 * * *", "--time-zone", "Europe/Berlin",
        "--gpus", "4", "--storage", "nfs://files.example/runs", "--", "bench", "--suite", "embedded40"],
    "raycluster": ["raycluster", "--name", "shared", *IMAGE, "--gpus", "16", "--gpus-per-worker", "8", "--gpu-type",
        "NVIDIA-H100-80GB-HBM3", "--storage", "runs", "--weights", "models"],
}  # fmt: skip


def invoke(*arguments: str):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments: str) -> str:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    return line


def printed(*arguments: str) -> list[dict]:
    result = invoke("manifest", *arguments)
    assert result.exit_code == 0, result.output
    return list(yaml.safe_load_all(result.stdout))


def check(document: dict) -> None:
    """Validate a manifest as an API server does."""
    if document["apiVersion"] == "ray.io/v1":
        assert crd_schemas.problems(document) == []
    else:
        kubernetes_validate.validate(document, "1.31", strict=True)


@pytest.mark.parametrize("name", TYPICAL)
def test_manifests_equal_golden_files(name):
    """After an intended change, run python tests/pipeline/cli/test_cluster.py to rewrite the golden files."""
    assert invoke("manifest", *TYPICAL[name]).stdout == (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")
    for document in printed(*TYPICAL[name]):
        check(document)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_golden_files_contain_no_secret(path):
    """Variables with secret-like names have no value, and nothing looks like an access token."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"hf_[A-Za-z0-9]{8}|AKIA[A-Z0-9]{12}|BEGIN [A-Z ]*PRIVATE KEY", text)
    assert not re.findall(r"name: \S*(?:TOKEN|KEY|SECRET|PASSWORD)\S*\n\s*value:", text)


def test_command_is_parsed_before_it_is_submitted():
    machine = ["manifest", "rayjob", "--name", "a", *IMAGE, "--storage", "runs", "--"]
    assert refused(*machine, "bensh") == (
        "Error: The command after -- is 'bensh'; expected one of bench, generate, evaluate, reference; "
        "the nearest is 'bench'."
    )
    line = refused(*machine, "bench", "--limit", "many")
    assert line.startswith("Error: The command after -- is invalid: Invalid value for '--limit': ")
    assert line.endswith("; see bench --help.")


def test_invalid_options_are_one_line_errors():
    for options, words in (
        (["--name", "A"], "--name is 'A'"),
        (["--name", "a", "--secret", "HF_TOKEN=hf_123"], "--secret names no key of a Secret"),
        (["--name", "a", "--storage", "sftp://bucket"], "--storage is 'sftp://bucket'"),
        (["--name", "a", "--gpus", "3", "--gpus-per-worker", "2"], "--gpus is 3 and --gpus-per-worker is 2; --gpus"),
        (["--name", "a", "--deadline-hours", "nan"], "deadline_hours is nan: Input should be a finite number; correct"),
    ):
        line = refused("manifest", "rayjob", *IMAGE, "--storage", "runs", *options, "--", "bench")
        assert line.startswith(f"Error: {words}")
        assert "hf_123" not in line


def test_a_pipeline_run_has_no_deadline_of_zero():
    options = ["--name", "a", *IMAGE, "--storage", "runs", "--run-deadline-hours", "0", "--", "bench"]
    assert refused("manifest", "kfp", *options) == (
        "Error: --run-deadline-hours is 0; it must be above 0, or omitted for the default."
    )
    assert "No such option: --run-deadline-hours" in invoke("manifest", "rayjob", *options).stderr


def test_cronjob_submits_the_same_job():
    """The options in the CronJob describe the job of the manifest."""
    options = ["--gpus", "8", "--gpus-per-worker", "2", "--storage", "runs", "--secret", "hub=HF_TOKEN", "--queue", "q"]
    command = ["bench", "--recipe", "paper", "--prompt", "a b"]
    *_, cron = printed("cronjob", "--name", "tick", *IMAGE, *options, "--schedule", "@daily", "--", *command)
    (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (tick,) = printed("rayjob", "--name", "tick", *container["args"])
    (first,) = printed("rayjob", "--name", "tick", *IMAGE, *options, "--", *command)
    assert tick == first


def test_run_in_a_bucket_needs_no_storage_and_a_cronjob_gets_a_folder_per_tick():
    (manifest,) = printed("rayjob", "--name", "a", *IMAGE, "--", "bench", "--out", "s3://bucket/run")
    check(manifest)
    assert manifest["spec"]["entrypoint"] == "segmentdreamer encoded bench --out s3://bucket/run"
    storage = ["--storage", "s3://bucket/nights"]
    *_, cron = printed("cronjob", "--name", "tick", *IMAGE, *storage, "--schedule", "@daily", "--", "bench")
    (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (tick,) = printed("rayjob", "--name", "tick-1", *container["args"])
    check(tick)
    assert tick["spec"]["entrypoint"] == "segmentdreamer encoded bench --out s3://bucket/nights/tick-1"


def test_submit_local_and_encoded_commands_run_in_this_process():
    errors = []
    for words in (["submit", "local", "--", "bench", "--prompt", ""], ["encoded", "bench", "--prompt", "%20"]):
        result = invoke(*words)
        assert result.exit_code == 2
        errors.append(result.stderr.split(";")[0])
    assert errors == ["Error: The prompt is empty"] * 2
    assert decoded(["a%20b"]) == ["a b"]


def test_submit_kuberay_twice_creates_one_job_and_returns_its_status(tmp_path, monkeypatch):
    from kubernetes.config import kube_config

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    options = ["--name", "nightly", *IMAGE, "--storage", "runs", "--", "bench"]
    with fake_kubernetes.serving(tmp_path) as (server, config):
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        assert invoke("submit", "kuberay", *options).stdout == "nightly: submitted\n"
        assert invoke("submit", "kuberay", *options).stdout == "nightly: already submitted\n"
        (there,) = server.objects.values()
        assert there == printed("rayjob", *options)[0]
        there["status"] = {"jobDeploymentStatus": "Failed", "message": "3 attempts"}
        ended = invoke("submit", "kuberay", "--wait", *options)
        assert (ended.exit_code, ended.stdout) == (3, "nightly: already submitted\nfailed: Failed 3 attempts\n")
        printed_status = invoke("job", "status", "kuberay", "nightly", "--json")
        assert (printed_status.exit_code, json.loads(printed_status.stdout)) == (
            3,
            {"state": "failed", "message": "Failed 3 attempts"},
        )
        assert invoke("job", "status", "kuberay", "nightly").exit_code == 3
        assert invoke("submit", "kuberay", "--resubmit", *options).stdout == "nightly: submitted\n"
        assert invoke("submit", "kuberay", "--again", *options).stdout == "nightly: already submitted\n"
        assert invoke("job", "status", "kuberay", "nightly").stdout == "waiting\n"
        server.pods["nightly"] = "4 of 4 assets\n"
        assert invoke("job", "logs", "kuberay", "nightly").stdout == "4 of 4 assets\n"
        assert invoke("job", "cancel", "kuberay", "nightly").exit_code == 0
        assert refused("job", "status", "kuberay", "nightly").startswith("Error: There is no job nightly")
    assert refused("job", "status", "kubray", "nightly") == (
        "Error: Unknown backend 'kubray'; choose from ray, kuberay, kfp; the nearest is 'kuberay'."
    )


@pytest.mark.parametrize("option", ["--resubmit", "--again"])
@pytest.mark.parametrize("target", ["ray", "kuberay", "kfp"])
def test_resubmit_has_the_alias_again(target, option):
    options = ["--name", "nightly", *([] if target == "ray" else IMAGE)]
    submit = loaded().commands["submit"].commands[target]
    assert submit.make_context(target, [*options, option, "--", "bench"]).params["resubmit"] is True
    assert submit.make_context(target, [*options, "--", "bench"]).params["resubmit"] is False


def kubernetes_at(config, monkeypatch):
    from kubernetes.config import kube_config

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))


def test_schedule_cronjob_is_idempotent(tmp_path, monkeypatch):
    options = ["schedule", "cronjob", "--name", "nightly", *IMAGE, "--storage", "runs"]
    with emulated_kubernetes.running(tmp_path) as (_, config):
        kubernetes_at(config, monkeypatch)
        assert invoke(*options, "--schedule", "0 2 * * *", "--", "bench").stdout == "nightly: created\n"
        assert invoke(*options, "--schedule", "0 2 * * *", "--", "bench").stdout == "nightly: unchanged\n"
        assert invoke(*options, "--schedule", "0 2 * * *", "--", "bench", "--seed", "1").stdout == "nightly: replaced\n"
        assert invoke("schedule", "cronjob", "--name", "nightly", "--delete").stdout == "nightly: deleted\n"
        assert invoke("schedule", "cronjob", "--name", "nightly", "--delete").stdout == "nightly: unchanged\n"
    assert refused(*options, "--", "bench") == (
        "Error: There is no --schedule; pass it, or --delete to delete the schedule."
    )
    assert refused(*options, "--schedule", "@daily", "--storage", "sftp://x", "--", "bench").startswith(
        "Error: --storage is 'sftp://x'"
    )


def test_submit_and_schedule_kfp_are_idempotent():
    with fake_kubeflow.serving() as server:
        options = ["--name", "nightly", *IMAGE, "--storage", "runs", "--endpoint", server.url]
        assert invoke("submit", "kfp", *options, "--", "bench").stdout == "nightly: submitted\n"
        assert invoke("submit", "kfp", *options, "--", "bench").stdout == "nightly: already submitted\n"
        assert refused("submit", "kfp", *options, "--gpus", "2", "--", "bench").startswith(
            "Error: A different job named nightly exists"
        )
        assert invoke("job", "status", "kfp", "nightly", "--endpoint", server.url).stdout == "waiting\n"
        (run,) = server.objects["runs"].values()
        run["state"] = "FAILED"
        assert invoke("submit", "kfp", *options, "--", "bench").stdout == "nightly: already submitted\n"
        assert invoke("submit", "kfp", "--resubmit", *options, "--", "bench").stdout == "nightly: submitted\n"
        (anew,) = server.objects["runs"].values()
        assert [made["runtime_config"]["parameters"].get("again") for made in (run, anew)] == [None, True]
        assert invoke("submit", "kfp", "--again", *options, "--", "bench").stdout == "nightly: already submitted\n"
        clock = ["schedule", "kfp", *options, "--schedule", "0 2 * * *"]
        assert invoke(*clock, "--", "bench").stdout == "nightly: created\n"
        assert invoke(*clock, "--", "bench").stdout == "nightly: unchanged\n"
        assert invoke(*clock, "--gpus", "2", "--", "bench").stdout == "nightly: replaced\n"
        assert invoke(*clock, "--delete").stdout == "nightly: deleted\n"
    assert list(printed("kfp", "--name", "nightly", *IMAGE, "--storage", "runs", "--", "bench")[1]) == ["platforms"]


def test_submit_local_resumes_the_same_command_and_refuses_another(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--weights", tiny_weights, "--views", 4, "--executor", "inline", "--set", "iterations=2"]
    small += ["--set", "initialization.kind=ball", "--set", "initialization.count=150"]
    words = ["submit", "local", "--name", "mine", "--", "bench", "--prompt", "a red cube", *small]
    assert invoke(*words).exit_code == 0
    (record,) = (tmp_path / "runs" / "mine").glob("items/**/record.json")
    before = record.stat().st_mtime_ns
    assert invoke(*words).exit_code == 0
    assert record.stat().st_mtime_ns == before
    line = refused(*words, "--seed", "1")
    assert "was generated with other settings" in line


def commands_of_the_page() -> list[list[str]]:
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in blocks.splitlines() if "segmentdreamer manifest" in line]


def test_every_manifest_command_of_the_page_prints_valid_manifests():
    for words in commands_of_the_page():
        end = words.index("|") if "|" in words else len(words)
        for document in printed(*words[words.index("manifest") + 1 : end]):
            check(document)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, arguments in TYPICAL.items():
        (GOLDEN / f"{name}.yaml").write_text(invoke("manifest", *arguments).stdout, encoding="utf-8")
