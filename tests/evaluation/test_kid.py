"""evaluation.kid: the kernel distance against the sum over pairs and simulations with a known answer."""

import math

import numpy as np
import pytest

from evaluation import EvaluationError
from evaluation.jackknife import jackknife_error
from evaluation.kid import kernel_distance
from tests.support.features import correlated_objects


def test_kernel_distance_is_unbiased_for_correlated_views():
    """Sec. 5.5 no. 14: 0 within 3 standard errors at ρ = 0.9; the plain U-statistic is far off."""
    random = np.random.default_rng(6)
    excluded, plain = [], []
    for _ in range(30):
        objects = correlated_objects(random, 12, 10, 16, 0.9)
        reference = random.normal(size=(200, 16))
        excluded.append(kernel_distance(objects, reference).value)
        plain.append(kernel_distance(list(np.concatenate(objects)[:, None]), reference).value)
    error = np.std(excluded, ddof=1) / math.sqrt(30)
    assert abs(np.mean(excluded)) < 3 * error
    assert np.mean(plain) > 10 * error


def test_kernel_distance_of_one_view_per_object_is_the_plain_u_statistic():
    """Sec. 5.5 no. 14, against the explicit double sum over pairs."""
    random = np.random.default_rng(7)
    x, y = random.normal(size=(9, 1, 5)), random.normal(0.3, 1, size=(11, 5))

    def kernel(a, b):
        return (a @ b / 5 + 1) ** 3

    flat = x[:, 0]
    ours = sum(kernel(flat[i], flat[j]) for i in range(9) for j in range(9) if i != j) / (9 * 8)
    theirs = sum(kernel(y[i], y[j]) for i in range(11) for j in range(11) if i != j) / (11 * 10)
    across = sum(kernel(a, b) for a in flat for b in y) / 99
    estimate = kernel_distance(list(x), y)
    assert estimate.value == pytest.approx(1000 * (ours + theirs - 2 * across), rel=1e-10)
    without = [kernel_distance(list(np.delete(x, i, axis=0)), y).value for i in range(9)]
    assert estimate.standard_error == pytest.approx(jackknife_error(np.array(without)), rel=1e-9)


def test_objects_are_weighted_by_their_number_of_views():
    random = np.random.default_rng(8)
    objects = [random.normal(size=(views, 4)) for views in (1, 2, 5)]
    reference = random.normal(size=(6, 4))
    pairs = [(a, b) for i, p in enumerate(objects) for j, q in enumerate(objects) if i != j for a in p for b in q]
    ours = np.mean([(a @ b / 4 + 1) ** 3 for a, b in pairs])
    among = np.mean([(a @ b / 4 + 1) ** 3 for i, a in enumerate(reference) for j, b in enumerate(reference) if i != j])
    across = np.mean([(a @ b / 4 + 1) ** 3 for a in np.concatenate(objects) for b in reference])
    assert kernel_distance(objects, reference).value == pytest.approx(1000 * (ours + among - 2 * across), rel=1e-9)


def test_too_few_objects_are_refused():
    with pytest.raises(EvaluationError, match="needs 2 objects and 2 reference features, found 1 and 9"):
        kernel_distance([np.ones((4, 3))], np.ones((9, 3)))


def test_of_many_objects_500_in_even_steps_are_used():
    random = np.random.default_rng(9)
    objects, reference = list(random.normal(size=(1250, 2, 3))), random.normal(size=(20, 3))
    chosen = [objects[i] for i in range(1250) if i % 5 in (0, 2)]
    assert len(chosen) == 500
    assert kernel_distance(objects, reference) == kernel_distance(chosen, reference)
