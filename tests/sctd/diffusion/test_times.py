import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sctd.diffusion.segments import equal, increasing, start_of
from sctd.diffusion.times import (
    Times,
    TimesError,
    Window,
    annealed_window,
    draw,
    draw_annealed,
    draw_interval,
    draw_single,
    draw_two_intervals,
    interval_at,
)
from sctd.recipe import presets as recipes
from sctd.recipe.effects import RULES
from sctd.recipe.methods import METHODS, for_objective
from sctd.recipe.recipe import with_overrides
from sctd.train import draws

EDGES = equal(5, 1000)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("iteration", "window"), [(0, (20, 980)), (1, (20, 979)), (750, (20, 740)), (1500, (20, 500)), (5000, (20, 500))]
)
def test_window_equals_the_papers(iteration, window):
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
def test_every_draw_respects_the_minimum_interval_and_margins(seed, edges):
    t, s, s_m = draw(Window(20, 979), edges, generator(seed))
    assert s_m in edges
    assert t - s_m >= 80
    assert s_m + 10 <= s <= t - 11
    assert t < 1000


def test_t_is_uniform_except_for_the_minimum_interval():
    """Over many draws: t is at least s_m + 80, uniform above it, and all five segments are equally frequent."""
    source = generator()
    draws = [draw(Window(0, 999), EDGES, source) for _ in range(5000)]
    starts = torch.tensor([times.s_m for times in draws])
    # Binomial: 1000 ± 28 expected per segment.
    assert ((starts.bincount(minlength=801)[list(EDGES[:-1])] - 1000).abs() < 120).all()
    clamped = sum(times.t == times.s_m + 80 for times in draws) / len(draws)
    assert clamped == pytest.approx(81 / 200, abs=0.03)
    free = torch.tensor([times.t - times.s_m for times in draws if times.t > times.s_m + 80], dtype=torch.float64)
    assert float(free.mean()) == pytest.approx((81 + 199) / 2, abs=3)


def test_both_bounds_of_the_window_are_included():
    source = generator()
    seen = {draw_single(Window(300, 302), source) for _ in range(100)}
    assert seen == {Times(300, 300, 300), Times(301, 301, 301), Times(302, 302, 302)}


def test_equal_generators_draw_equal_times():
    first, second = generator(3), generator(3)
    window = annealed_window(10)
    assert [draw(window, EDGES, first) for _ in range(20)] == [draw(window, EDGES, second) for _ in range(20)]


def test_minimum_interval_may_extend_into_the_next_segment():
    """t is raised and s_m stays, as in the released code when segments are shorter than the interval."""
    times = draw(Window(300, 300), (0, 290, 310, 1000), generator())
    assert (times.t, times.s_m) == (370, 290)
    assert start_of((0, 290, 310, 1000), times.t) == 310


def test_impossible_times_are_rejected():
    with pytest.raises(TimesError, match="t would be drawn from 500 to 20"):
        annealed_window(1, lower=500, upper=20)
    with pytest.raises(
        TimesError, match="a minimum interval of 20 has no time 10 steps from both ends: use at least 21"
    ):
        draw(Window(20, 500), EDGES, generator(), min_interval=20)
    with pytest.raises(
        TimesError, match="the last segment, 950 to 1000, must be longer than the minimum interval of 80: use f"
    ):
        draw(Window(20, 500), equal(20, 1000), generator())


@pytest.mark.parametrize(
    ("iteration", "interval"), [(0, 100), (1, 100), (75, 99), (76, 99), (749, 91), (750, 90), (1425, 81), (1499, 81),
    (1500, 80), (5000, 80)],
)  # fmt: skip
def test_the_interval_falls_from_100_to_80_during_warm_up(iteration, interval):
    """80 + ⌈20 r⌉ with r = 1 − i/1500."""
    assert interval_at(iteration, interval=80, extra=20, warm_up_iterations=1500) == interval


@given(
    iteration=st.integers(1, 6000),
    warm_up=st.integers(0, 5000),
    interval=st.integers(1, 500),
    extra=st.integers(0, 500),
)
def test_the_interval_is_an_integer_that_never_grows_and_stays_within_bounds(iteration, warm_up, interval, extra):
    def at(iteration: int) -> int:
        return interval_at(iteration, interval=interval, extra=extra, warm_up_iterations=warm_up)

    found, later = at(iteration), at(iteration + 1)
    assert isinstance(found, int)
    assert interval <= later <= found <= interval + extra
    assert found == interval + math.ceil(extra * max(Fraction(0), 1 - Fraction(iteration, max(warm_up, 1))))


@given(seed=st.integers(0, 10_000), lower=st.integers(0, 900), width=st.integers(0, 99), interval=st.integers(1, 500))
def test_s_is_an_interval_below_t_but_never_negative(seed, lower, width, interval):
    """ISM: inversion from 0 to s."""
    t, s, s_m = draw_interval(Window(lower, lower + width), interval, generator(seed))
    assert max(lower, 1) <= t <= max(lower + width, 1)
    assert (s, s_m) == (max(t - interval, 0), 0)
    assert s < t


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10_000), lower=st.integers(0, 300), width=st.integers(0, 680), margin=st.integers(0, 60),
    longer=st.integers(1, 200),
)  # fmt: skip
def test_two_intervals_are_adjacent(seed, lower, width, margin, longer):
    """GCS: t = max(U(window), Δ + 1), s = t − Δ, e from max(t − 2Δ, 0) to before max(t − Δ − margin, 1)."""
    interval, window = margin + longer, Window(lower, lower + width)
    t, s, e = draw_two_intervals(window, interval, generator(seed), margin=margin)
    assert 0 <= e < s < t
    assert max(lower, interval + 1) <= t <= max(lower + width, interval + 1)
    assert s == t - interval
    assert max(t - 2 * interval, 0) <= e < max(s - margin, 1)


def test_both_ends_of_the_second_interval_are_included():
    source = generator()
    seen = {draw_two_intervals(Window(300, 300), 14, source) for _ in range(200)}
    assert seen == {Times(300, 286, e) for e in (272, 273, 274, 275)}
    assert {draw_two_intervals(Window(20, 20), 80, source) for _ in range(20)} == {Times(81, 1, 0)}


def test_an_interval_no_longer_than_its_margin_is_rejected():
    with pytest.raises(TimesError, match="an interval of 10 has no time 10 steps below its end: use at least 11"):
        draw_two_intervals(Window(20, 500), 10, generator())


@pytest.mark.parametrize(("progress", "s"), [(0.0, 700), (0.01, 640), (0.25, 400), (0.49, 280), (1.0, 100)])
def test_annealed_times_fall_with_the_square_root_of_progress(progress, s):
    """Consistent3D: 700 + (100 − 700) √progress."""
    times = draw_annealed(progress, generator(), gap=(100, 299), max_t=980)
    assert (times.s, times.s_m) == (s, s)


@given(
    seed=st.integers(0, 10_000), progress=st.floats(0.0, 1.0), least=st.integers(1, 200), width=st.integers(0, 400),
    max_t=st.integers(700, 999),
)  # fmt: skip
def test_annealed_times_keep_their_gap_and_stay_below_max_t(seed, progress, least, width, max_t):
    t, s, s_m = draw_annealed(progress, generator(seed), gap=(least, least + width), max_t=max_t)
    falling = round(700 - 600 * progress**0.5)
    assert s == s_m == min(falling, max_t - least)
    assert least <= t - s <= least + width
    assert t <= max_t
    if falling + least + width <= max_t:
        twice = draw_annealed(progress, generator(seed), gap=(least, least + width), max_t=999)
        assert (t, s) == twice[:2]  # a max_t beyond reach changes nothing


def test_both_ends_of_the_gap_are_included_and_max_t_limits_it():
    source = generator()
    assert {draw_annealed(1.0, source, gap=(5, 7), max_t=980).t for _ in range(100)} == {105, 106, 107}
    assert {draw_annealed(0.0, source, gap=(100, 299), max_t=800) for _ in range(50)} == {Times(800, 700, 700)}
    assert {draw_annealed(0.0, source, gap=(100, 299), max_t=790) for _ in range(50)} == {Times(790, 690, 690)}


def drawn(method: str, iteration: int, base=recipes.paper) -> list[Times]:
    recipe, source = for_objective(base(), method), generator(iteration)
    return [draws.times(recipe, iteration, source) for _ in range(60)]


def is_of(method: str, t: int, s: int, s_m: int, iteration: int) -> bool:
    """Whether times satisfy the rule of a method, with the paper's 5000 iterations."""
    warmth = max(0, 1 - iteration / 1500)
    upper, interval = 500 + 480 * warmth, 80 + math.ceil(round(20 * warmth, 9))
    match method.removesuffix("-authors"):
        case "sctd":
            return s_m in (0, 200, 400, 600, 800) and s_m + 10 <= s <= t - 11 and 20 <= t <= max(upper, s_m + 80)
        case "sctd-official":
            inside = s_m in (20, 212, 404, 596, 788) and s_m + 10 <= s <= t - 11
            return inside and 20 + 480 * warmth - 1 <= t <= max(upper, s_m + 80)
        case "sds":
            return s_m == s == t and 20 <= t <= (980 if method == "sds-authors" else upper)
        case "sdi":
            last = 250 if method == "sdi-authors" else 20
            return s_m == s == t == round(980 - (980 - last) * iteration / 5000)
        case "ism":
            return (s, s_m) == (max(t - interval, 0), 0) and 20 <= t <= upper
        case "gcs":
            lower = 20 + 480 * warmth - 1 if method == "gcs-authors" else 20
            return s == t - interval and max(s - interval, 0) <= s_m < max(s - 10, 1) and lower <= t <= upper
        case "cds":
            return s == s_m == round(700 - 600 * (iteration / 5000) ** 0.5) and 100 <= t - s <= 299 and t <= 980
    return False


EXAMPLES = "sctd", "sctd-official", "sds", "ism", "cds", "gcs", "sdi"  # between them they use every rule
OF_EXAMPLES = [method for method in METHODS if method.removesuffix("-authors") in EXAMPLES]


def test_the_examples_use_every_rule():
    assert {for_objective(recipes.paper(), method).times.rule for method in EXAMPLES} == set(RULES)


@pytest.mark.parametrize("iteration", [1, 700, 1499, 1500, 5000])
@pytest.mark.parametrize("method", OF_EXAMPLES)
def test_every_method_draws_times_by_its_rule(method, iteration):
    assert [times for times in drawn(method, iteration) if not is_of(method, *times, iteration)] == []


@pytest.mark.parametrize("method", OF_EXAMPLES)
def test_rules_of_two_methods_differ(method):
    """So the test above would detect one rule used in place of another."""
    name = method.removesuffix("-authors")
    others = [other for other in EXAMPLES if other != name]
    for other in others:
        assert not all(is_of(other, *times, 700) for times in drawn(method, 700)), other


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ({"times.interval": 200}, lambda t: t.t - t.s == 200),
        ({"times.interval_extra": 0, "times.interval": 50}, lambda t: t.t - t.s == 50),
        ({"times.epsilon": 60, "times.minimum_interval": 121}, lambda t: t.s - t.s_m > 60 or t.s_m == 0),
        ({"times.low": 400, "times.high": 401, "times.start_high": 402, "times.warmup_share": 0}, lambda t: t.t < 402),
    ],
)
def test_settings_apply_to_the_two_intervals(overrides, changed):
    recipe = with_overrides(for_objective(recipes.paper(), "gcs"), overrides)
    source = generator()
    assert all(changed(draws.times(recipe, 5000, source)) for _ in range(100))
