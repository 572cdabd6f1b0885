"""FID with its standard error by the delete-one-object jackknife, and paired differences of two FIDs.

The views of one object are not independent samples, so every standard error is over objects, not over views.
`evaluation/kid.py` uses the same jackknife for the kernel distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from operator import add
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from evaluation.errors import EvaluationError
from evaluation.fid import Moments, ReferenceGaussian

MANY = 500  # objects, above which the work of a distance must not grow with their square
GROUPS = 100


class Estimate(NamedTuple):
    """A distance and its standard error over objects (None if too few objects remain when one is left out)."""

    value: float
    standard_error: float | None


def jackknife_error(without: Float64[np.ndarray, " objects"]) -> float:
    """√((n - 1)/n Σ (θ_i - θ̄)²) of n estimates that each leave one object, or one of n equal groups, out."""
    count = len(without)
    return math.sqrt((count - 1) / count * float(np.sum((without - without.mean()) ** 2)))


def frechet(objects: Sequence[Float[np.ndarray, "_ dim"]], reference: Moments) -> Estimate:
    """Fréchet distance of all views to the reference set, with the standard error of the delete-one-object jackknife.

    The jackknife recovers the sampling deviation, and overestimates it up to 1.4 times if the distance is nearly all
    bias. A bootstrap over objects doubles it; a jackknife over views makes it 6 times too small. Few objects bias the
    distance itself upwards, so compare only runs over the same prompts. With 40 objects of 120 views, correlated at
    0.9, a perfect model has a Fréchet distance of 41, not 0.

    Of more than 500 objects, each of 100 groups is left out in turn (the delete-a-group jackknife). `objects` may then
    read each element when asked: two are never needed at once, and each is asked for twice.
    """
    distance, without = _frechet_distances(objects, ReferenceGaussian(reference))
    return Estimate(distance, jackknife_error(np.array(without)) if without else None)


def frechet_difference(
    ours: Sequence[Float[np.ndarray, "_ dim"]], theirs: Sequence[Float[np.ndarray, "_ dim"]], reference: Moments
) -> Estimate:
    """Our Fréchet distance minus theirs. The jackknife leaves a prompt out on both sides, so shared effects cancel.

    Both sides hold the objects of the same prompts in the same order. Raises EvaluationError if their numbers differ.
    """
    check_pairs(ours, theirs)
    gaussian = ReferenceGaussian(reference)
    (a, a_without), (b, b_without) = (_frechet_distances(objects, gaussian) for objects in (ours, theirs))
    difference = np.array(a_without) - np.array(b_without)
    return Estimate(a - b, jackknife_error(difference) if a_without and b_without else None)


def check_pairs(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> None:
    """Raise EvaluationError unless both sides have the same number of objects."""
    if len(ours) != len(theirs):
        raise EvaluationError(
            f"a paired difference needs the same prompts on both sides, found {len(ours)} and {len(theirs)}: keep the "
            "prompts that both runs finished"
        )


def _frechet_distances(
    objects: Sequence[Float[np.ndarray, "_ dim"]], gaussian: ReferenceGaussian
) -> tuple[float, list[float]]:
    """The distance of all views, then the distances without each object in turn (empty if too few views remain)."""
    if len(objects) > MANY:
        groups = [range(*ends) for ends in pairwise(len(objects) * i // GROUPS for i in range(GROUPS + 1))]
        whole = reduce(add, (_moments(objects, group) for group in groups))
        return gaussian.frechet_distance(whole), [
            gaussian.frechet_distance(whole - _moments(objects, group)) for group in groups
        ]
    count = sum(map(len, objects))
    has_error = len(objects) > 1 and count - max(map(len, objects)) > 1
    numbers = range(len(objects)) if has_error else []
    if 1 < count < len(gaussian.mean):
        distance = gaussian.distance_of_few(np.concatenate(objects))
        without = [gaussian.distance_of_few(np.concatenate([*objects[:i], *objects[i + 1 :]])) for i in numbers]
    else:
        whole = reduce(add, map(Moments.of, objects))
        distance = gaussian.frechet_distance(whole)
        # Moments are recomputed per object instead of kept: those of 415 objects in 2048 dimensions take 14 GB.
        without = [gaussian.frechet_distance(whole - Moments.of(objects[i])) for i in numbers]
    return distance, without


def _moments(objects: Sequence[Float[np.ndarray, "_ dim"]], numbers: range) -> Moments:
    """The moments of some objects, a few at a time."""
    parts = (numbers[first : first + 32] for first in range(0, len(numbers), 32))
    return reduce(add, (Moments.of(np.concatenate([objects[i] for i in part])) for part in parts))
