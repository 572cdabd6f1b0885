"""User study statistics: rankings of k methods by volunteers → average ranks, intervals and tests.

The unit is the volunteer, because the rankings of one volunteer are not independent across groups and questions.
Friedman (1937), Kendall & Babington Smith (1939), Nemenyi (1963) as in Demšar (2006), with volunteers as blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from evaluation.errors import EvaluationError

SUM_TOLERANCE = 0.03  # five means printed to two decimals are off by at most 0.025


class MeanRank(NamedTuple):
    """Average rank, 1 is best, with a percentile bootstrap interval over volunteers (None below two volunteers)."""

    value: float
    low: float | None
    high: float | None


class Friedman(NamedTuple):
    """Friedman test of equal preference: χ² with k - 1 degrees of freedom, its p, and Kendall's W from 0 to 1."""

    chi_squared: float
    p: float
    kendall_w: float


class Summary(NamedTuple):
    """Results of one question, methods in the order of the columns."""

    means: list[MeanRank]
    voters: int
    rankings: int
    friedman: Friedman | None
    """None below three methods or two volunteers, or if all volunteers tie all methods."""
    critical_distance: float
    """Nemenyi's critical distance at 5 %: average ranks that differ by less are not significantly different."""
    p: list[list[float]]
    """Nemenyi's p-value of each pair."""


def summarise(
    ranks: Int[np.ndarray, "rankings methods"], voters: Sequence[str], random: np.random.Generator
) -> Summary:
    """Summarise one question; `voters[i]` gave `ranks[i]`. Raises EvaluationError if a row is not a ranking."""
    check(ranks)
    if len(voters) != len(ranks):
        raise EvaluationError(f"{len(ranks)} rankings but {len(voters)} voters: give one voter for each ranking")
    blocks = voter_means(ranks, voters)
    means = ranks.mean(axis=0)
    return Summary(
        bootstrapped(ranks, voters, random),
        len(blocks),
        len(ranks),
        friedman(blocks),
        critical_distance(ranks.shape[1], len(blocks)),
        nemenyi_p(means, len(blocks)).tolist(),
    )


def check(ranks: Int[np.ndarray, "rankings methods"]) -> None:
    """Raise EvaluationError unless each row contains each rank from 1 to k once."""
    if ranks.size == 0:
        raise EvaluationError("no rankings to average: no votes were recorded")
    wrong = (np.sort(ranks, axis=1) != np.arange(1, ranks.shape[1] + 1)).any(axis=1)
    if wrong.any():
        number = int(np.flatnonzero(wrong)[0])
        raise EvaluationError(
            f"ranking {number} is {ranks[number].tolist()}: expected each rank from 1 to {ranks.shape[1]} once"
        )


def check_means(means: Sequence[float], tolerance: float = SUM_TOLERANCE) -> None:
    """Raise EvaluationError unless average ranks are consistent: each in 1 to k, with the sum k (k + 1) / 2."""
    k, total = len(means), math.fsum(means)
    outside = [mean for mean in means if not 1 <= mean <= k]
    if outside:
        raise EvaluationError(f"average rank {outside[0]:g} of {k} methods: expected 1 to {k}")
    if abs(total - k * (k + 1) / 2) > tolerance + 1e-9:
        raise EvaluationError(
            f"average ranks of {k} methods sum to {total:.2f}: expected {k * (k + 1) / 2:g} within {tolerance:g}, "
            "as for rankings without ties or gaps"
        )


def voter_means(
    ranks: Int[np.ndarray, "rankings methods"], voters: Sequence[str]
) -> Float[np.ndarray, "voters methods"]:
    """Average ranks of each volunteer (the blocks of the tests), volunteers sorted by name."""
    totals, counts = _by_voter(ranks, voters)
    return totals / counts[:, None]


def bootstrapped(
    ranks: Int[np.ndarray, "rankings methods"],
    voters: Sequence[str],
    random: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> list[MeanRank]:
    """Average ranks over all rankings, bootstrapped over volunteers, each with all their rankings."""
    totals, counts = _by_voter(ranks, voters)
    values = ranks.mean(axis=0)
    if len(counts) < 2:
        return [MeanRank(float(value), None, None) for value in values]
    drawn = random.integers(len(counts), size=(resamples, len(counts)))
    means = totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)[:, None]
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    return [MeanRank(*map(float, row)) for row in zip(values, low, high, strict=True)]


def friedman(blocks: Float[np.ndarray, "voters methods"]) -> Friedman | None:
    """Friedman test with methods ranked within each block, corrected for ties; W = χ² / (n (k - 1)).

    None below three methods or two volunteers, or if all volunteers tie all methods.
    """
    n, k = blocks.shape
    ranks = rankdata(blocks.round(9), axis=1)  # means that differ by rounding tie
    if k < 3 or n < 2 or (ranks == ranks[:, :1]).all():
        return None
    chi_squared, p = friedmanchisquare(*ranks.T)
    return Friedman(float(chi_squared), float(p), float(chi_squared / (n * (k - 1))))


def critical_distance(methods: int, voters: int, level: float = 0.05) -> float:
    """Nemenyi's q √(k (k + 1) / 6 n) with q = Studentised range / √2.

    Conservative if each volunteer ranks several groups; exact if each volunteer ranks all groups alike.
    """
    return float(studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2) * _scale(methods, voters)


def nemenyi_p(means: Float[np.ndarray, " methods"], voters: int) -> Float[np.ndarray, "methods methods"]:
    """p-value of each pair: the level at which its distance would be critical. 1 on the diagonal."""
    distances = np.abs(means[:, None] - means) * math.sqrt(2) / _scale(len(means), voters)
    return studentized_range.sf(distances, len(means), np.inf)


def _scale(methods: int, voters: int) -> float:
    return math.sqrt(methods * (methods + 1) / (6 * voters))


def _by_voter(
    ranks: Int[np.ndarray, "rankings methods"], voters: Sequence[str]
) -> tuple[Float[np.ndarray, "voters methods"], Int[np.ndarray, " voters"]]:
    names, numbers = np.unique(np.asarray(voters), return_inverse=True)
    totals = np.zeros((len(names), ranks.shape[1]))
    np.add.at(totals, numbers, ranks)
    return totals, np.bincount(numbers)
