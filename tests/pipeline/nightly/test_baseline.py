"""Pinned baselines: round trip, never overwritten, and damage is reported."""

import json

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.nightly import baseline
from tests.support.nightly_runs import nightly_run

ACCEPTED = {"by": "ada", "date_utc": "2026-01-03T00:00:00+00:00", "reason": "release 1"}


def test_baseline_round_trip_is_exact(tmp_path):
    baseline.pin(tmp_path / "pinned", nightly_run(), ACCEPTED)
    found = baseline.read(tmp_path / "pinned")
    assert (found.number, found.accepted) == (1, ACCEPTED)
    assert found.nightly_run.keys == nightly_run().keys
    assert [(result.key, result.values, result.error) for result in found.nightly_run.objects] == [
        (result.key, result.values, result.error) for result in nightly_run().objects
    ]
    for name, array in nightly_run().objects[0].features.items():
        assert np.array_equal(found.nightly_run.objects[0].features[name], array)
    assert found.nightly_run.objects[1].features == {}


def test_newest_baseline_is_read_and_older_ones_stay(tmp_path):
    for number, name in enumerate(("first", "second"), start=1):
        assert baseline.pin(tmp_path, nightly_run(name), ACCEPTED).number == number
    assert baseline.read(tmp_path).nightly_run.run_id == "second"
    assert json.loads((tmp_path / "001" / "baseline.json").read_text())["run_id"] == "first"
    (tmp_path / "003").mkdir()
    (tmp_path / "003" / "features.npz").write_bytes(b"left by a killed command")
    assert baseline.read(tmp_path).number == 2
    assert baseline.pin(tmp_path, nightly_run("third"), ACCEPTED).number == 3


def test_missing_baseline_error_names_the_command_that_pins_one(tmp_path):
    with pytest.raises(UserError) as caught:
        baseline.read(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path}/none contains no baseline; set a new baseline with segmentdreamer nightly accept RUN --baseline "
        f"{tmp_path}/none --reason TEXT."
    )


@pytest.mark.parametrize("file", ["baseline.json", "features.npz"])
def test_damaged_baseline_is_an_error(tmp_path, file):
    baseline.pin(tmp_path, nightly_run(), ACCEPTED)
    (tmp_path / "001" / file).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"^{tmp_path}/001 is damaged \(.*\); restore it, or set a new baseline\.$"):
        baseline.read(tmp_path)


def test_history_has_one_line_per_run_against_this_baseline(tmp_path):
    for run, number, verdict in [("a", 1, "PASS"), ("b", 2, "PASS"), ("c", 2, "PASS"), ("b", 2, "FAIL")]:
        baseline.append(tmp_path, {"run": run, "baseline": number, "verdict": verdict})
    assert [(line["run"], line["verdict"]) for line in baseline.history(tmp_path, 2)] == [("b", "FAIL"), ("c", "PASS")]
    assert baseline.history(tmp_path, 3) == []
    with open(tmp_path / "nights.jsonl", "a") as file:
        file.write("{\n")
    with pytest.raises(UserError, match=r"nights.jsonl is damaged \(.*\); remove the line, or the file\."):
        baseline.history(tmp_path, 2)


@pytest.mark.parametrize(
    "line", ["1", "{}", '{"run": "a"}', "[" * 100_000, '{"run": "a", "baseline": 1, "gates": [{}]}']
)
def test_a_damaged_line_of_the_history_is_named(tmp_path, line):
    (tmp_path / "nights.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"nights\.jsonl is damaged \(.{3,200}\); remove the line, or the file\.$"):
        baseline.history(tmp_path, 1)


def test_a_damaged_field_of_the_baseline_is_named(tmp_path):
    baseline.pin(tmp_path, nightly_run(), ACCEPTED)
    about = tmp_path / "001" / "baseline.json"
    about.write_text(about.read_text().replace('"seed": 0', '"seed": "zero"'))
    with pytest.raises(UserError, match=r"001 is damaged \(objects\.0\.seed: Input should be a valid integer"):
        baseline.read(tmp_path)
