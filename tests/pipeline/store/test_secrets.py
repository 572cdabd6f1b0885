"""Secrets in the environment and hostile prompts, in a bench, manifests, submissions and schedules."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.app import app
from tests.support import fake_kubeflow, fake_kubernetes

SECRETS = {name: f"canary-{name.lower()}-7f3a" for name in (
    "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "RAY_AUTH_TOKEN", "KFP_TOKEN",
)}  # fmt: skip
HOSTILE = [
    "../../x", "/etc/x", "$(touch pwned) `touch pwned`", '"; touch pwned; rm -rf . #', "<script>alert(1)</script>",
    "{{$.inputs}} ${HOME} %s {0}",
]  # fmt: skip
BENCHED = ["../../x", "$(touch pwned) `touch pwned`", "<script>alert(1)</script>"]  # each takes seconds
SMALL = ["--executor", "inline", "--views", "4", "--set", "iterations=2", "--set", "initialization.kind=ball"]
MACHINES = [
    "--image",
    "registry.example/sd:1",
    "--ray-version",
    "2.60.0",
    "--storage",
    "runs",
    "--secret",
    "hub=HF_TOKEN",
]


def ran(folder: Path, environment: dict[str, str], *words: str) -> str:
    """The output of the command, run in a process with this environment."""
    command = [sys.executable, "-c", "from pipeline.cli.app import main; main()", *words]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def of_prompts(prompts: list[str]) -> list[str]:
    return [word for prompt in prompts for word in ("--prompt", prompt)]


@pytest.fixture(scope="module")
def benched(tiny_weights, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a bench of hostile prompts, started two levels below it, and the bench's output."""
    folder = tmp_path_factory.mktemp("hostile")
    (deep := folder / "a" / "b").mkdir(parents=True)
    words = ["bench", *of_prompts(BENCHED), *SMALL, "--set", "initialization.count=150", "--weights", str(tiny_weights)]
    return folder, ran(deep, SECRETS, *words, "--out", "run")


def test_a_bench_writes_no_secret(benched):
    folder, printed = benched
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        assert b"canary-" not in path.read_bytes(), path
    assert "canary-" not in printed


def test_hostile_prompts_have_no_effect(benched):
    """Each prompt has its record. No file is outside the run folder or has a name that a prompt chose."""
    folder, _ = benched
    run = folder / "a" / "b" / "run"
    records = [json.loads(path.read_text()) for path in run.glob("items/**/record.json")]
    assert len(records) == len(BENCHED)
    outside = [path for path in folder.rglob("*") if path.is_file() and run not in path.parents]
    assert outside == []
    assert not [path for path in run.rglob("*") if "pwned" in path.name or "script" in path.name]
    prose = re.sub(r"```.*?```", "", (run / "report.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert r"\<script\>" in prose  # the command is in a code block
    assert "<script>" not in prose


LINES = "which cannot be printed; write it as one line of text."


@pytest.mark.parametrize(
    ("prompt", "why"),
    [
        ("a\nb", LINES),
        ("a\x1b[2Jb", LINES),
        ("a\rb", LINES),
        ("long " * 400, "has 2,000 characters; the limit is 1,000. Shorten it."),
    ],
)
def test_prompts_of_several_lines_or_excessive_length_are_errors_of_one_line(tmp_path, prompt, why, capsys):
    with pytest.raises(SystemExit) as ended:
        app(["bench", "--prompt", prompt, "--out", str(tmp_path / "run")])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith("Error: The prompt ")
    assert line.endswith(why)
    assert not (tmp_path / "run").exists()


def test_requests_to_clusters_name_secrets_and_contain_none(tmp_path):
    words = ["bench", *of_prompts([*HOSTILE, "long " * 180, "a\nb"])]
    sent = "".join(
        ran(tmp_path, SECRETS, "manifest", kind, "--name", "night", *MACHINES, *more, "--", *words)
        for kind, more in (("rayjob", ()), ("cronjob", ("--schedule", "@daily")), ("kfp", ()))
    )
    with fake_kubernetes.serving(tmp_path) as (server, config):
        environment = SECRETS | {"KUBECONFIG": str(config)}
        sent += ran(tmp_path, environment, "submit", "kuberay", "--name", "night", *MACHINES, "--", *words)
        sent += json.dumps(server.objects)
    with fake_kubeflow.serving() as server:
        where = ["--name", "night", *MACHINES, "--endpoint", server.url]
        sent += ran(tmp_path, SECRETS, "submit", "kfp", *where, "--", *words)
        sent += ran(tmp_path, SECRETS, "schedule", "kfp", *where, "--schedule", "@daily", "--", *words)
        sent += json.dumps(server.objects)
    assert "canary-" not in sent
    assert sent.count("HF_TOKEN") > 4
    for part in ("touch pwned", "<script>", "{{$.inputs}}"):
        assert part not in sent.replace('"args": ["', "") or part in cron_arguments(sent), part
    assert [path.name for path in tmp_path.iterdir()] == ["kubeconfig"]


def cron_arguments(sent: str) -> str:
    """The arguments of the CronJob, passed to its program without a shell and therefore unchanged."""
    return sent.split("kind: CronJob")[1].split("apiVersion")[0]
