"""Distances against closed forms, scipy, torchmetrics, and simulations whose answer is known."""

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid

from evaluation import EvaluationError
from evaluation.fid import (
    Gaussian,
    Moments,
    frechet,
    frechet_difference,
    frechet_distance,
    jackknife_error,
    kernel_difference,
    kernel_distance,
)


def cloud(random, count, dim, shift=0.0, skew=0.0):
    """Correlated features with a mean: as unlike the standard normal as real features are."""
    mix = np.linalg.qr(random.normal(size=(dim, dim)))[0] * np.geomspace(1, 0.05, dim) * (1 + skew)
    return random.normal(size=(count, dim)) @ mix + shift + random.normal(size=dim)


@pytest.mark.parametrize("dim", [64, 256])
def test_frechet_distance_is_scipys_and_torchmetrics(dim):
    """Sec. 5.5 no. 8: the textbook formula with scipy's matrix root, and torchmetrics' with complex eigenvalues."""
    random = np.random.default_rng(dim)
    a, b = cloud(random, 3 * dim, dim), cloud(random, 4 * dim, dim, shift=0.3, skew=0.2)
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    difference = a.mean(0) - b.mean(0)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    textbook = difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    mean_cov = [torch.tensor(x) for x in (a.mean(0), covariances[0], b.mean(0), covariances[1])]
    ours = frechet_distance(Moments.of(a), Moments.of(b))
    assert ours == pytest.approx(textbook, rel=1e-9)
    assert ours == pytest.approx(float(_compute_fid(*mean_cov)), rel=1e-9)
    assert ours == pytest.approx(frechet_distance(Moments.of(b), Moments.of(a)), rel=1e-9)


@pytest.mark.parametrize("dim", [64, 512])
def test_frechet_distance_is_torch_fidelitys(dim):
    """Sec. 5.5 no. 8: numpy's complex eigenvalues of the plain product."""
    random = np.random.default_rng(dim + 1)
    a, b = cloud(random, 2 * dim, dim), cloud(random, 3 * dim, dim, shift=0.2, skew=0.1)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(torch.tensor(x)) for x in (a, b)), verbose=False)
    ours = frechet_distance(Moments.of(a), Moments.of(b))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


@pytest.mark.parametrize(
    ("module", "function"),
    [("pytorch_fid.fid_score", "calculate_frechet_distance"), ("cleanfid.fid", "frechet_distance")],
)
def test_frechet_distance_is_pytorch_fids_and_clean_fids(module, function):
    """Sec. 5.5 no. 8, where they are installed: both call scipy's matrix root in a way that scipy 1.18 took away."""
    if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18):
        pytest.skip("pytorch-fid 0.3.0 and clean-fid 0.1.35 need scipy < 1.18")
    theirs = getattr(pytest.importorskip(module, reason=f"needs {module}, which is no dependency"), function)
    random = np.random.default_rng(13)
    a, b = cloud(random, 300, 64), cloud(random, 400, 64, shift=0.2, skew=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-9)


def test_fewer_features_than_dimensions():
    """Sec. 5.5 no. 9: singular covariances need no eps; numpy's eigenvalues of the plain product agree to 1e-6."""
    random = np.random.default_rng(1)
    a, b = cloud(random, 60, 128), cloud(random, 90, 128, shift=0.1)
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    shift = np.sum((a.mean(0) - b.mean(0)) ** 2)
    expected = shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6)


def test_a_hundred_views_in_inceptions_2048_dimensions():
    """Sec. 5.5 no. 9 at full width: tr (C R)^½ is the sum of singular values of the centred sets' product; 1e-6."""
    random = np.random.default_rng(14)
    scale = np.geomspace(1, 0.01, 2048)
    a, b = random.normal(size=(120, 2048)) * scale, random.normal(0.05, 1.1, size=(150, 2048)) * scale
    centred = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b)]
    roots = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + sum(np.sum(x**2) for x in centred) - 2 * roots
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("count", "tolerance"), [(400, 1e-9), (30, 1e-6)])
def test_a_set_has_no_distance_from_itself(count, tolerance):
    """Sec. 5.5 no. 10: relative to the trace, more loosely where the covariance is singular."""
    moments = Moments.of(cloud(np.random.default_rng(2), count, 64, shift=3.0))
    assert abs(frechet_distance(moments, moments)) < tolerance * np.trace(moments.covariance)


def test_commuting_covariances_have_a_closed_form():
    """Sec. 5.5 no. 11: |Δμ|² + Σ (√a - √b)² in a common basis; exact moments instead of samples."""
    random = np.random.default_rng(3)
    basis, a, b = np.linalg.qr(random.normal(size=(32, 32)))[0], random.uniform(0.1, 4, 32), random.uniform(0.1, 4, 32)
    mean_a, mean_b = random.normal(size=(2, 32))

    def exact(mean, values, count=1000):
        covariance = (basis * values) @ basis.T
        return Moments(count, count * mean, (count - 1) * covariance + count * np.outer(mean, mean))

    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert frechet_distance(exact(mean_a, a), exact(mean_b, b)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("actors", [1, 3, 40])
def test_moments_add_in_any_order_and_any_split(actors):
    """Sec. 5.5 no. 13; in one order the sums are the same to the last bit."""
    random = np.random.default_rng(4)
    features = cloud(random, 200, 16, shift=1.0)
    parts = [Moments.of(part) for part in np.array_split(features, actors)]
    whole = Moments.of(features)
    for order in (range(actors), random.permutation(actors)):
        merged = sum((parts[i] for i in order[1:]), start=parts[order[0]])
        assert merged.count == 200
        np.testing.assert_allclose(merged.total, whole.total, rtol=1e-12)
        np.testing.assert_allclose(merged.outer, whole.outer, rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(merged.covariance, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-12)
    again = sum(parts[1:], start=parts[0])
    assert np.array_equal(again.outer, sum(parts[1:], start=parts[0]).outer)
    np.testing.assert_allclose((whole - parts[0]).outer, Moments.of(features[parts[0].count :]).outer, atol=1e-10)


def test_float32_features_are_summed_in_float64():
    features = (1000 + np.random.default_rng(5).normal(size=(500, 4))).astype(np.float32)
    np.testing.assert_allclose(Moments.of(features).covariance, np.cov(features.astype(float), rowvar=False), rtol=1e-6)


def objects_of(random, objects, views, dim, correlation):
    """Standard normal features whose views of one object are correlated: a perfect model of the standard normal."""
    shared = random.normal(size=(objects, 1, dim))
    own = random.normal(size=(objects, views, dim))
    return list(math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own)


def test_cluster_excluded_kernel_distance_is_unbiased_and_the_plain_one_is_not():
    """Sec. 5.5 no. 14: 0 within 3 standard errors at ρ = 0.9, where the plain U-statistic is far off."""
    random = np.random.default_rng(6)
    excluded, plain = [], []
    for _ in range(30):
        objects = objects_of(random, 12, 10, 16, 0.9)
        reference = random.normal(size=(200, 16))
        excluded.append(kernel_distance(objects, reference).value)
        plain.append(kernel_distance(list(np.concatenate(objects)[:, None]), reference).value)
    error = np.std(excluded, ddof=1) / math.sqrt(30)
    assert abs(np.mean(excluded)) < 3 * error
    assert np.mean(plain) > 10 * error


def test_with_one_view_an_object_the_kernel_distance_is_the_plain_u_statistic():
    """Sec. 5.5 no. 14, against the double sum over pairs written out."""
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


def test_objects_of_different_numbers_of_views_count_by_their_views():
    random = np.random.default_rng(8)
    objects = [random.normal(size=(views, 4)) for views in (1, 2, 5)]
    reference = random.normal(size=(6, 4))
    pairs = [(a, b) for i, p in enumerate(objects) for j, q in enumerate(objects) if i != j for a in p for b in q]
    ours = np.mean([(a @ b / 4 + 1) ** 3 for a, b in pairs])
    among = np.mean([(a @ b / 4 + 1) ** 3 for i, a in enumerate(reference) for j, b in enumerate(reference) if i != j])
    across = np.mean([(a @ b / 4 + 1) ** 3 for a in np.concatenate(objects) for b in reference])
    assert kernel_distance(objects, reference).value == pytest.approx(1000 * (ours + among - 2 * across), rel=1e-9)


@pytest.mark.parametrize(("shift", "lowest", "highest"), [(0.5, 0.7, 1.3), (0.0, 1.0, 1.7)])
def test_the_jackknife_finds_the_sampling_deviation(shift, lowest, highest):
    """Sec. 5.5 no. 15: within 30 % of the deviation over 100 samples; cautious where the distance is bias alone."""
    random = np.random.default_rng(9)
    mean = np.full(8, shift)
    reference = Moments(10_000, 10_000 * mean, 9_999 * np.eye(8) + 10_000 * np.outer(mean, mean))
    estimates = [frechet(objects_of(random, 40, 6, 8, 0.8), reference) for _ in range(100)]
    deviation = np.std([estimate.value for estimate in estimates], ddof=1)
    assert lowest < np.mean([estimate.standard_error for estimate in estimates]) / deviation < highest


def test_views_as_units_make_the_error_far_too_small():
    random = np.random.default_rng(12)
    reference = Moments(10_000, np.full(8, 5_000.0), 9_999 * np.eye(8) + 2_500)
    objects = objects_of(random, 40, 12, 8, 0.9)
    right, wrong = (
        frechet(units, reference).standard_error for units in (objects, list(np.concatenate(objects)[:, None]))
    )
    assert wrong < 0.4 * right


def test_downdates_are_the_distances_without_each_object():
    random = np.random.default_rng(10)
    objects, reference = objects_of(random, 6, 9, 7, 0.5), Moments.of(random.normal(size=(300, 7)))
    without = [
        frechet_distance(Moments.of(np.concatenate(objects[:i] + objects[i + 1 :])), reference) for i in range(6)
    ]
    estimate = frechet(objects, reference)
    assert estimate.value == pytest.approx(frechet_distance(Moments.of(np.concatenate(objects)), reference), rel=1e-10)
    assert estimate.standard_error == pytest.approx(jackknife_error(np.array(without)), rel=1e-8)


def test_fewer_views_than_dimensions_are_measured_in_their_own_span():
    """As by the covariances, which are singular then: 1e-6."""
    random = np.random.default_rng(15)
    objects, reference = objects_of(random, 4, 6, 40, 0.5), Moments.of(random.normal(0.2, 1, size=(300, 40)))
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


def test_too_few_features_are_refused():
    with pytest.raises(EvaluationError, match="at least 2 features, found 1: render more views"):
        Gaussian(Moments.of(np.ones((1, 3))))
    with pytest.raises(EvaluationError, match="needs 2 objects and 2 reference features, found 1 and 9"):
        kernel_distance([np.ones((4, 3))], np.ones((9, 3)))


def paired_worlds(random, shift=0.0, prompts=12, views=20, dim=8):
    """Two runs of the same prompts: each prompt has a place of its own, and the second run lies `shift` from it."""
    places = random.normal(0, 1.0, (prompts, 1, dim))

    def run(by):
        assets = places + by + random.normal(0, 0.3, (prompts, 1, dim))
        return list(assets + random.normal(0, 0.5, (prompts, views, dim)))

    return run(shift), run(0.0)


@pytest.mark.parametrize(
    ("distance", "difference"), [(frechet, frechet_difference), (kernel_distance, kernel_difference)]
)
@pytest.mark.parametrize("dim", [8, 400])
def test_a_difference_of_distances_is_theirs_and_0_of_equal_runs(distance, difference, dim):
    """With more views than dimensions, and with fewer."""
    random = np.random.default_rng(20)
    ours, theirs = paired_worlds(random, 0.4, dim=dim)
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
    assert difference(ours[:2], theirs[:2], reference).value != 0, "of two objects, one left out may leave too little"
    with pytest.raises(EvaluationError, match="the same prompts on both sides, found 12 and 11: keep"):
        difference(ours, theirs[1:], reference)


def test_the_jackknife_of_a_difference_finds_its_deviation_which_is_smaller_than_of_two_distances():
    random = np.random.default_rng(21)
    reference = Moments.of(random.normal(0.5, 1.2, (4000, 4)))
    runs = [paired_worlds(random, prompts=40, dim=4) for _ in range(150)]
    found = [frechet_difference(*run, reference) for run in runs]
    deviation = np.std([estimate.value for estimate in found])
    errors = np.array([estimate.standard_error for estimate in found])
    assert 0.7 < np.sqrt(np.mean(errors**2)) / deviation < 1.4
    alone = np.sqrt(np.mean([frechet(ours, reference).standard_error ** 2 for ours, _ in runs]))
    assert np.sqrt(np.mean(errors**2)) < 0.8 * math.sqrt(2) * alone
