import numpy as np
import pytest

from pipeline.embedded import weights_folder, world
from pipeline.embedded.raytrace import render
from pipeline.work import fronts

ANGLES = np.arange(fronts.NUM_VIEWS) * 360 / fronts.NUM_VIEWS


def similarities(front, strength=1.0, noise=0.0):
    """Views that are most like the words of the side that they show."""
    off = np.cos(np.radians(ANGLES - front))
    wanted = np.stack([off.clip(0), 1 - np.abs(off), (-off).clip(0)], axis=1)
    return strength * wanted + noise * np.random.default_rng(1).normal(size=wanted.shape)


@pytest.mark.parametrize("front", [0, 15, 120, 345])
def test_the_front_is_where_the_words_say(front):
    found = fronts.find(similarities(front))
    assert (found.azimuth_degrees, found.certainty) == (front, 1.0)


def test_a_bias_of_a_word_does_not_matter():
    assert fronts.find(similarities(90) + np.array([0.3, -0.1, 0.2])).azimuth_degrees == 90


def test_of_noise_the_front_is_uncertain():
    assert fronts.find(similarities(0, 0, 1)).certainty < fronts.MIN_CERTAINTY


def test_a_turned_object_has_a_turned_front():
    seen = similarities(0, 0.2, 0.05)
    turned = fronts.find(np.roll(seen, 6, axis=0))
    assert turned.azimuth_degrees == (fronts.find(seen).azimuth_degrees + 90) % 360


def test_the_bundled_scorer_finds_the_front_of_the_worlds_objects(bundled_weights):
    from evaluation.clip_score import ClipScorer

    scorer, random = ClipScorer.load(weights_folder() / "scorer"), np.random.default_rng(2)
    names = ("car", "duck", "robot head", "penguin")
    scenes = [world.single(random, name, world.REGISTRY[name].colors[0]) for name in names]
    cameras = world.orbit_cameras(np.tile(ANGLES - 90, len(names)), 0.0)
    views = render(*world.table(scenes), np.repeat(np.arange(len(names)), len(ANGLES)), cameras.table)
    for scene, seen in zip(scenes, views.permute(0, 2, 3, 1).numpy().reshape(len(names), -1, 64, 64, 3), strict=True):
        texts = scorer.text_features(fronts.captions(scene.phrase))
        found = fronts.find(scorer.image_features(np.ascontiguousarray(seen)) @ texts.T)
        assert found.azimuth_degrees == pytest.approx(90, abs=15)
        assert found.certainty >= fronts.MIN_CERTAINTY
