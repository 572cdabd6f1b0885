import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sctd.segments import equal, increasing, start_of
from sctd.times import Times, TimesError, Window, annealed_window, draw, draw_single

EDGES = equal(5, 1000)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("iteration", "window"), [(0, (20, 980)), (1, (20, 979)), (750, (20, 740)), (1500, (20, 500)), (5000, (20, 500))]
)
def test_window_is_the_papers(iteration, window):
    """U(20, 500 + t_warm), t_warm from 480 to 0 in 1500 iterations."""
    assert annealed_window(iteration) == window


def test_window_of_the_released_code_shifts_both_bounds():
    assert annealed_window(1, shift_lower_bound=True) == (499, 979)
    assert annealed_window(1500, shift_lower_bound=True) == (20, 500)


def test_window_without_warm_up():
    assert annealed_window(1, warm_up=0) == annealed_window(1, warm_up_iterations=0) == (20, 500)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10_000),
    edges=st.sampled_from([EDGES, equal(1, 1000), equal(10, 1000), increasing(5, 150, 1000), equal(5, 980, start=20)]),
)
def test_every_draw_keeps_its_distances(seed, edges):
    t, s, s_m = draw(Window(20, 979), edges, generator(seed))
    assert s_m in edges
    assert t - s_m >= 80
    assert s_m + 10 <= s <= t - 11
    assert t < 1000


def test_t_is_uniform_but_for_the_least_interval():
    """Over many draws: t never below s_m + 80, the rest evenly spread, all five segments visited alike."""
    source = generator()
    draws = [draw(Window(0, 999), EDGES, source) for _ in range(5000)]
    starts = torch.tensor([times.s_m for times in draws])
    # Binomial: 1000 ± 28 expected per segment.
    assert ((starts.bincount(minlength=801)[list(EDGES[:-1])] - 1000).abs() < 120).all()
    clamped = sum(times.t == times.s_m + 80 for times in draws) / len(draws)
    assert clamped == pytest.approx(81 / 200, abs=0.03)
    free = torch.tensor([times.t - times.s_m for times in draws if times.t > times.s_m + 80], dtype=torch.float64)
    assert float(free.mean()) == pytest.approx((81 + 199) / 2, abs=3)


def test_bounds_of_the_window_are_drawn():
    source = generator()
    seen = {draw_single(Window(300, 302), source) for _ in range(100)}
    assert seen == {Times(300, 300, 300), Times(301, 301, 301), Times(302, 302, 302)}


def test_same_generator_same_times():
    first, second = generator(3), generator(3)
    window = annealed_window(10)
    assert [draw(window, EDGES, first) for _ in range(20)] == [draw(window, EDGES, second) for _ in range(20)]


def test_least_interval_may_lead_into_the_next_segment():
    """t is raised, s_m stays: the released code does the same where segments are shorter than the interval."""
    times = draw(Window(300, 300), (0, 290, 310, 1000), generator())
    assert (times.t, times.s_m) == (370, 290)
    assert start_of((0, 290, 310, 1000), times.t) == 310


def test_impossible_settings_are_refused():
    with pytest.raises(TimesError, match="t would be drawn from 500 to 20"):
        annealed_window(1, lower=500, upper=20)
    with pytest.raises(
        TimesError, match="a least interval of 20 has no time 10 steps from both of its ends: use at least 21"
    ):
        draw(Window(20, 500), EDGES, generator(), min_interval=20)
    with pytest.raises(
        TimesError, match="the last segment starts at 950, and 80 steps later is past its end at 1000: use f"
    ):
        draw(Window(20, 500), equal(20, 1000), generator())
