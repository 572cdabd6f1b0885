"""What breaks in the night: `kill -9` of a generation actor and of the whole command, on real processes and Ray."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.generate import Checkpoint

PROMPTS = ["--prompt", "a red cube", "--prompt", "a blue ball"]
BALL = ["--set", "seed_shape.kind=ball", "--set", "seed_shape.count=150"]
SMALL = ["--set", "iterations=80", *BALL, "--views", "4", "--checkpoint-seconds", "0"]
PATIENCE_SECONDS = 240  # for a crowded machine; nothing is asserted of it


class Command:
    """A `segmentdreamer` process, and the lines it has printed on standard error so far."""

    def __init__(self, *arguments: str):
        code = "from pipeline.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stderr.readline, "")))
        self.reader.start()

    def pids(self) -> list[int]:
        """The processes of the generation workers, in the order of their births."""
        found = (re.search(r"generate \d+: ready \(process (\d+)\)", line) for line in list(self.lines))
        return [int(match[1]) for match in found if match]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < deadline, "".join(self.lines)
            time.sleep(0.01)

    def end(self) -> int:
        status = self.process.wait(PATIENCE_SECONDS)
        self.reader.join()
        self.process.stderr.close()
        return status


def iteration(out: Path) -> int:
    """How far the item in work is, by its checkpoint."""
    return max((Checkpoint.read(path).iteration for path in out.glob("items/*/checkpoint")), default=0)


@pytest.fixture(scope="module")
def undisturbed(tiny_weights, tmp_path_factory) -> Path:
    """The same run in this process, without faults."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    arguments = ["bench", *PROMPTS, *SMALL, "--weights", str(tiny_weights), "--executor", "inline", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return out


def test_killed_actors_and_killed_commands_resume_to_the_same_bits(tiny_weights, undisturbed, tmp_path):
    out = tmp_path / "run"
    arguments = [*PROMPTS, *SMALL, "--weights", str(tiny_weights), "--workers", "1", "--out", str(out)]

    first = Command("bench", *arguments)
    first.until(lambda: iteration(out) >= 10)
    os.kill(first.pids()[0], signal.SIGKILL)
    first.until(lambda: len(first.pids()) == 2)
    after_actor = iteration(out)
    first.until(lambda: iteration(out) >= after_actor + 10)
    first.process.kill()
    assert first.end() == -signal.SIGKILL
    assert any("its process died" in line and line.endswith("; trying again\n") for line in first.lines)
    after_command = iteration(out)
    assert after_command >= after_actor + 10

    second = Command("bench", *arguments)
    assert second.end() == 0, "".join(second.lines)
    plain = re.compile(r"(\d of 2 assets to make and judge in |\[[\d a-z]+\] (generate|evaluate) \d+: )")
    assert all(plain.match(line) for line in [*first.lines, *second.lines]), "nothing but our own lines"

    board = pd.read_csv(out / "leaderboard.csv").to_dict("records")[0]
    assert (board["n_prompts"], board["n_failed"]) == (2, 0)
    resumed = pd.read_csv(out / "per_object.csv")["resumed_from"].max()
    assert after_command <= resumed < 80
    for path in undisturbed.glob("items/*/asset.ply"):
        assert (out / path.relative_to(undisturbed)).read_bytes() == path.read_bytes()
    for path in undisturbed.glob("items/*/record.json"):
        there, here = (json.loads((root / path.relative_to(undisturbed)).read_text()) for root in (undisturbed, out))
        assert there["scores"] == here["scores"], "both executors give the same record"
