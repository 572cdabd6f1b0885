"""Agreement of a metric with people's opinions: rank correlations and pairwise accuracy, with intervals over prompts.

Kendall's τ-b and Spearman's ρ are those of scipy.stats. Pairwise accuracy: of two assets that people rated differently,
how often does the metric prefer the same one? Pairs that people tie are left out, and a pair that the metric ties
counts 1/2, so the accuracy is (1 + Somers' D)/2 (Somers 1962). Chance is 0 for the correlations, 1/2 for the accuracy.

The unit is the prompt: a resample of the bootstrap draws prompts, each with all its assets. Every statistic follows
from sums over pairs of prompts, so a resample costs a product of matrices instead of a new ranking.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, stdtrit
from scipy.stats import rankdata

from evaluation.errors import EvaluationError

MOST_UNDEFINED = 0.05  # share of resamples that may leave the statistic undefined, such as those with ties alone
CHUNK = 200  # resamples whose ranks of all assets are in memory at once
DECIMALS = 9  # averages that differ only by rounding are ties


class Ratings(NamedTuple):
    """A metric and opinions of the same assets, both higher for better ones.

    `prompts` and `methods` number the prompt and the method of each asset from 0; an asset has its own pair of them.
    """

    metric: Float[np.ndarray, " assets"]
    opinion: Float[np.ndarray, " assets"]
    prompts: Int[np.ndarray, " assets"]
    methods: Int[np.ndarray, " assets"]


class Interval(NamedTuple):
    """A statistic with its percentile bootstrap interval over prompts; None if it is not defined."""

    value: float | None
    low: float | None
    high: float | None


class Agreement(NamedTuple):
    """Agreement at one level; `units` assets, prompts or methods define Kendall's τ-b."""

    kendall: Interval
    spearman: Interval
    accuracy: Interval
    units: int


class PromptAgreement(NamedTuple):
    """Agreement among the assets of one prompt. None: not defined, because there are too few assets or only ties."""

    kendall: float | None
    spearman: float | None
    accuracy: float | None
    assets: int


def agreement(
    ratings: Ratings, random: np.random.Generator, confidence: float = 0.95, resamples: int = 2_000
) -> Mapping[str, Agreement]:
    """Agreement by level: `assets`, `prompts` and `methods`.

    `assets` ranks all assets of all prompts together. `prompts` is the mean of the statistics within each prompt, over
    the prompts that define them. `methods` ranks the averages of the methods. Raises EvaluationError for no values or
    values that are not finite.
    """
    pairs = _Pairs.of(ratings)
    prompts = len(pairs.order)
    weights = np.ones((1, prompts))  # the first row is the table itself, the others are the resamples
    if prompts > 1:
        drawn = random.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
        weights = np.concatenate([weights, drawn])
    within = by_prompt(ratings)
    columns = np.array([[np.nan if value is None else value for value in row[:3]] for row in within]).T
    pooled_kendall, pooled_accuracy = pairs.statistics(weights)
    tail = _expanded_tail(confidence, prompts)
    levels = {
        "assets": ((pooled_kendall, _pooled_spearman(ratings, weights), pooled_accuracy), len(ratings.metric)),
        "prompts": (tuple(_mean_of_defined(each, weights) for each in columns), int(np.isfinite(columns[0]).sum())),
        "methods": (_of_averages(ratings, weights), int(ratings.methods.max()) + 1),
    }
    return {
        level: Agreement(_interval(kendall, tail), _interval(spearman, tail), _interval(accuracy, tail), units)
        for level, ((kendall, spearman, accuracy), units) in levels.items()
    }


def by_prompt(ratings: Ratings) -> list[PromptAgreement]:
    """Agreement among the assets of each prompt, in the order of their numbers."""
    pairs = _Pairs.of(ratings)
    kendall, accuracy = pairs.statistics(np.eye(len(pairs.order)))
    spearman = [
        _correlation(rankdata(ratings.metric[each])[None], rankdata(ratings.opinion[each])[None])[0]
        for each in pairs.order
    ]
    rows = np.array([kendall, spearman, accuracy]).T.tolist()
    found = [[value if math.isfinite(value) else None for value in row] for row in rows]
    return [
        PromptAgreement(tau, rho, share, len(each)) for (tau, rho, share), each in zip(found, pairs.order, strict=True)
    ]


class _Pairs(NamedTuple):
    """Sums over the pairs of assets of two prompts: `[p, q]` has those of an asset of p and one of q."""

    order: list[np.ndarray]
    """The assets of each prompt."""
    concordant: Float[np.ndarray, "prompts prompts"]
    """Pairs in the same order minus pairs in the opposite order."""
    untied_metric: Float[np.ndarray, "prompts prompts"]
    untied_opinion: Float[np.ndarray, "prompts prompts"]

    @classmethod
    def of(cls, ratings: Ratings) -> _Pairs:
        _check(ratings)
        order = np.split(np.argsort(ratings.prompts, kind="stable"), np.cumsum(np.bincount(ratings.prompts))[:-1])
        everything = np.concatenate(order)
        starts = np.cumsum([0, *map(len, order[:-1])])
        sums = []
        for own in order:
            metric, opinion = (
                np.sign(values[own, None] - values[None, everything]) for values in (ratings.metric, ratings.opinion)
            )
            by_asset = [(metric * opinion).sum(0), np.abs(metric).sum(0), np.abs(opinion).sum(0)]
            sums.append([np.add.reduceat(each, starts) for each in by_asset])
        return cls(order, *np.array(sums).transpose(1, 0, 2))

    def statistics(
        self, weights: Float[np.ndarray, "resamples prompts"]
    ) -> tuple[Float[np.ndarray, " resamples"], Float[np.ndarray, " resamples"]]:
        """Kendall's τ-b and the accuracy, NaN if not defined, with each prompt `weights` times in the table."""
        concordant, metric, opinion = (((weights @ sums) * weights).sum(axis=1) for sums in self[1:])
        return _tau_and_accuracy(concordant, metric, opinion)


def _tau_and_accuracy(concordant: np.ndarray, metric: np.ndarray, opinion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore"):  # 0/0 if all pairs are tied
        return concordant / np.sqrt(metric * opinion), (1 + concordant / opinion) / 2


def _pooled_spearman(
    ratings: Ratings, weights: Float[np.ndarray, "resamples prompts"]
) -> Float[np.ndarray, " resamples"]:
    """Spearman's ρ of all assets, with each prompt `weights` times in the table."""
    below = [_below(values, ratings.prompts) for values in (ratings.metric, ratings.opinion)]
    parts = np.array_split(weights, range(CHUNK, len(weights), CHUNK))
    return np.concatenate([_correlation(w @ below[0], w @ below[1], w[:, ratings.prompts]) for w in parts])


def _below(
    values: Float[np.ndarray, " assets"], prompts: Int[np.ndarray, " assets"]
) -> Float[np.ndarray, "prompts assets"]:
    """How many assets of each prompt are below each asset; equal ones count 1/2. Its sum over prompts is a rank."""
    found = np.empty((prompts.max() + 1, len(values)))
    for prompt in range(len(found)):
        own = np.sort(values[prompts == prompt])
        found[prompt] = (np.searchsorted(own, values) + np.searchsorted(own, values, side="right")) / 2
    return found


def _correlation(
    x: Float[np.ndarray, "rows n"], y: Float[np.ndarray, "rows n"], weights: Float[np.ndarray, "rows n"] | None = None
) -> Float[np.ndarray, " rows"]:
    """Pearson's correlation by row; NaN for constant rows."""
    w = np.ones_like(x) if weights is None else weights
    total = w.sum(axis=1, keepdims=True)
    x, y = (values - np.einsum("ij,ij->i", w, values)[:, None] / total for values in (x, y))
    xy, xx, yy = (np.einsum("ij,ij,ij->i", w, *pair) for pair in ((x, y), (x, x), (y, y)))
    xx, yy = (np.where(squares < total[:, 0] * 1e-12, 0, squares) for squares in (xx, yy))  # 0 but for rounding
    with np.errstate(invalid="ignore"):
        return xy / np.sqrt(xx * yy)


def _mean_of_defined(
    values: Float[np.ndarray, " prompts"], weights: Float[np.ndarray, "resamples prompts"]
) -> Float[np.ndarray, " resamples"]:
    """The weighted mean without NaN; NaN if nothing is left."""
    is_defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return (weights @ np.where(is_defined, values, 0)) / (weights @ is_defined)


def _of_averages(ratings: Ratings, weights: Float[np.ndarray, "resamples prompts"]) -> tuple[np.ndarray, ...]:
    """The three statistics of the methods' averages; NaN for a resample that lacks a method."""
    metric, opinion, count = (np.zeros((weights.shape[1], ratings.methods.max() + 1)) for _ in range(3))
    for table, values in ((metric, ratings.metric), (opinion, ratings.opinion), (count, 1)):
        table[ratings.prompts, ratings.methods] = values
    with np.errstate(invalid="ignore"):
        x, y = (np.round((weights @ table) / (weights @ count), DECIMALS) for table in (metric, opinion))
    first, second = np.triu_indices(x.shape[1], 1)
    dx, dy = (np.sign(means[:, first] - means[:, second]) for means in (x, y))
    kendall, accuracy = _tau_and_accuracy((dx * dy).sum(1), np.abs(dx).sum(1), np.abs(dy).sum(1))
    return kendall, _correlation(rankdata(x, axis=1), rankdata(y, axis=1)), accuracy


def _expanded_tail(confidence: float, prompts: int) -> float:
    """The share of resamples below an interval: less than (1 - confidence)/2, because there are few prompts."""
    if prompts < 2:
        return 0.0
    distance = float(stdtrit(prompts - 1, 0.5 + confidence / 2)) * math.sqrt(prompts / (prompts - 1))
    return float(ndtr(-distance))


def _interval(values: Float[np.ndarray, " resamples"], tail: float) -> Interval:
    """The statistic of the table, which is the first value, with the interval of the others."""
    value, drawn = values[0], values[1:][np.isfinite(values[1:])]
    if not np.isfinite(value):
        return Interval(None, None, None)
    if len(drawn) == 0 or len(drawn) < (1 - MOST_UNDEFINED) * (len(values) - 1):
        return Interval(float(value), None, None)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high))


def _check(ratings: Ratings) -> None:
    if len(ratings.metric) == 0:
        raise EvaluationError("no asset has both a score and an opinion: nothing can be compared")
    for name in ("metric", "opinion"):
        if not np.isfinite(values := getattr(ratings, name)).all():
            raise EvaluationError(
                f"{int((~np.isfinite(values)).sum())} of {len(values)} values of the {name} are not finite: leave "
                "these assets out"
            )
