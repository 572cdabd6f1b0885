"""What is said of a run's assets, and what is promised of the packaged models as files."""

import json

import numpy as np
import pytest

from pipeline.embedded import weights_folder, world
from pipeline.embedded.assets import Found, summary
from pipeline.embedded.gates import GOALS
from pipeline.models import EMBEDDED, Weights

MIB = 2**20


def test_a_line_per_method_and_their_paired_difference():
    found = [
        Found("sctd", "a red car", 0.6, True, True, False),
        Found("sctd", "a red mushroom", 0.5, False, None, None),
        Found("sds", "a red mushroom", 0.6, True, None, None),
        Found("sds", "a red car", 0.8, True, True, True),
    ]
    text = summary(found)
    assert "| sctd | 2 | 1 of 2 | 1 of 1 | 0 of 1 | 0.5500 ± 0.0500 |" in text
    assert "| sds | 2 | 2 of 2 | 1 of 1 | 1 of 1 | 0.7000 ± 0.1000 |" in text
    # Differences -0.2 and -0.1: mean -0.15, standard error 0.05, t = 12.706 for one degree of freedom.
    assert "sctd − sds, paired over 2 prompts: -0.1500, 95 % interval -0.7853 to +0.4853" in text
    assert "Not named right: a red mushroom (sctd)." in text
    assert "Front or back wrong: a red car (sctd)." in text


def test_every_gate_was_measured():
    measured = json.loads((weights_folder() / "gates.json").read_text())
    assert set(GOALS) <= set(measured)


def test_the_five_models_take_at_most_48_mib():
    parts = [weights_folder() / name for name in ("prior", "scorer", "reward", "shape")]
    files = [file for part in parts for file in part.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 48 * MIB


def test_the_reference_was_made_by_the_packaged_prior_and_scorer():
    from evaluation.clip_score import ClipScorer
    from evaluation.references import from_bytes

    reference = from_bytes((weights_folder() / "reference.npz").read_bytes())
    assert reference.made_of["prior"] == Weights(EMBEDDED, weights_folder()).digests["prior"]
    scorer = ClipScorer.load(weights_folder() / "scorer")
    reference.require_network("embedded", scorer.weights)


@pytest.mark.parametrize("colour", ["red", "blue", "yellow"])
def test_scorer_and_judge_know_a_ground_truth_cube(colour):
    """A smoke test of the weights as they are read in production; the gates measure all types."""
    from evaluation.clip_score import ClipScorer
    from pipeline.embedded.gates import photographs
    from pipeline.embedded.judge import COLOURS, judged, load_judge

    scene = world.single(np.random.default_rng(0), "cube", colour)
    images = photographs([scene], np.array([20.0, 110.0]), 20.0, "cpu")[0]
    texts = [f"a {other} {noun}" for other in ("red", "blue", "yellow") for noun in ("cube", "ball")]
    scorer = ClipScorer.load(weights_folder() / "scorer")
    views = images.permute(0, 2, 3, 1).numpy()
    best = (scorer.image_features(views) @ scorer.text_features(texts).T).argmax(1)
    assert [texts[i] for i in best] == [f"a {colour} cube"] * 2
    verdict = judged(load_judge(weights_folder() / "judge"), images)
    assert [world.TYPES[i] for i in verdict.kind] == ["cube"] * 2
    assert [COLOURS[i] for i in verdict.colour] == [colour] * 2
