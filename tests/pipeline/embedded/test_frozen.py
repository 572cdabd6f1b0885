"""The metric check: it is quiet where the metric is what it was, and tells a changed metric by its numbers."""

import numpy as np
import pytest

from evaluation.clip_score import ClipScorer
from pipeline.embedded import frozen

pytestmark = pytest.mark.usefixtures("packaged_weights")


def test_the_frozen_renders_are_few_and_small():
    renders = frozen.read()
    assert list(renders) == list(frozen.PHRASES)
    assert {(views.shape, views.dtype) for views in renders.values()} == {
        ((frozen.VIEWS, 64, 64, 3), np.dtype("uint8"))
    }
    assert sum(path.stat().st_size for path in frozen.folder().iterdir()) < 60_000
    assert all((views == 255).mean() > 0.3 for views in renders.values()), "on white"


def test_nothing_has_moved_since_they_were_frozen():
    assert frozen.check() == []


def test_a_change_of_preprocessing_is_told(monkeypatch):
    """One level of 255 less, as truncation instead of rounding makes of half the pixels, moves all that clip sees."""
    plain = ClipScorer.image_features
    monkeypatch.setattr(ClipScorer, "image_features", lambda self, views: plain(self, views - (views > 0)))
    moved = frozen.check()
    assert {item.name.split(" ", 1)[0] for item in moved} == {"clip", "fd"}
    for item in moved:
        assert abs(item.found - item.expected) > 2 * item.tolerance, item


def test_no_number_counts_as_moved(monkeypatch):
    measured = frozen.measure(frozen.read())
    monkeypatch.setattr(frozen, "measure", lambda renders: measured | {"fd": float("nan")})
    assert [item.name for item in frozen.check()] == ["fd"]
