"""SegmentDreamer's segments of the trajectory: edges s_0 < s_1 < … < s_N, where segment m is s_m ≤ t < s_{m+1}."""

from bisect import bisect_right
from collections.abc import Iterable

from sctd.errors import SctdError


class SegmentError(SctdError):
    """Raised for an impossible segmentation, or a time outside all segments."""


def equal(num_segments: int, num_steps: int, *, start: int = 0) -> tuple[int, ...]:
    """Edges of `num_segments` segments of equal length from `start` to `num_steps`, rounded to whole steps.

    `equal(N, T)` is the paper's [0, T], in which every t of 0 … T−1 is in exactly one segment. The released code
    divides the range from which t is drawn: `equal(N, 980, start=20)`. Raises SegmentError.
    """
    length = num_steps - start
    if not 1 <= num_segments <= length:
        raise SegmentError(f"cannot divide {length} steps into {num_segments} segments: use 1 to {length} segments")
    return _rounded(start + length * m / num_segments for m in range(num_segments + 1))


def increasing(num_segments: int, threshold: int, num_steps: int, *, start: int = 0) -> tuple[int, ...]:
    """Edges of segments whose length increases linearly; the first ends at `threshold` = t_τ (counted from 0).

    With `start` = 0, s_{m+1} − s_m = t_τ + 2m (T − N t_τ) / (N (N − 1)), so that they fill [0, T]. Increasing
    lengths require N t_τ ≤ T. Raises SegmentError if N = 1 (division by zero) or if the segments would shrink.
    """
    if num_segments < 2:
        raise SegmentError(f"expected at least 2 increasing segments, found {num_segments}: use equal segments")
    first, length = threshold - start, num_steps - start
    if first < 1:
        raise SegmentError(
            f"the first segment would end at {threshold}, at or before its start at {start}: raise the threshold"
        )
    if num_segments * first > length:
        raise SegmentError(
            f"{num_segments} increasing segments, the first of {first} steps, do not fit in {length} steps: "
            f"use at most {length // first} segments or a first segment of at most {length // num_segments} steps"
        )
    growth = (length - num_segments * first) / (num_segments * (num_segments - 1))
    # Σ_{i<m} (first + 2 i growth) = m first + m (m − 1) growth
    return _rounded(start + m * first + m * (m - 1) * growth for m in range(num_segments + 1))


def start_of(edges: tuple[int, ...], t: int) -> int:
    """s_m, the start of the segment that contains t. Raises SegmentError for a t outside all segments."""
    if not edges[0] <= t < edges[-1]:
        raise SegmentError(f"t = {t} is in no segment: segments cover {edges[0]} to {edges[-1] - 1}; use one of these")
    return edges[bisect_right(edges, t) - 1]


def _rounded(edges: Iterable[float]) -> tuple[int, ...]:
    return tuple(round(edge) for edge in edges)
