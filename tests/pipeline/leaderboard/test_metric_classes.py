"""The torchmetrics classes give the numbers of a run's leaderboard, in one process and in two."""

import pytest
from typer.testing import CliRunner

from pipeline.cli import app as cli
from tests.support.leaderboard_again import differences

SMALL = "--set iterations=4 --set initialization.kind=ball --set initialization.count=60 --views 6 --executor inline"
PROMPTS = "a red cube", "a blue ball", "a green cube"
COLUMNS = "clip@tiny", "ir@tiny", "clip_rprec@tiny", "fd@tiny", "kid_cl@tiny", "fd@tiny_se", "kid_cl@tiny_se"


@pytest.fixture(scope="module")
def run(tiny_weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "run"
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    options = [*prompts, "--objective", "sctd,sds", "--weights", str(tiny_weights), "--no-report", "--out", str(out)]
    result = CliRunner().invoke(cli.app, ["bench", *options, *SMALL.split()])
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize("processes", [1, 2])
def test_every_value_is_that_of_the_leaderboard(run, processes):
    found = list(differences(run, processes))
    assert [line[:2] for line in found] == [(method, column) for method in ("sctd", "sds") for column in COLUMNS]
    assert [line for line in found if not line[-1]] == []


def test_another_value_in_the_leaderboard_is_found(run):
    path = run / "leaderboard.csv"
    before = path.read_text()
    head, first, second = before.splitlines()
    value = first.split(",")[head.split(",").index("ir@tiny")]
    path.write_text("\n".join([head, first.replace(value, str(float(value) + 1e-5)), second]))
    found = list(differences(run))
    path.write_text(before)
    assert [line[:2] for line in found if not line[-1]] == [("sctd", "ir@tiny")]
