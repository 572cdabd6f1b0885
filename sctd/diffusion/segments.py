"""Segmentations of the trajectory: edges s_0 < s_1 < … < s_N, the segment m being s_m ≤ t < s_{m+1}."""

from bisect import bisect_right
from collections.abc import Iterable


class SegmentError(ValueError):
    """A segmentation that cannot be, or a time outside of it."""


def equal(num_segments: int, num_steps: int, *, start: int = 0) -> tuple[int, ...]:
    """Edges of `num_segments` segments of equal length from `start` to `num_steps`, to the nearest whole step.

    `equal(N, T)` is the paper's [0, T], every t of 0 … T−1 lying in exactly one segment. The released code cuts the
    range from which t is drawn instead: `equal(N, 980, start=20)`. Raises SegmentError.
    """
    length = num_steps - start
    if not 1 <= num_segments <= length:
        raise SegmentError(f"{num_segments} segments cannot divide {length} steps: use from 1 to {length} segments")
    return _rounded(start + length * m / num_segments for m in range(num_segments + 1))


def increasing(num_segments: int, threshold: int, num_steps: int, *, start: int = 0) -> tuple[int, ...]:
    """Edges of segments that grow linearly, the first ending at `threshold` = t_τ (both counted from 0).

    With `start` = 0, s_{m+1} − s_m = t_τ + 2m (T − N t_τ) / (N (N − 1)), so that they fill [0, T]. Growing
    asks for N t_τ ≤ T. Raises SegmentError where the formula divides by zero (N = 1) or the segments would shrink.
    """
    if num_segments < 2:
        raise SegmentError(f"growing segments need at least 2 of them, not {num_segments}: use equal segments for one")
    first, length = threshold - start, num_steps - start
    if first < 1:
        raise SegmentError(
            f"the first segment would end at {threshold}, where it starts or before: raise the threshold"
        )
    if num_segments * first > length:
        raise SegmentError(
            f"{num_segments} segments of which the first is {first} steps long would shrink to fit {length} steps: "
            f"use at most {length // first} segments or a first segment of at most {length // num_segments} steps"
        )
    growth = (length - num_segments * first) / (num_segments * (num_segments - 1))
    # Σ_{i<m} (first + 2 i growth) = m first + m (m − 1) growth
    return _rounded(start + m * first + m * (m - 1) * growth for m in range(num_segments + 1))


def start_of(edges: tuple[int, ...], t: int) -> int:
    """s_m, the start of the segment that holds t. Raises SegmentError for a t outside of all segments."""
    if not edges[0] <= t < edges[-1]:
        raise SegmentError(f"t = {t} lies in no segment: they cover {edges[0]} to {edges[-1] - 1}; draw t within these")
    return edges[bisect_right(edges, t) - 1]


def _rounded(edges: Iterable[float]) -> tuple[int, ...]:
    return tuple(round(edge) for edge in edges)
