"""The report on a run's assets, and properties of the files of the bundled models."""

import json

import numpy as np
import pytest
import torch

from pipeline.commands.embedded_assets import Found, look, summary
from pipeline.embedded import weights_folder, world
from pipeline.embedded.gates import GOALS
from pipeline.store.run_folder import Store
from pipeline.weights.models import EMBEDDED, Weights
from sctd.formats import ply
from sctd.scene.gaussians import Gaussians
from tests.support import runs

MIB = 2**20


def test_summary_has_a_row_per_method_and_its_paired_difference_from_sctd():
    found = [
        Found("sctd", "a red car", 0.6, True, True, False),
        Found("sctd", "a red mushroom", 0.5, False, None, None),
        Found("ism", "a red mushroom", 0.55, True, None, None),
        Found("cds", "a blue car", 0.3, True, True, None),
        Found("sds", "a red mushroom", 0.6, True, None, None),
        Found("sds", "a red car", 0.8, True, True, True),
    ]
    text = summary(found)
    assert "| sctd | 2 | 1 of 2 | 1 of 1 | 0 of 1 | 0.5500 ± 0.0500 |" in text
    assert "| sds | 2 | 2 of 2 | 1 of 1 | 1 of 1 | 0.7000 ± 0.1000 |" in text
    assert "| cds | 1 | 1 of 1 | 1 of 1 | 0 of 0 | 0.3000 |" in text
    # Differences 0.2 and 0.1: mean 0.15, standard error 0.05, t = 12.706 for one degree of freedom.
    assert [line for line in text.splitlines() if " − " in line] == [
        "ism − sctd, paired over 1 prompts: +0.0500",
        "cds − sctd: no prompt in common",
        "sds − sctd, paired over 2 prompts: +0.1500, 95 % interval -0.4853 to +0.7853",
    ]
    assert " − sds" not in text
    assert "cds − ism: no prompt in common" in summary([each for each in found if each.method in ("cds", "ism")])
    assert "Not recognised: a red mushroom (sctd)." in text
    assert "Front or back wrong: a red car (sctd)." in text


class OneDirection:
    """A scorer with equal features for every image and every text."""

    def text_features(self, texts: list[str]) -> np.ndarray:
        return np.tile(np.float32([1, 0]), (len(texts), 1))

    def image_features(self, views: np.ndarray) -> np.ndarray:
        return np.tile(np.float32([1, 0]), (len(views), 1))


def test_rows_are_methods_and_portraits_have_no_test_of_the_back(tmp_path):
    """The method is the label in run.json; jobs of older run folders lack it, and the objective is used instead."""
    recipes = {"portrait": {"cameras": {"azimuth_degrees": [-90, 90]}}, "sds": {"cameras": {}}}
    rows = [("portrait", "a red car"), ("portrait", "a sailor's head"), (None, "a red car"), ("sds", "not made")]
    jobs = []
    for number, (method, prompt) in enumerate(rows):
        folder = tmp_path / "items" / str(number)
        folder.mkdir(parents=True)
        job = runs.job(str(number), prompt, method or "sds", objective="sds").to_json()
        jobs.append(job if method else {key: value for key, value in job.items() if key != "method"})
        if prompt != "not made":
            zeros = torch.zeros(5, 3)
            quats = torch.tensor([[1.0, 0, 0, 0]]).expand(5, 4)
            gaussians = Gaussians(zeros, zeros - 3, quats, torch.zeros(5), zeros[:, None])
            (folder / "asset.ply").write_bytes(ply.to_ply(gaussians))
            np.savez(folder / "evaluation.npz", image_features=np.float32([[0.5, 0.5]]))
    known = runs.manifest(Store(tmp_path), [], recipes=recipes).to_json()
    (tmp_path / "run.json").write_text(json.dumps(known | {"jobs": jobs}))
    found = look(tmp_path, OneDirection())
    assert [(f.method, f.prompt, f.front, f.back) for f in found] == [
        ("portrait", "a red car", False, None),
        ("portrait", "a sailor's head", None, None),
        ("sds", "a red car", False, False),
    ]
    assert "| portrait | 2 | 1 of 2 | 0 of 1 | 0 of 0 |" in summary(found)


def test_every_gate_was_measured():
    measured = json.loads((weights_folder() / "gates.json").read_text())
    assert set(GOALS) <= set(measured)


def test_the_five_models_take_at_most_48_mib():
    parts = [weights_folder() / name for name in ("prior", "scorer", "reward", "shape")]
    files = [file for part in parts for file in part.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 48 * MIB


def test_the_reference_was_made_with_the_bundled_prior_and_scorer():
    from evaluation.clip_score import ClipScorer
    from evaluation.references import from_bytes

    reference = from_bytes((weights_folder() / "reference.npz").read_bytes())
    assert reference.made_of["prior"] == Weights(EMBEDDED, weights_folder()).digests["prior"]
    scorer = ClipScorer.load(weights_folder() / "scorer")
    reference.require_network("embedded", scorer.weights)


@pytest.mark.parametrize("colour", ["red", "blue", "yellow"])
def test_scorer_and_gate_classifier_recognise_a_ground_truth_cube(colour):
    """A smoke test of the weights as they are read in production; the gates measure all types."""
    from evaluation.clip_score import ClipScorer
    from pipeline.embedded.gate_classifier import COLOURS, classify, load_gate_classifier
    from pipeline.embedded.gates import render_views

    scene = world.single(np.random.default_rng(0), "cube", colour)
    images = render_views([scene], np.array([20.0, 110.0]), 20.0, "cpu")[0]
    texts = [f"a {other} {noun}" for other in ("red", "blue", "yellow") for noun in ("cube", "ball")]
    scorer = ClipScorer.load(weights_folder() / "scorer")
    views = images.permute(0, 2, 3, 1).numpy()
    best = (scorer.image_features(views) @ scorer.text_features(texts).T).argmax(1)
    assert [texts[i] for i in best] == [f"a {colour} cube"] * 2
    predicted = classify(load_gate_classifier(weights_folder() / "judge"), images)
    assert [world.TYPES[i] for i in predicted.kind] == ["cube"] * 2
    assert [COLOURS[i] for i in predicted.colour] == [colour] * 2
