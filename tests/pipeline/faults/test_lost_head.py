"""A command whose Ray head is killed at every phase, with real processes."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import pytest

from tests.support.own_process import KEPT
from tests.support.processes import PROMPTS, SMALL, Command, iteration, survivors

SOON = "from cluster.ray import address; address.LOST_SECONDS, address.EXIT_SECONDS = 4.0, 8.0"


@pytest.fixture
def token(monkeypatch):
    """The token of the clusters; no other variable of Ray is set."""
    for name in [name for name in os.environ if name.startswith("RAY_") and name != KEPT]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))


@contextmanager
def cluster() -> Iterator[Callable[[], None]]:
    """A new cluster in RAY_ADDRESS, and a function that kills its head."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.lost_ray_head"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_AUTH_MODE": "token"},
    ) as process:

        def lose() -> None:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "lost\n"

        os.environ["RAY_ADDRESS"] = process.stdout.readline().strip()
        yield lose
        process.stdin.close()


def files(out: Path, name: str) -> dict[Path, int]:
    """The files of this name, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in out.glob(f"items/*/{name}")}


def is_starting(command: Command, out: Path) -> bool:
    return any("generate 0: starting" in line for line in command.lines)


def generates(command: Command, out: Path) -> bool:
    return iteration(out) >= 5


def evaluates(command: Command, out: Path) -> bool:
    """Both assets are generated, and the evaluator is suspended, so that it does not finish."""
    for pid in command.pids("evaluate"):
        os.kill(pid, signal.SIGSTOP)
    return bool(command.pids("evaluate")) and len(files(out, "generation.json")) == 2


def writes_tables(command: Command, out: Path) -> bool:
    return len(files(out, "record.json")) == 2


def test_fault_27_a_run_whose_head_is_killed_at_every_phase_ends_with_the_same_bytes(
    tiny_weights, undisturbed, token, tmp_path, monkeypatch
):
    """One run: each time, the same command on a new cluster resumes it, and repeats one interval at most."""
    monkeypatch.setenv("RAY_ADDRESS", "")
    out = tmp_path / "run"
    arguments = ["bench", *PROMPTS, *SMALL, "--weights", str(tiny_weights), "--workers", "1", "--out", str(out)]
    kept: dict[Path, int] = {}
    for phase in (is_starting, generates, evaluates, writes_tables):
        with cluster() as lose:
            address, command = os.environ["RAY_ADDRESS"], Command(*arguments, setup=SOON)
            command.until(lambda phase=phase, command=command: phase(command, out))
            command.process.send_signal(signal.SIGSTOP)  # it goes on when the head is lost
            lose()
            command.process.send_signal(signal.SIGCONT)
            status, text = command.end(), "".join(command.lines)
            for pid in command.pids("evaluate"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        assert "Traceback" not in text
        assert survivors([*command.pids(), *command.pids("evaluate")]) == set()
        if phase is not writes_tables:
            assert status == 2, text
            assert command.lines[-1] in (
                f"Error: The Ray head at {address} has not answered for {seconds} s. Finished assets and checkpoints "
                "are kept; start the cluster, then run the same command again to resume.\n"
                for seconds in (4, 8)  # 8: in a call of Ray that waits for the head
            )
        assert kept.items() <= files(out, "generation.json").items(), "nothing finished is repeated"
        kept = files(out, "generation.json")
        if phase is generates:
            interrupted = iteration(out)
    assert status == 0, text  # nothing needed the head any more
    assert list(pd.read_csv(out / "per_object.csv")["status"]) == ["done"] * 2
    assert interrupted <= max(json.loads(path.read_bytes())["resumed_from"] for path in kept)
    for path in undisturbed.glob("items/*/asset.ply"):
        assert (out / path.relative_to(undisturbed)).read_bytes() == path.read_bytes()
    for path in undisturbed.glob("items/*/record.json"):
        there, here = (json.loads((root / path.relative_to(undisturbed)).read_bytes()) for root in (undisturbed, out))
        assert there["scores"] == here["scores"]
