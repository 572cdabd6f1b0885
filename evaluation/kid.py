"""Kernel distance between feature sets, as in KID (Bińkowski et al. 2018, Sec. 2.2), without pairs from one object.

The views of one object are not independent samples. With 40 objects of 120 views, correlated at 0.9, a perfect model
has a plain KID of 49e-3; without the pairs of views of one object the distance is unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from evaluation.errors import EvaluationError
from evaluation.jackknife import MANY, Estimate, check_pairs, jackknife_error


def kernel_distance(
    objects: Sequence[Float[np.ndarray, "_ dim"]], reference: Float[np.ndarray, "count dim"]
) -> Estimate:
    """1000 × the unbiased squared MMD of the cubic kernel, without pairs of views of one object; jackknife error.

    With one view per object this is the plain U-statistic. Unlike that statistic, it is 0 on average for a perfect
    model even if the views of one object are correlated. Of more than 500 objects, 500 in even steps are used, since
    the number of pairs grows with its square. Raises EvaluationError below two objects or two reference features.
    """
    distances = _kernel_distances(objects, reference)
    return Estimate(float(distances[0]), jackknife_error(distances[1:]) if len(objects) > 2 else None)


def kernel_difference(
    ours: Sequence[Float[np.ndarray, "_ dim"]],
    theirs: Sequence[Float[np.ndarray, "_ dim"]],
    reference: Float[np.ndarray, "count dim"],
) -> Estimate:
    """Our kernel distance minus theirs, paired by prompt as in `evaluation.jackknife.frechet_difference`."""
    check_pairs(ours, theirs)
    a, b = (_kernel_distances(objects, reference) for objects in (ours, theirs))
    return Estimate(float(a[0] - b[0]), jackknife_error(a[1:] - b[1:]) if len(ours) > 2 else None)


def _kernel_distances(
    objects: Sequence[Float[np.ndarray, "_ dim"]], reference: Float[np.ndarray, "count dim"]
) -> Float64[np.ndarray, " one_more"]:
    """1000 × the distance: first of all objects, then without each object in turn."""
    if len(objects) < 2 or len(reference) < 2:
        raise EvaluationError(
            f"a kernel distance needs 2 objects and 2 reference features, found {len(objects)} and {len(reference)}"
        )
    if (count := len(objects)) > MANY:
        objects = [objects[number * count // MANY] for number in range(MANY)]
    blocks, reference = [features.astype(np.float64) for features in objects], reference.astype(np.float64)
    everything, views = np.concatenate(blocks), np.array([float(len(block)) for block in blocks])
    starts = (np.cumsum(views) - views).astype(int)
    within = np.array([np.add.reduceat(kernel(block, everything).sum(0), starts) for block in blocks])
    np.fill_diagonal(within, 0)
    across = np.array([kernel(block, reference).sum() for block in blocks])
    diagonal = np.sum((np.sum(reference**2, axis=1) / reference.shape[1] + 1) ** 3)
    rows = np.split(reference, range(1024, len(reference), 1024))  # so that 50,000 reference features fit in memory
    among = math.fsum(kernel(part, reference).sum() for part in rows) - diagonal

    def leave_one_out(parts: np.ndarray, total: float) -> np.ndarray:
        """The total, then the total without each object's part in turn."""
        return total - np.concatenate([[0], parts])

    ours = leave_one_out(2 * within.sum(1), within.sum())
    mixed = leave_one_out(across, across.sum())
    kept = leave_one_out(views, views.sum())
    pairs = kept**2 - leave_one_out(views**2, np.sum(views**2))
    with np.errstate(invalid="ignore", divide="ignore"):  # of two objects, leaving one out leaves no pairs
        distances = ours / pairs + among / (len(reference) * (len(reference) - 1)) - 2 * mixed / (kept * len(reference))
    return 1000 * distances


def kernel(a: Float64[np.ndarray, "n dim"], b: Float64[np.ndarray, "m dim"]) -> Float64[np.ndarray, "n m"]:
    """(x·y/D + 1)³ of every pair."""
    return (a @ b.T / a.shape[1] + 1) ** 3
