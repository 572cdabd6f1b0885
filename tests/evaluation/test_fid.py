"""evaluation.fid: the Fréchet distance against closed forms, scipy, torchmetrics and torch-fidelity."""

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid

from evaluation import EvaluationError
from evaluation.fid import Moments, ReferenceGaussian, frechet_distance


def correlated_features(random, count, dim, shift=0.0, skew=0.0):
    """Correlated features with a mean, as different from the standard normal as real features are."""
    mix = np.linalg.qr(random.normal(size=(dim, dim)))[0] * np.geomspace(1, 0.05, dim) * (1 + skew)
    return random.normal(size=(count, dim)) @ mix + shift + random.normal(size=dim)


@pytest.mark.parametrize("dim", [64, 256])
def test_frechet_distance_matches_scipy_and_torchmetrics(dim):
    """Sec. 5.5 no. 8: the textbook formula with scipy's matrix root, and torchmetrics' with complex eigenvalues."""
    random = np.random.default_rng(dim)
    a, b = correlated_features(random, 3 * dim, dim), correlated_features(random, 4 * dim, dim, shift=0.3, skew=0.2)
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
def test_frechet_distance_matches_torch_fidelity(dim):
    """Sec. 5.5 no. 8: numpy's complex eigenvalues of the plain product."""
    random = np.random.default_rng(dim + 1)
    a, b = correlated_features(random, 2 * dim, dim), correlated_features(random, 3 * dim, dim, shift=0.2, skew=0.1)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(torch.tensor(x)) for x in (a, b)), verbose=False)
    ours = frechet_distance(Moments.of(a), Moments.of(b))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)


@pytest.mark.parametrize(
    ("module", "function"),
    [("pytorch_fid.fid_score", "calculate_frechet_distance"), ("cleanfid.fid", "frechet_distance")],
)
def test_frechet_distance_matches_pytorch_fid_and_clean_fid(module, function):
    """Sec. 5.5 no. 8, if they are installed: both call scipy's matrix root in a way that scipy 1.18 removed."""
    if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 18):
        pytest.skip("pytorch-fid 0.3.0 and clean-fid 0.1.35 need scipy < 1.18")
    theirs = getattr(pytest.importorskip(module, reason=f"needs {module}, which is not a dependency"), function)
    random = np.random.default_rng(13)
    a, b = correlated_features(random, 300, 64), correlated_features(random, 400, 64, shift=0.2, skew=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_fewer_features_than_dimensions():
    """Sec. 5.5 no. 9: singular covariances need no eps; numpy's eigenvalues of the plain product agree to 1e-6."""
    random = np.random.default_rng(1)
    a, b = correlated_features(random, 60, 128), correlated_features(random, 90, 128, shift=0.1)
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    shift = np.sum((a.mean(0) - b.mean(0)) ** 2)
    expected = shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_120_views_in_2048_dimensions():
    """Sec. 5.5 no. 9 at Inception's width: tr (C R)^½ is the sum of singular values of the centred product; 1e-6."""
    random = np.random.default_rng(14)
    scale = np.geomspace(1, 0.01, 2048)
    a, b = random.normal(size=(120, 2048)) * scale, random.normal(0.05, 1.1, size=(150, 2048)) * scale
    centred = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b)]
    roots = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + sum(np.sum(x**2) for x in centred) - 2 * roots
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("count", "tolerance"), [(400, 1e-9), (30, 1e-6)])
def test_frechet_distance_of_a_set_to_itself_is_zero(count, tolerance):
    """Sec. 5.5 no. 10: relative to the trace, with a looser tolerance if the covariance is singular."""
    moments = Moments.of(correlated_features(np.random.default_rng(2), count, 64, shift=3.0))
    assert abs(frechet_distance(moments, moments)) < tolerance * np.trace(moments.covariance)


def test_frechet_distance_of_commuting_covariances_is_the_closed_form():
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
    """Sec. 5.5 no. 13. In a fixed order the sums are bit-identical."""
    random = np.random.default_rng(4)
    features = correlated_features(random, 200, 16, shift=1.0)
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


def test_covariance_of_one_feature_is_refused():
    with pytest.raises(EvaluationError, match="at least 2 features, found 1: render more views"):
        ReferenceGaussian(Moments.of(np.ones((1, 3))))


@pytest.mark.parametrize("count", [20, 300])
def test_a_distance_is_not_negative(count):
    """That of a set to itself is 0 up to rounding, which may have either sign; both formulas are tried."""
    features = np.random.default_rng(count).normal(100, 10, (count, 64))
    reference = ReferenceGaussian(Moments.of(features))
    for distance in (reference.frechet_distance(Moments.of(features)), reference.distance_of_few(features)):
        assert 0 <= distance < 1e-3
