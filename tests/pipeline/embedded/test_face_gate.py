"""pipeline.embedded.face_gate: planted second faces, and the metric that finds them."""

import json

import numpy as np
import pytest

from evaluation.clip_score import ClipScorer
from evaluation.faces import WORDS, CLIPFaces
from pipeline.embedded import face_gate, weights_folder, world
from pipeline.embedded.gates import GOALS

VIEWS = 12


@pytest.fixture(scope="module")
def scorer():
    return ClipScorer.load(weights_folder() / "scorer")


def scene(kind, colour):
    return world.single(np.random.default_rng(3), kind, colour)


def views_of(rows):
    return face_gate.renders([rows], VIEWS, "cpu")[0].permute(0, 2, 3, 1).numpy()


def test_the_back_of_a_two_faced_object_is_the_mirror_image_of_its_front():
    rows = scene("robot", "red").rows
    true, janus = views_of(rows), views_of(face_gate.two_faced(rows))
    back, front = VIEWS // 2, 0
    assert np.abs(true[back].astype(float) - true[front, :, ::-1]).mean() > 3
    np.testing.assert_allclose(janus[back].astype(float), janus[front, :, ::-1], atol=24)  # light and edges of pixels
    assert np.abs(janus[back].astype(float) - janus[front, :, ::-1]).mean() < 0.5


@pytest.mark.parametrize(("kind", "colour"), [("robot", "red"), ("duck", "yellow"), ("car", "blue")])
def test_a_planted_face_costs_a_fifth_of_the_score(scorer, kind, colour):
    metric, made = CLIPFaces(scorer), scene(kind, colour)
    true, janus = views_of(made.rows), views_of(face_gate.two_faced(made.rows))
    np.testing.assert_allclose(metric.scores(true, made.phrase), scorer.score(true, made.phrase))
    lost = 1 - metric.scores(janus, made.phrase).mean() / scorer.score(janus, made.phrase).mean()
    assert 0.2 < lost < 0.3, "three of twelve views, if each is a face for certain"


@pytest.mark.parametrize(("kind", "colour"), [("ball", "green"), ("vase", "blue"), ("cone", "red")])
def test_a_surface_of_revolution_loses_nothing(scorer, kind, colour):
    made = scene(kind, colour)
    views = views_of(made.rows)
    np.testing.assert_allclose(
        CLIPFaces(scorer).scores(views, made.phrase), scorer.score(views, made.phrase), atol=1e-3
    )


def test_the_candidate_is_the_metric(scorer):
    made = scene("cat", "orange")
    views = views_of(face_gate.two_faced(made.rows))
    texts = scorer.text_features([made.phrase, *(f"{made.phrase}, {word}" for word in WORDS)])
    metric = CLIPFaces(scorer)
    value = face_gate.candidates(metric.scale)["clip_faces"](scorer.image_features(views), texts)
    assert value == pytest.approx(metric.scores(views, made.phrase).mean(), abs=1e-4)


def test_the_measured_rates_meet_the_goals_and_other_candidates_miss_one():
    measured = json.loads((weights_folder() / "gates.json").read_text())
    goals = {name.removeprefix("clip_faces_"): goal for name, goal in GOALS.items() if name.startswith("clip_faces_")}
    assert len(goals) == 7
    passed = {name for name in face_gate.candidates(1) if all(measured[f"{name}_{w}"] >= goals[w] for w in goals)}
    assert passed == {"clip_faces"}


def test_rates_count_ties_half():
    assert face_gate.auc(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == pytest.approx(3.5 / 4)
    assert face_gate.won(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 4.0])) == pytest.approx(1.5 / 3)
