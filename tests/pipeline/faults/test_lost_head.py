"""A command whose Ray head is killed, with real processes."""

import os
import secrets
import subprocess
import sys

import pandas as pd
import pytest

from tests.support.own_process import KEPT
from tests.support.processes import PROMPTS, SMALL, Command

COLOURS = "green", "yellow", "white", "black", "brown", "orange"
MORE = [option for colour in COLOURS for option in ("--prompt", f"a {colour} cube")]  # some are never started


@pytest.fixture
def cluster(monkeypatch):
    """The process that runs the cluster. Commands find it by RAY_ADDRESS."""
    for name in [name for name in os.environ if name.startswith("RAY_") and name != KEPT]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.lost_ray_head"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        monkeypatch.setenv("RAY_ADDRESS", process.stdout.readline().strip())
        yield process
        process.stdin.close()


def test_a_run_that_loses_its_head_ends_with_its_finished_assets_and_resumes(
    tiny_weights, undisturbed, cluster, tmp_path, monkeypatch
):
    out, address = tmp_path / "run", os.environ["RAY_ADDRESS"]
    arguments = ["bench", *PROMPTS, *MORE, *SMALL, "--weights", str(tiny_weights), "--workers", "1", "--out", str(out)]
    first = Command(*arguments)
    first.until(lambda: list(out.glob("items/*/record.json")))
    cluster.stdin.write("\n")
    cluster.stdin.flush()
    assert first.end() == 2, "".join(first.lines)
    assert first.lines[-1] == (
        f"Error: The Ray head at {address} has not answered for 25 s. Finished assets and checkpoints are kept; start "
        "the cluster, then run the same command again to resume.\n"
    )
    done, unfinished = (list(pd.read_csv(out / "per_object.csv")["status"]).count(s) for s in ("done", "unfinished"))
    assert 1 <= done < 8
    assert done + unfinished == 8

    monkeypatch.delenv("RAY_ADDRESS")
    finished = {path: path.stat().st_mtime_ns for path in out.glob("items/*/record.json")}
    second = Command(*arguments)
    assert second.end() == 0, "".join(second.lines)
    assert list(pd.read_csv(out / "per_object.csv")["status"]) == ["done"] * 8
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "nothing finished is repeated"
    for path in undisturbed.glob("items/*/asset.ply"):
        assert (out / path.relative_to(undisturbed)).read_bytes() == path.read_bytes()
