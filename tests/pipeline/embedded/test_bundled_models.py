"""A few iterations with the bundled models. The gates measure their quality."""

import pandas as pd
from typer.testing import CliRunner

from pipeline.cli.app import app


def test_a_run_with_the_bundled_models_has_a_complete_leaderboard(bundled_weights, tmp_path):
    out = tmp_path / "run"
    options = ["--set", "iterations=3", "--views", "3", "--executor", "inline", "--out", str(out)]
    result = CliRunner().invoke(app, ["bench", "--limit", "2", *options])
    assert result.exit_code == 0, result.output
    (row,) = pd.read_csv(out / "leaderboard.csv").to_dict("records")
    assert (row["n_prompts"], row["n_failed"]) == (2, 0)
    for metric in ("clip@embedded", "ir@embedded", "fd@embedded", "kid_cl@embedded", "clip_rprec@embedded"):
        assert row[metric] == row[metric]
