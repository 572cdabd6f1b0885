"""evaluation.faces: which views are a second face, in closed form."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evaluation.clip_score import ClipScorer, clip_score
from evaluation.faces import (
    BACK_DEGREES,
    FRONT_DEGREES,
    WORDS,
    CLIPFaces,
    front_probability,
    second_faces,
    with_one_face,
)
from sctd.diffusion import guidance

COUNT = 120
TURN = np.arange(COUNT) * 360 / COUNT
APART = np.abs((TURN + 180) % 360 - 180)
ONE_FACE = np.where(APART < 50, 0.9, 0.05)
TWO_FACES = np.where((APART < 50) | (APART > 130), 0.9, 0.05)


def test_the_words_and_angles_are_those_of_view_dependent_prompts():
    assert (*WORDS, "overhead view") == guidance.VIEW_WORDS
    assert (FRONT_DEGREES, BACK_DEGREES) == (50, 130)


@pytest.mark.parametrize(
    "front",
    [
        ONE_FACE,
        np.roll(ONE_FACE, 47),
        np.full(COUNT, 1 / 3),
        np.full(COUNT, 0.5),
        np.zeros(COUNT),
        np.ones(3),
        np.ones(1),
    ],
    ids=["one face", "turned", "no opinion", "undecided", "none", "three views", "one view"],
)
def test_nothing_is_a_second_face(front):
    assert not second_faces(front).any()


@pytest.mark.parametrize("turn", [0, 31, 60, 100])
def test_a_face_on_the_back_is_a_second_face_however_the_object_is_turned(turn):
    found = second_faces(np.roll(TWO_FACES, turn))
    assert found.sum() == pytest.approx((APART > 130).sum() * 0.8), "2 · 0.9 - 1 of each view of one of the two faces"
    np.testing.assert_allclose(np.sort(found)[-1], 0.8)


def test_the_stronger_of_two_faces_is_the_front():
    front = TWO_FACES.copy()
    front[APART > 130] = 0.6
    assert second_faces(front)[COUNT // 2] == pytest.approx(0.2)
    assert second_faces(np.roll(front, COUNT // 2))[0] == pytest.approx(0.2)


def test_a_second_face_loses_its_score_and_a_negative_score_is_no_gain():
    scores = np.where(APART > 130, -5.0, 60.0)
    np.testing.assert_array_equal(with_one_face(scores, TWO_FACES), scores)
    np.testing.assert_allclose(with_one_face(np.full(COUNT, 60.0), TWO_FACES), np.where(APART > 130, 12.0, 60.0))


def test_the_probability_of_a_front_view_is_the_softmax_of_scaled_similarities():
    random = np.random.default_rng(0)
    images, words = random.normal(size=(5, 8)), random.normal(size=(3, 8))
    expected = torch.softmax(torch.from_numpy(20 * images @ words.T), dim=1)[:, 0].numpy()
    np.testing.assert_allclose(front_probability(images, words, 20.0), expected, rtol=1e-12)
    assert np.isfinite(front_probability(1000 * images, words, 100.0)).all()


class Scorer(ClipScorer):
    """Views whose first pixel says what they show: 0 front, 1 side, 2 back. All fit the prompt equally well."""

    model = SimpleNamespace(get_parameter=lambda name: {"logit_scale": torch.tensor(100.0).log()}[name])
    vectors = (0.6 * np.eye(4)[:3] + 0.8 * np.eye(4)[3]).astype(np.float32)

    def __init__(self):
        """Without a model."""

    def image_features(self, views):
        return self.vectors[views[:, 0, 0, 0]]

    def text_features(self, texts):
        return np.stack([self.vectors[WORDS.index(text.removeprefix("a cat, "))] for text in texts])

    def score(self, views, text):
        return clip_score(self.image_features(views), np.eye(4, dtype=np.float32)[3])


def views_of(shown):
    return np.broadcast_to(np.asarray(shown, np.uint8)[:, None, None, None], (len(shown), 2, 2, 3))


def test_a_two_faced_object_scores_less_than_its_clip_score():
    metric = CLIPFaces(Scorer())
    words = np.digitize(APART, [50, 130])
    np.testing.assert_allclose(metric.scores(views_of(words), "a cat"), 80, rtol=1e-6)
    janus = np.where(words == 2, 0, words)
    np.testing.assert_allclose(
        metric.scores(views_of(janus), "a cat"), np.where(words == 2, 0, 80), rtol=1e-6, atol=1e-4
    )
    metric.update(views_of(janus), "a cat")
    assert float(metric.compute()) == pytest.approx(80 * (words != 2).mean())
    for same in range(1, 3):
        np.testing.assert_allclose(metric.scores(views_of(np.full(24, same)), "a cat"), 80, rtol=1e-6)
