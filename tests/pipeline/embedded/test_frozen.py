"""The metric check reports nothing for an unchanged metric, and the changed scores for a changed one."""

import numpy as np
import pytest

from evaluation.clip_score import ClipScorer
from pipeline.embedded import frozen

pytestmark = pytest.mark.usefixtures("bundled_weights")


def test_the_frozen_renders_are_few_and_small():
    renders = frozen.read()
    assert list(renders) == list(frozen.PHRASES)
    assert {(views.shape, views.dtype) for views in renders.values()} == {
        ((frozen.VIEWS, 64, 64, 3), np.dtype("uint8"))
    }
    assert sum(path.stat().st_size for path in frozen.folder().iterdir()) < 60_000
    assert all((views == 255).mean() > 0.3 for views in renders.values()), "on white"


def test_the_scores_equal_the_golden_values():
    assert frozen.check() == []


def test_a_change_of_preprocessing_is_reported(monkeypatch):
    """One level of 255 less, as truncation instead of rounding gives for half the pixels, changes every CLIP score."""
    plain = ClipScorer.image_features
    monkeypatch.setattr(ClipScorer, "image_features", lambda self, views: plain(self, views - (views > 0)))
    deviations = frozen.check()
    assert {item.name.split(" ", 1)[0] for item in deviations} == {"clip", "fd"}
    for item in deviations:
        assert abs(item.found - item.expected) > 2 * item.tolerance, item


def test_nan_is_reported(monkeypatch):
    measured = frozen.measure(frozen.read())
    monkeypatch.setattr(frozen, "measure", lambda renders: measured | {"fd": float("nan")})
    assert [item.name for item in frozen.check()] == ["fd"]
