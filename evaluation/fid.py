"""Fréchet distance between two sets of features, as in FID (Heusel et al. 2017, Eq. 6).

Computed in float64 from moments that add, so any worker can sum any part of the views. `evaluation/jackknife.py` gives
the distance of generated objects with its standard error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float64

from evaluation.errors import EvaluationError


@dataclass(frozen=True)
class Moments:
    """Number of features, their sum, and the sum of their outer products. `a + b` describes both sets."""

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
        """The set without `other`, which must be a subset."""
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


class ReferenceGaussian:
    """Mean, covariance and square root of the covariance of the reference set, shared by all comparisons with it."""

    def __init__(self, moments: Moments) -> None:
        self.mean, self.covariance = moments.mean, moments.covariance

    @cached_property
    def root(self) -> Float64[np.ndarray, "dim dim"]:
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    def frechet_distance(self, moments: Moments) -> float:
        """|μ - m|² + tr(C + R - 2 (R^½ C R^½)^½). In this symmetric form the eigenvalues are real and non-negative."""
        covariance = moments.covariance
        product = self.root @ covariance @ self.root
        roots = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0))
        shift = np.sum((moments.mean - self.mean) ** 2)
        return _positive(shift + np.trace(covariance) + np.trace(self.covariance) - 2 * roots.sum())

    def distance_of_few(self, features: Float[np.ndarray, "count dim"]) -> float:
        """The same distance, much faster for fewer features than dimensions.

        C R has the nonzero eigenvalues of X R Xᵀ / (n - 1), with X the centred features.
        """
        x, degrees = features.astype(np.float64), len(features) - 1
        centred = x - x.mean(0)
        roots = np.sqrt(np.maximum(np.linalg.eigvalsh(centred @ self.covariance @ centred.T / degrees), 0))
        shift, trace = np.sum((x.mean(0) - self.mean) ** 2), np.sum(centred**2) / degrees
        return _positive(shift + trace + np.trace(self.covariance) - 2 * roots.sum())


def _positive(distance: float) -> float:
    """A distance near 0 may be negative by rounding, as that of a set to itself."""
    return max(0.0, float(distance))


def frechet_distance(moments: Moments, reference: Moments) -> float:
    """Squared Fréchet distance between two Gaussians with these moments. No eps is added to the covariances."""
    return ReferenceGaussian(reference).frechet_distance(moments)
