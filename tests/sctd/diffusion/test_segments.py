from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sctd.diffusion.segments import SegmentError, equal, increasing, start_of


def lengths(edges: tuple[int, ...]) -> list[int]:
    return [b - a for a, b in pairwise(edges)]


def test_equal_segments_of_the_paper_and_the_released_code():
    assert equal(5, 1000) == (0, 200, 400, 600, 800, 1000)
    assert equal(5, 980, start=20) == (20, 212, 404, 596, 788, 980)


def test_increasing_segments_of_the_paper_and_the_released_code():
    """150 + 25 m, and the edges that the released code prints for N = 5, t_τ = 150."""
    edges = increasing(5, 150, 1000)
    assert lengths(edges) == [150, 175, 200, 225, 250]
    assert edges[0] == 0
    assert increasing(5, 150, 980, start=20) == (20, 150, 311, 503, 726, 980)


@given(num_segments=st.integers(2, 20), data=st.data())
def test_increasing_segments_start_with_the_threshold_and_fill_all_steps(num_segments, data):
    threshold = data.draw(st.integers(1, 1000 // num_segments))
    edges = increasing(num_segments, threshold, 1000)
    assert edges[0] == 0
    assert edges[1] == threshold
    assert edges[-1] == 1000
    # Edges are rounded to whole steps, so a difference of lengths may be off by two.
    growth = 2 * (1000 - num_segments * threshold) / (num_segments * (num_segments - 1))
    for shorter, longer in zip(lengths(edges), lengths(edges)[1:], strict=False):
        assert abs(longer - shorter - growth) <= 2


@given(num_segments=st.integers(1, 50), grow=st.booleans(), start=st.integers(0, 50))
def test_every_time_is_in_exactly_one_segment(num_segments, grow, start):
    if grow and num_segments > 1:
        edges = increasing(num_segments, start + 950 // num_segments // 2, 1000, start=start)
    else:
        edges = equal(num_segments, 1000, start=start)
    assert edges[0] == start
    assert edges[-1] == 1000
    segments = list(pairwise(edges))
    for t in range(start, 1000):
        assert [a for a, b in segments if a <= t < b] == [start_of(edges, t)]


@pytest.mark.parametrize("t", [-1, 19, 980, 1000])
def test_a_time_outside_all_segments_is_rejected(t):
    with pytest.raises(SegmentError, match=rf"t = {t} is in no segment: segments cover 20 to 979; use one of these"):
        start_of(equal(5, 980, start=20), t)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: equal(0, 1000), "cannot divide 1000 steps into 0 segments: use 1 to 1000 segments"),
        (lambda: equal(1001, 1000), "cannot divide 1000 steps into 1001 segments"),
        (
            lambda: increasing(1, 150, 1000),
            "expected at least 2 increasing segments, found 1: use equal segments",
        ),
        (
            lambda: increasing(10, 150, 1000),  # the setting of the paper's Fig. 6
            (
                "10 increasing segments, the first of 150 steps, do not fit in 1000 steps: "
                "use at most 6 segments or a first segment of at most 100 steps"
            ),
        ),
        (
            lambda: increasing(5, 20, 980, start=20),
            "the first segment would end at 20, at or before its start at 20",
        ),
    ],
)
def test_impossible_segments_are_rejected(make, message):
    with pytest.raises(SegmentError) as error:
        make()
    assert str(error.value).startswith(message)
