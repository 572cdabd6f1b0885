"""The smallest ball around points, and the points between which a set of Gaussians is visible.

The ball is found as by Bădoiu & Clarkson (2003): the centre moves towards the farthest point, by ever smaller steps. It
turns, scales and moves with the points, which their bounding box does not.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import ConvexHull, QhullError

from sctd.scene.gaussians import Gaussians, rotations

STEPS = 20_000  # the radius is then right up to a few parts in 100,000
MIN_OPACITY, WIDTHS = 0.1, 1.5  # Gaussians below this opacity are not counted; standard deviations to their visible end
KEPT = 0.995  # share of the Gaussians nearest to their median that counts: a few floaters are no part of an object
MOST_POINTS = 20_000  # of those that have no hull


class Ball(NamedTuple):
    """A ball in the units of its points."""

    centre: Float[np.ndarray, "3"]
    radius: float


def enclosing_ball(points: Float[np.ndarray, "num 3"]) -> Ball:
    """The smallest ball around at least one point."""
    points = np.asarray(points, np.float64)
    middle = points.mean(0)
    corners = _corners(points - middle)
    centre = np.zeros(3)
    for step in range(2, STEPS):
        away = corners - centre
        farthest = int(np.einsum("ij,ij->i", away, away).argmax())
        centre = centre + away[farthest] / step
    return Ball(centre + middle, float(np.linalg.norm(corners - centre, axis=1).max()))


def visible_points(gaussians: Gaussians) -> Float[np.ndarray, "points 3"]:
    """The ends of the axes of the Gaussians that show, `WIDTHS` standard deviations from their means.

    If all are nearly transparent, all count.
    """
    shows = gaussians.opacities >= MIN_OPACITY
    kept = gaussians.select(shows) if shows.any() else gaussians
    distances = (kept.means - kept.means.median(dim=0).values).norm(dim=1)
    number = max(1, round(KEPT * kept.num))
    kept = kept.select(distances <= distances.kthvalue(number).values)
    axes = rotations(kept.quats) * kept.scales[:, None, :]  # columns
    ends = WIDTHS * axes.transpose(1, 2)
    points = kept.means[:, None, None] + ends[:, :, None] * ends.new_tensor([[1.0], [-1.0]])
    return points.reshape(-1, 3).double().numpy()


def _corners(points: Float[np.ndarray, "num 3"]) -> Float[np.ndarray, "corners 3"]:
    """The points of the hull, or all of a flat or small set."""
    size = np.abs(points).max()
    if len(points) > 4 and size > 0:
        try:
            return points[ConvexHull(points / size).vertices]
        except QhullError:
            pass
    return points[:: -(-len(points) // MOST_POINTS)]
