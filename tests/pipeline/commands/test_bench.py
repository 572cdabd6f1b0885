"""pipeline.commands.bench: what a run leaves if the head of its cluster is lost."""

import json
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from cluster.ray.address import HeadLostError
from pipeline.cli.app import app
from pipeline.work import flow
from tests.support.processes import BALL

PROMPTS = ["--prompt", "a red cube", "--prompt", "a blue ball"]
SMALL = ["--set", "iterations=2", *BALL, "--views", "4", "--executor", "inline"]


@pytest.mark.parametrize("finished", [0, 1])
def test_the_leaderboard_of_the_finished_assets_is_written_if_the_head_is_lost(
    finished, tiny_weights, tmp_path, monkeypatch
):
    whole, out = flow.bench, tmp_path / "run"

    def lost(run, todo, *rest):
        whole(run, todo[:finished], *rest)
        raise HeadLostError("The Ray head is lost")

    monkeypatch.setattr(flow, "bench", lost)
    command = ["bench", *PROMPTS, *SMALL, "--weights", str(tiny_weights), "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: The Ray head is lost"
    assert (out / "leaderboard.csv").exists() == bool(finished)
    if finished:
        objects = pd.read_csv(out / "per_object.csv")
        assert sorted(objects["status"]) == ["done", "unfinished"]

    monkeypatch.undo()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert list(pd.read_csv(out / "per_object.csv")["status"]) == ["done", "done"]


def test_prompts_that_are_scored_by_their_beginning_are_named_once(tiny_weights, tmp_path):
    weights = shutil.copytree(tiny_weights, tmp_path / "weights")
    config = weights / "reward" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_length": 4}))
    command = ["bench", *PROMPTS, *SMALL, "--weights", str(weights), "--out", str(tmp_path / "run"), "--no-report"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    cut = "ImageReward reads 4 tokens, so it scores 2 of 2 prompts by their beginning, the first of them 'a red cube'."
    assert result.stderr.splitlines().count(cut) == 1
