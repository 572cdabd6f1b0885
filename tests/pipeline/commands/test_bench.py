"""pipeline.commands.bench: what a run leaves if the head of its cluster is lost, and scores at shares of iterations."""

import json
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from cluster.ray.address import HeadLostError
from pipeline.cli.app import app
from pipeline.cli.error_handling import JOBS_FAILED
from pipeline.store.attempts import Attempt
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


def bench(out, weights, *options):
    command = ["bench", *PROMPTS, "--set", "iterations=4", *BALL, "--views", "4", "--executor", "inline"]
    command += ["--weights", str(weights), "--out", str(out), "--checkpoint-seconds", "0", "--no-report", *options]
    return CliRunner().invoke(app, command)


def curves(out):
    return pd.read_csv(out / "curves.csv").drop(columns=["run_id", "seconds"])


@pytest.fixture(scope="module")
def with_curves(tiny_weights, tmp_path_factory):
    """The folder of a run with `--score-at`."""
    out = tmp_path_factory.mktemp("curves") / "run"
    result = bench(out, tiny_weights, "--score-at", "0.25,0.5")
    assert result.exit_code == 0, result.output
    return out


def test_the_last_point_of_a_curve_is_the_asset(with_curves):
    objects, table = pd.read_csv(with_curves / "per_object.csv"), pd.read_csv(with_curves / "curves.csv")
    assert table["iterations"].tolist() == [1, 2, 4] * 2
    ends = table[table["share"] == 1]
    metrics = ["clip@tiny", "ir@tiny", "clip_faces@tiny", "clip_rprec@tiny"]
    assert ends[metrics].to_numpy().tolist() == objects[metrics].to_numpy().tolist()
    assert ends["seconds"].tolist() == objects["t_opt_s"].tolist()
    assert table.notna()[[*metrics, "seconds", "unet_samples"]].all(axis=None)
    assert "## Quality over time" in (with_curves / "report.md").read_text()


def test_a_failed_run_resumes_to_the_curves_of_an_undisturbed_one(with_curves, tiny_weights, tmp_path, monkeypatch):
    out, write = tmp_path / "run", Attempt.write_output

    def failing(attempt, name, content):
        if name == "turntable.mp4":
            raise ValueError("planted")
        write(attempt, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "write_output", failing)
        assert bench(out, tiny_weights, "--score-at", "0.25,0.5").exit_code == JOBS_FAILED
    assert set(curves(out)["status"]) == {"failed"}
    assert bench(out, tiny_weights).exit_code == 0, "the folder keeps the shares"
    assert pd.read_csv(out / "per_object.csv")["resumed_from"].tolist() == [3, 3]
    pd.testing.assert_frame_equal(curves(out), curves(with_curves))
    again = bench(out, tiny_weights, "--score-at", "0.5")
    assert "2 assets are generated and scored, nothing to do" in again.stderr
    assert CliRunner().invoke(app, ["evaluate", str(out), "--views", "5", "--executor", "inline"]).exit_code == 0
    assert set(curves(out)["status"]) == {"done"}, "snapshots are scored again, too"
    assert (curves(out)["clip@tiny"] != curves(with_curves)["clip@tiny"]).all()


def test_assets_of_a_run_without_score_at_keep_their_ids_and_have_only_the_end(with_curves, tiny_weights, tmp_path):
    out = tmp_path / "run"
    assert bench(out, tiny_weights).exit_code == 0
    assert not (out / "curves.csv").exists()
    assets = {path.relative_to(out): path.read_bytes() for path in out.glob("items/*/*") if path.suffix != ".json"}
    for path, content in assets.items():
        assert (with_curves / path).read_bytes() == content or path.name == "evaluation.npz"
    later = bench(out, tiny_weights, "--score-at", "0.5")
    line = (
        "2 of 2 generated assets lack snapshots of --score-at, because they were generated without it; curves.csv "
        "lists these as missing. For whole curves, choose another --out."
    )
    assert later.exit_code == 0
    assert line in later.stderr.splitlines()
    assert curves(out)["status"].tolist() == ["missing", "done"] * 2
    again = bench(out, tiny_weights, "--score-at", "0.5")
    assert again.stderr.splitlines()[0] == line
    assert "nothing to do" in again.stderr.splitlines()[1]
    assert {
        path.relative_to(out): path.read_bytes() for path in out.glob("items/*/*") if path.suffix != ".json"
    } == assets


def test_a_snapshot_that_vanished_before_it_was_scored_is_reported(tiny_weights, tmp_path, monkeypatch):
    out, commit = tmp_path / "run", Attempt.commit

    def vanishing(attempt, facts):
        (attempt.fence.folder / "asset-2.ply").unlink()
        return commit(attempt, facts)

    monkeypatch.setattr(Attempt, "commit", vanishing)
    result = bench(out, tiny_weights, "--score-at", "0.5", "--limit", "1")
    assert result.exit_code == 0
    assert "not scored: a red cube (sctd), iteration 2: asset-2.ply is missing" in result.stderr.splitlines()
    table = curves(out)
    assert table["status"].tolist() == ["missing", "done"]
    assert table["error"][0] == "asset-2.ply is missing"
    assert "sctd: no asset has scores at all shares, so only the end is shown." in (out / "report.md").read_text()
