"""Twelve prompts by two methods on three Ray nodes; a worker, a node and the command are killed."""

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.store.attempts import Checkpoint
from pipeline.store.run_folder import Store
from tests.support.own_process import KEPT
from tests.support.processes import Command, survivors

JOBS = 24
OPTIONS = ["--suite", "embedded40", "--limit", "12", "--objective", "sctd,sds", "--views", "3", "--set", "iterations=3"]
OPTIONS += ["--set", "initialization.kind=ball", "--set", "initialization.count=300", "--checkpoint-seconds", "0"]
OPTIONS += ["--set", "cameras.views=1", "--no-report"]
COLUMNS_OF_THE_RUN = ["run_id", "date_utc", "time_min", "peak_gib", "code_sha"]


@pytest.fixture
def cluster(monkeypatch):
    """The process that runs the cluster. Commands find it by RAY_ADDRESS."""
    for name in [name for name in os.environ if name.startswith("RAY_") and name != KEPT]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.three_ray_nodes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        monkeypatch.setenv("RAY_ADDRESS", process.stdout.readline().strip())
        yield process
        process.stdin.close()


def records(out: Path) -> int:
    return len(list(out.glob("items/*/record.json")))


def in_progress(out: Path) -> dict[int, Path]:
    """The worker processes whose job has a checkpoint, and the folder of each job."""
    folders = [path.parent for path in out.glob("items/*/checkpoint")]
    attempts = [(Store(out).read_json(folder / "attempt.json"), folder) for folder in folders]
    return {attempt["pid"]: folder for attempt, folder in attempts if attempt}


def test_a_killed_worker_node_and_command_do_not_change_the_leaderboard(bundled_weights, cluster, tmp_path):
    """Fault tests 2, 7 and 9 in one run."""
    undisturbed_out, out = tmp_path / "undisturbed", tmp_path / "out"
    undisturbed = Command("bench", *OPTIONS, "--executor", "inline", "--out", str(undisturbed_out))
    arguments = ["bench", *OPTIONS, "--workers", "2", "--out", str(out)]

    first = Command(*arguments)
    first.until(lambda: records(out) >= 1 and len(first.pids()) == 2)
    killed, interrupted = first.until(lambda: [*in_progress(out).items()])[0]
    os.kill(killed, signal.SIGKILL)
    saved = Checkpoint.read(interrupted / "checkpoint").iteration
    first.until(lambda: any("its process died" in line for line in first.lines))
    (other,) = {*first.pids()[:2]} - {killed}
    first.until(lambda: other in in_progress(out))
    cluster.stdin.write(f"{other}\n")
    cluster.stdin.flush()
    first.until(lambda: any("its node was" in line for line in first.lines) and records(out) >= 3)
    first.process.kill()
    assert first.end() == -signal.SIGKILL
    assert 3 <= records(out) < JOBS

    second = Command(*arguments)
    assert second.end() == 0, "".join(second.lines)
    assert undisturbed.end() == 0, "".join(undisturbed.lines)
    leaderboards = [pd.read_csv(folder / "leaderboard.csv") for folder in (undisturbed_out, out)]
    assert list(leaderboards[0]["n_prompts"]) == [12, 12]
    assert list(leaderboards[0]["n_failed"]) == [0, 0]
    pd.testing.assert_frame_equal(*(table.drop(columns=COLUMNS_OF_THE_RUN) for table in leaderboards))
    assets = sorted(path.relative_to(undisturbed_out) for path in undisturbed_out.glob("items/*/asset.ply"))
    assert len(assets) == JOBS
    assert json.loads((interrupted / "generation.json").read_text())["resumed_from"] >= saved
    assert all((out / path).read_bytes() == (undisturbed_out / path).read_bytes() for path in assets)
    assert survivors([*first.pids(), *second.pids()]) == set()
