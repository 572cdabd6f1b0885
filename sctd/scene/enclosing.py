"""The ball around an upright object, and the points between which a set of Gaussians is visible.

The ball turns, scales and moves with an object that is turned about the vertical axis; a bounding box does not. Its
horizontal circle is found as by Bădoiu & Clarkson (2003): the centre moves towards the farthest point, by ever smaller
steps.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from sctd.scene.gaussians import Gaussians, rotations

STEPS = 20_000  # the radius is then right up to a few parts in 100,000
MIN_OPACITY, WIDTHS = 0.1, 1.5  # Gaussians below this opacity are not counted; standard deviations to their visible end
KEPT = 0.995  # share of the Gaussians nearest to their mean that counts: a few floaters are no part of an object
ROUNDS = 5  # in which the mean of those that count is found
MOST_POINTS = 20_000  # of those that have no hull


class Ball(NamedTuple):
    """A ball in the units of its points."""

    centre: Float[np.ndarray, "3"]
    radius: float


def upright_ball(points: Float[np.ndarray, "num 3"]) -> Ball:
    """The smallest ball around at least one point with its centre on the axis of the smallest upright cylinder.

    The centre is halfway between the lowest and the highest point.
    """
    points = np.asarray(points, np.float64)
    heights = points[:, 2]
    centre = np.array([*circle_centre(points[:, :2]), (heights.min() + heights.max()) / 2])
    return Ball(centre, float(np.linalg.norm(points - centre, axis=1).max()))


def circle_centre(points: Float[np.ndarray, "num 2"]) -> Float[np.ndarray, "2"]:
    """The centre of the smallest circle around at least one point."""
    middle = points.mean(0)
    corners = _corners(points - middle)
    centre = np.zeros(2)
    for step in range(2, STEPS):
        away = corners - centre
        farthest = int(np.einsum("ij,ij->i", away, away).argmax())
        centre = centre + away[farthest] / step
    return centre + middle


def visible_points(gaussians: Gaussians) -> Float[np.ndarray, "points 3"]:
    """The ends of the axes of the Gaussians that show, `WIDTHS` standard deviations from their means.

    If all are nearly transparent, all count.
    """
    shows = gaussians.opacities >= MIN_OPACITY
    kept = gaussians.select(shows) if shows.any() else gaussians
    kept = kept.select(_nearest(kept.means.double()))
    axes = rotations(kept.quats) * kept.scales[:, None, :]  # columns
    ends = WIDTHS * axes.transpose(1, 2)
    points = kept.means[:, None, None] + ends[:, :, None] * ends.new_tensor([[1.0], [-1.0]])
    return points.reshape(-1, 3).double().numpy()


def _nearest(means: Float[Tensor, "num 3"]) -> Bool[Tensor, " num"]:
    """Which points are the `KEPT` nearest to their own mean."""
    number, near = max(1, round(KEPT * len(means))), torch.ones(len(means), dtype=torch.bool)
    for _ in range(ROUNDS):
        distances = (means - means[near].mean(dim=0)).norm(dim=1)
        near = distances <= distances.kthvalue(number).values
    return near


def _corners(points: Float[np.ndarray, "num 2"]) -> Float[np.ndarray, "corners 2"]:
    """The points of the hull, or all of a narrow or small set."""
    size = np.abs(points).max()
    if len(points) > 3 and size > 0:
        try:
            return points[ConvexHull(points / size).vertices]
        except QhullError:
            pass
    return points[:: -(-len(points) // MOST_POINTS)]
