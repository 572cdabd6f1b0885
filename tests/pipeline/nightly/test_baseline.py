"""Pinned baselines: there and back again, never overwritten, and damage is named."""

import json

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.nightly import baseline
from pipeline.nightly.verdict import Made, Night

ACCEPTED = {"by": "ada", "date_utc": "2026-01-03T00:00:00+00:00", "reason": "release 1"}


def night(run_id="run") -> Night:
    features = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    objects = (
        Made("sctd", "a cube", 0, {"clip": 30.1, "ir": -0.2}, "", {"fd": features, "fid": features + 1}),
        Made("sctd", "a ball", 0, None, "NaN in the loss"),
    )
    return Night(run_id, "2026-01-02", None, "a CPU", {"protocol": "paper4"}, {"sctd": {"iterations": 3}}, objects)


def test_a_baseline_comes_back_to_the_bit(tmp_path):
    baseline.pin(tmp_path / "pinned", night(), ACCEPTED)
    found = baseline.read(tmp_path / "pinned")
    assert (found.number, found.accepted) == (1, ACCEPTED)
    assert found.night.keys == night().keys
    assert [(made.key, made.values, made.error) for made in found.night.objects] == [
        (made.key, made.values, made.error) for made in night().objects
    ]
    for name, array in night().objects[0].features.items():
        assert np.array_equal(found.night.objects[0].features[name], array)
    assert found.night.objects[1].features == {}


def test_the_newest_counts_and_the_old_ones_stay(tmp_path):
    for number, name in enumerate(("first", "second"), start=1):
        assert baseline.pin(tmp_path, night(name), ACCEPTED).number == number
    assert baseline.read(tmp_path).night.run_id == "second"
    assert json.loads((tmp_path / "001" / "baseline.json").read_text())["run_id"] == "first"
    (tmp_path / "003").mkdir()
    (tmp_path / "003" / "features.npz").write_bytes(b"of a command that was killed")
    assert baseline.read(tmp_path).number == 2
    assert baseline.pin(tmp_path, night("third"), ACCEPTED).number == 3


def test_without_a_baseline_the_command_that_pins_one_is_named(tmp_path):
    with pytest.raises(UserError) as caught:
        baseline.read(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path}/none holds no baseline; pin a finished run by segmentdreamer nightly accept RUN --baseline "
        f"{tmp_path}/none --reason TEXT."
    )


@pytest.mark.parametrize("file", ["baseline.json", "features.npz"])
def test_damage_is_named(tmp_path, file):
    baseline.pin(tmp_path, night(), ACCEPTED)
    (tmp_path / "001" / file).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"^{tmp_path}/001 is damaged \(.*\); put it back, or accept a run anew\.$"):
        baseline.read(tmp_path)


def test_of_the_history_only_nights_beside_this_baseline_count_and_a_run_counts_once(tmp_path):
    for run, number, verdict in [("a", 1, "PASS"), ("b", 2, "PASS"), ("c", 2, "PASS"), ("b", 2, "FAIL")]:
        baseline.append(tmp_path, {"run": run, "baseline": number, "verdict": verdict})
    assert [(line["run"], line["verdict"]) for line in baseline.nights(tmp_path, 2)] == [("b", "FAIL"), ("c", "PASS")]
    assert baseline.nights(tmp_path, 3) == []
    with open(tmp_path / "nights.jsonl", "a") as file:
        file.write("{\n")
    with pytest.raises(UserError, match=r"nights.jsonl is damaged \(.*\); take out the line, or the file\."):
        baseline.nights(tmp_path, 2)
