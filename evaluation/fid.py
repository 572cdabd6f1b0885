"""Distances between sets of features: Fréchet (Heusel et al. 2017, Eq. 6) and kernel (Bińkowski et al. 2018, Sec. 2.2).

Both are summed in float64 from states that add. The views of one object are not independent samples, so the unit of
every standard error is the object, and the kernel distance leaves out pairs of views of one object: with 40 objects of
120 views, correlated at 0.9, an identical model has a plain KID of 49e-3 and a Fréchet distance of 41, not 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from evaluation import EvaluationError


@dataclass(frozen=True)
class Moments:
    """How many features, their sum and the sum of their outer products. `a + b` describes both sets."""

    count: int
    total: Float64[np.ndarray, " dim"]
    outer: Float64[np.ndarray, "dim dim"]

    @staticmethod
    def of(features: Float[np.ndarray, "count dim"]) -> Moments:
        x = features.astype(np.float64)
        return Moments(len(x), x.sum(0), x.T @ x)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def __sub__(self, other: Moments) -> Moments:
        """The set without `other`, which must be a part of it."""
        return Moments(self.count - other.count, self.total - other.total, self.outer - other.outer)

    @property
    def mean(self) -> Float64[np.ndarray, " dim"]:
        return self.total / self.count

    @property
    def covariance(self) -> Float64[np.ndarray, "dim dim"]:
        """Unbiased (n - 1). Raises EvaluationError below two features."""
        if self.count < 2:
            raise EvaluationError(f"a covariance needs at least 2 features, found {self.count}: render more views")
        return (self.outer - np.outer(self.total, self.mean)) / (self.count - 1)


class Estimate(NamedTuple):
    """A distance and its standard error over objects (None where too little is left without one of them)."""

    value: float
    standard_error: float | None


class Gaussian:
    """The reference's mean, covariance and the covariance's root, which every comparison with it shares."""

    def __init__(self, moments: Moments) -> None:
        self.mean, self.covariance = moments.mean, moments.covariance

    @cached_property
    def root(self) -> Float64[np.ndarray, "dim dim"]:
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    def frechet_distance(self, moments: Moments) -> float:
        """|μ - m|² + tr(C + R - 2 (R^½ C R^½)^½): the symmetric form, whose eigenvalues are real and not negative."""
        covariance = moments.covariance
        product = self.root @ covariance @ self.root
        roots = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0))
        shift = np.sum((moments.mean - self.mean) ** 2)
        return float(shift + np.trace(covariance) + np.trace(self.covariance) - 2 * roots.sum())

    def distance_of_few(self, features: Float[np.ndarray, "count dim"]) -> float:
        """The same of fewer features than dimensions, in a moment: C R has the eigenvalues of X R Xᵀ / (n - 1)."""
        x, degrees = features.astype(np.float64), len(features) - 1
        centred = x - x.mean(0)
        roots = np.sqrt(np.maximum(np.linalg.eigvalsh(centred @ self.covariance @ centred.T / degrees), 0))
        shift, trace = np.sum((x.mean(0) - self.mean) ** 2), np.sum(centred**2) / degrees
        return float(shift + trace + np.trace(self.covariance) - 2 * roots.sum())


def frechet_distance(moments: Moments, reference: Moments) -> float:
    """Squared Fréchet distance of two Gaussians with these moments; no eps is added to either."""
    return Gaussian(reference).frechet_distance(moments)


def frechet(objects: Sequence[Float[np.ndarray, "_ dim"]], reference: Moments) -> Estimate:
    """The distance of all views from the reference, with the delete-one-object jackknife's standard error.

    The jackknife finds the sampling deviation (up to 1.4 times it where the distance is bias alone); an object
    bootstrap doubles it and views as units make it 6 times too small. The distance itself is biased upwards by how few
    the objects are: compare runs over the same prompts only.
    """
    distance, without = _frechet_distances(objects, Gaussian(reference))
    return Estimate(distance, jackknife_error(np.array(without)) if without else None)


def frechet_difference(
    ours: Sequence[Float[np.ndarray, "_ dim"]], theirs: Sequence[Float[np.ndarray, "_ dim"]], reference: Moments
) -> Estimate:
    """Our distance minus theirs. The jackknife leaves a prompt out on both sides, so what prompts share cancels.

    The objects are those of the same prompts in the same order. Raises EvaluationError for other numbers of them.
    """
    _check_pairs(ours, theirs)
    gaussian = Gaussian(reference)
    (a, a_without), (b, b_without) = (_frechet_distances(objects, gaussian) for objects in (ours, theirs))
    difference = np.array(a_without) - np.array(b_without)
    return Estimate(a - b, jackknife_error(difference) if a_without and b_without else None)


def _frechet_distances(objects: Sequence[Float[np.ndarray, "_ dim"]], gaussian: Gaussian) -> tuple[float, list[float]]:
    """The distance of all views, and that without each object in turn (none where too little would be left)."""
    count = sum(map(len, objects))
    has_error = len(objects) > 1 and count - max(map(len, objects)) > 1
    numbers = range(len(objects)) if has_error else []
    if 1 < count < len(gaussian.mean):
        distance = gaussian.distance_of_few(np.concatenate(objects))
        without = [gaussian.distance_of_few(np.concatenate([*objects[:i], *objects[i + 1 :]])) for i in numbers]
    else:
        whole = reduce(add, map(Moments.of, objects))
        distance = gaussian.frechet_distance(whole)
        # An object's moments are made again, not kept: of 415 objects in 2048 dimensions they take 14 GB.
        without = [gaussian.frechet_distance(whole - Moments.of(objects[i])) for i in numbers]
    return distance, without


def kernel_distance(
    objects: Sequence[Float[np.ndarray, "_ dim"]], reference: Float[np.ndarray, "count dim"]
) -> Estimate:
    """1000 × the unbiased squared MMD of the cubic kernel, without pairs of views of one object; jackknife error.

    With one view per object this is the plain U-statistic. Unlike it, it is 0 on average for a perfect model, however
    alike the views of one object are. Raises EvaluationError below two objects or two reference features.
    """
    distances = _kernel_distances(objects, reference)
    return Estimate(float(distances[0]), jackknife_error(distances[1:]) if len(objects) > 2 else None)


def kernel_difference(
    ours: Sequence[Float[np.ndarray, "_ dim"]],
    theirs: Sequence[Float[np.ndarray, "_ dim"]],
    reference: Float[np.ndarray, "count dim"],
) -> Estimate:
    """As `frechet_difference`, of the kernel distance."""
    _check_pairs(ours, theirs)
    a, b = (_kernel_distances(objects, reference) for objects in (ours, theirs))
    return Estimate(float(a[0] - b[0]), jackknife_error(a[1:] - b[1:]) if len(ours) > 2 else None)


def _check_pairs(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> None:
    if len(ours) != len(theirs):
        raise EvaluationError(
            f"a paired difference needs the same prompts on both sides, found {len(ours)} and {len(theirs)}: keep the "
            "prompts that both runs finished"
        )


def _kernel_distances(
    objects: Sequence[Float[np.ndarray, "_ dim"]], reference: Float[np.ndarray, "count dim"]
) -> Float64[np.ndarray, " one_more"]:
    """1000 × the distance: first of all objects, then without each in turn."""
    if len(objects) < 2 or len(reference) < 2:
        raise EvaluationError(
            f"a kernel distance needs 2 objects and 2 reference features, found {len(objects)} and {len(reference)}"
        )
    blocks, reference = [features.astype(np.float64) for features in objects], reference.astype(np.float64)
    everything, views = np.concatenate(blocks), np.array([float(len(block)) for block in blocks])
    starts = (np.cumsum(views) - views).astype(int)
    within = np.array([np.add.reduceat(kernel(block, everything).sum(0), starts) for block in blocks])
    np.fill_diagonal(within, 0)
    across = np.array([kernel(block, reference).sum() for block in blocks])
    diagonal = np.sum((np.sum(reference**2, axis=1) / reference.shape[1] + 1) ** 3)
    rows = np.split(reference, range(1024, len(reference), 1024))  # so that 50,000 of them fit
    among = math.fsum(kernel(part, reference).sum() for part in rows) - diagonal

    def leaving_out(parts: np.ndarray, total: float) -> np.ndarray:
        """What is left: first without nobody, then without each object in turn."""
        return total - np.concatenate([[0], parts])

    ours = leaving_out(2 * within.sum(1), within.sum())
    mixed = leaving_out(across, across.sum())
    kept = leaving_out(views, views.sum())
    pairs = kept**2 - leaving_out(views**2, np.sum(views**2))
    with np.errstate(invalid="ignore", divide="ignore"):  # of two objects, one left out leaves no pairs
        distances = ours / pairs + among / (len(reference) * (len(reference) - 1)) - 2 * mixed / (kept * len(reference))
    return 1000 * distances


def kernel(a: Float64[np.ndarray, "n dim"], b: Float64[np.ndarray, "m dim"]) -> Float64[np.ndarray, "n m"]:
    """(x·y/D + 1)³ of every pair."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def jackknife_error(without: Float64[np.ndarray, " objects"]) -> float:
    """√((n - 1)/n Σ (θ_i - θ̄)²) of n estimates that each leave one object out."""
    count = len(without)
    return math.sqrt((count - 1) / count * float(np.sum((without - without.mean()) ** 2)))
