"""One object's evaluation there and back, and its summary."""

import dataclasses

import numpy as np
import pytest

from evaluation import EvaluationError
from evaluation.object_eval import ObjectEval, from_bytes, to_bytes


@pytest.fixture
def evaluation():
    random = np.random.default_rng(0)
    return ObjectEval(
        clip=random.normal(28, 2, 120).astype(np.float32),
        clip_rprec=(random.random(120) < 0.7).astype(float),
        ir=random.normal(0, 1, 120).astype(np.float32),
        features=random.normal(size=(120, 12)).astype(np.float32),
        text_feature=random.normal(size=12).astype(np.float32),
        views_sha256="ab" * 32,
        judges="embedded",
    )


def test_there_and_back(evaluation):
    data = to_bytes(evaluation)
    other = from_bytes(data)
    for field in dataclasses.fields(ObjectEval):
        assert np.array_equal(getattr(other, field.name), getattr(evaluation, field.name))
    assert isinstance(other.judges, str)
    assert to_bytes(other) == data


def test_the_summary_is_over_views(evaluation):
    summary = evaluation.summary()
    assert summary["clip"] == pytest.approx(evaluation.clip.mean(), rel=1e-6)
    assert summary["clip_rprec"] == pytest.approx(evaluation.clip_rprec.mean())
    assert summary["ir_p10"] == pytest.approx(np.sort(evaluation.ir)[11:13].mean(), abs=0.1)
    assert set(summary) == {"clip", "clip_rprec", "ir", "clip_p10", "ir_p10"}


def test_other_bytes_are_refused(evaluation):
    for data in (b"", b"no archive", to_bytes(evaluation)[:200]):
        with pytest.raises(EvaluationError, match="not an object's evaluation"):
            from_bytes(data)
