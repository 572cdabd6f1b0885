"""evaluation.jackknife: standard errors of FID and of paired differences, against recomputation and simulations."""

import math

import numpy as np
import pytest

from evaluation import EvaluationError
from evaluation.fid import Moments, frechet_distance
from evaluation.jackknife import frechet, frechet_difference, jackknife_error
from evaluation.kid import kernel_difference, kernel_distance
from tests.support.features import correlated_objects, paired_runs


@pytest.mark.parametrize(("shift", "lowest", "highest"), [(0.5, 0.7, 1.3), (0.0, 1.0, 1.7)])
def test_jackknife_error_matches_the_sampling_deviation(shift, lowest, highest):
    """Sec. 5.5 no. 15: within 30 % of the deviation over 100 samples; larger if the distance is all bias."""
    random = np.random.default_rng(9)
    mean = np.full(8, shift)
    reference = Moments(10_000, 10_000 * mean, 9_999 * np.eye(8) + 10_000 * np.outer(mean, mean))
    estimates = [frechet(correlated_objects(random, 40, 6, 8, 0.8), reference) for _ in range(100)]
    deviation = np.std([estimate.value for estimate in estimates], ddof=1)
    assert lowest < np.mean([estimate.standard_error for estimate in estimates]) / deviation < highest


def test_jackknife_over_views_underestimates_the_error():
    random = np.random.default_rng(12)
    reference = Moments(10_000, np.full(8, 5_000.0), 9_999 * np.eye(8) + 2_500)
    objects = correlated_objects(random, 40, 12, 8, 0.9)
    right, wrong = (
        frechet(units, reference).standard_error for units in (objects, list(np.concatenate(objects)[:, None]))
    )
    assert wrong < 0.4 * right


def test_jackknife_uses_the_distances_without_each_object():
    random = np.random.default_rng(10)
    objects, reference = correlated_objects(random, 6, 9, 7, 0.5), Moments.of(random.normal(size=(300, 7)))
    without = [
        frechet_distance(Moments.of(np.concatenate(objects[:i] + objects[i + 1 :])), reference) for i in range(6)
    ]
    estimate = frechet(objects, reference)
    assert estimate.value == pytest.approx(frechet_distance(Moments.of(np.concatenate(objects)), reference), rel=1e-10)
    assert estimate.standard_error == pytest.approx(jackknife_error(np.array(without)), rel=1e-8)


def test_of_many_objects_a_hundred_groups_are_left_out():
    random = np.random.default_rng(16)
    objects, reference = correlated_objects(random, 700, 2, 3, 0.5), Moments.of(random.normal(size=(300, 3)))
    views = np.array(objects)
    without = [
        frechet_distance(Moments.of(np.concatenate(np.delete(views, range(7 * i, 7 * i + 7), axis=0))), reference)
        for i in range(100)
    ]
    estimate = frechet(objects, reference)
    assert estimate.value == pytest.approx(frechet_distance(Moments.of(np.concatenate(objects)), reference), rel=1e-10)
    assert estimate.standard_error == pytest.approx(jackknife_error(np.array(without)), rel=1e-8)
    alone = jackknife_error(
        np.array(
            [frechet_distance(Moments.of(np.concatenate(np.delete(views, i, axis=0))), reference) for i in range(700)]
        )
    )
    assert estimate.standard_error == pytest.approx(alone, rel=0.25)  # 100 groups know an error to 1/√200


def test_a_paired_difference_of_many_objects_cancels_what_both_share():
    random = np.random.default_rng(17)
    ours, reference = correlated_objects(random, 600, 2, 3, 0.5), Moments.of(random.normal(size=(300, 3)))
    assert frechet_difference(ours, ours, reference) == (0, 0)


def test_jackknife_of_fewer_views_than_dimensions():
    """Agrees to 1e-6 with the distance from the covariances, which are singular here."""
    random = np.random.default_rng(15)
    objects, reference = correlated_objects(random, 4, 6, 40, 0.5), Moments.of(random.normal(0.2, 1, size=(300, 40)))
    without = [
        frechet_distance(Moments.of(np.concatenate(objects[:i] + objects[i + 1 :])), reference) for i in range(4)
    ]
    estimate = frechet(objects, reference)
    assert estimate.value == pytest.approx(frechet_distance(Moments.of(np.concatenate(objects)), reference), rel=1e-6)
    assert estimate.standard_error == pytest.approx(jackknife_error(np.array(without)), rel=1e-5)


def test_one_object_has_a_distance_but_no_error():
    random = np.random.default_rng(11)
    estimate = frechet([random.normal(size=(20, 4))], Moments.of(random.normal(size=(50, 4))))
    assert estimate.value > 0
    assert estimate.standard_error is None
    assert frechet(list(random.normal(size=(2, 1, 4))), Moments.of(random.normal(size=(50, 4)))).standard_error is None


@pytest.mark.parametrize(
    ("distance", "difference"), [(frechet, frechet_difference), (kernel_distance, kernel_difference)]
)
@pytest.mark.parametrize("dim", [8, 400])
def test_paired_difference_equals_the_difference_of_distances(distance, difference, dim):
    """With more and with fewer views than dimensions; equal runs differ by 0."""
    random = np.random.default_rng(20)
    ours, theirs = paired_runs(random, 0.4, dim=dim)
    features = random.normal(0, 1.2, (600, dim))
    reference = Moments.of(features) if distance is frechet else features
    found = difference(ours, theirs, reference)
    assert found.value == pytest.approx(distance(ours, reference).value - distance(theirs, reference).value)
    leaving = [
        distance(ours[:i] + ours[i + 1 :], reference).value - distance(theirs[:i] + theirs[i + 1 :], reference).value
        for i in range(len(ours))
    ]
    assert found.standard_error == pytest.approx(jackknife_error(np.array(leaving)))
    assert difference(ours, ours, reference) == (0.0, 0.0)
    assert difference(ours[:2], theirs[:2], reference).value != 0, "no error is needed for a difference of two objects"
    with pytest.raises(EvaluationError, match="the same prompts on both sides, found 12 and 11: keep"):
        difference(ours, theirs[1:], reference)


def test_jackknife_error_of_a_difference_is_smaller_than_that_of_two_distances():
    random = np.random.default_rng(21)
    reference = Moments.of(random.normal(0.5, 1.2, (4000, 4)))
    runs = [paired_runs(random, prompts=40, dim=4) for _ in range(150)]
    found = [frechet_difference(*run, reference) for run in runs]
    deviation = np.std([estimate.value for estimate in found])
    errors = np.array([estimate.standard_error for estimate in found])
    assert 0.7 < np.sqrt(np.mean(errors**2)) / deviation < 1.4
    alone = np.sqrt(np.mean([frechet(ours, reference).standard_error ** 2 for ours, _ in runs]))
    assert np.sqrt(np.mean(errors**2)) < 0.8 * math.sqrt(2) * alone
