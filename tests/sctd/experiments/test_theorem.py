"""Claims of the paper with closed-form scores and flows: Eq. 7 to 9, and Theorem 1."""

from itertools import pairwise

import pytest
import torch

from sctd.diffusion.guidance import cfg
from sctd.diffusion.solver import jump
from sctd.diffusion.times import Times
from sctd.experiments import theorem
from sctd.experiments.theorem import exact_flow, largest_trajectory_error, one_jump, slope, steps_of, trajectory_error
from sctd.objectives import WEIGHTS, load
from tests.support.analytic import mixture
from tests.support.paths import DOCS

PAGE = (DOCS / "testbed.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("times", [Times(t=560, s=450, s_m=400), Times(t=120, s=60, s_m=20)])
@pytest.mark.parametrize("w", [0.0, 6.5, 100.0])
def test_equations_7_8_and_9_are_equal(times, w):
    """SDS by consistency functions. w is the paper's, one less than ours. ẑ_s cancels, so any value is valid."""
    world, (t, s, s_m) = mixture(5, spread=0.3), times
    schedule, text = world.schedule, world.text([0], 3)
    z_0, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()
    z_sm, z_t = schedule.noised(z_0, noise, s_m), schedule.noised(z_0, noise, t)

    eps_text, eps_null = world(z_t, t, text), world(z_t, t, None)
    equation_7 = eps_text - noise + w * (eps_text - eps_null)

    G_t_text, G_t_null = (jump(schedule, z_t, eps, t, s_m) for eps in (eps_text, eps_null))
    z_s = jump(schedule, z_t, eps_text, t, s)
    G_s_text, G_s_null = (jump(schedule, z_s, world(z_s, s, y), s, s_m) for y in (text, None))
    equation_8 = (G_s_text - G_t_text) + w * (G_t_null - G_t_text) + (z_sm - G_s_text)
    equation_9 = (G_s_null - G_t_null) + (w + 1) * (G_t_null - G_t_text) + (z_sm - G_s_null)
    root_b = WEIGHTS["b_t"](schedule, times) ** 0.5
    largest = float(equation_7.abs().max())
    torch.testing.assert_close(root_b * equation_8, equation_7, rtol=0, atol=1e-12 * largest)
    torch.testing.assert_close(root_b * equation_9, equation_7, rtol=0, atol=1e-12 * largest)

    guided = cfg(world, w + 1, world.null)
    ours = load("sds")(z_0, denoise=guided, text=text, noise=noise, times=times, schedule=schedule)
    torch.testing.assert_close(ours, equation_7, rtol=0, atol=1e-12 * largest)


@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("times", [Times(t=560, s=450, s_m=400), Times(t=120, s=60, s_m=20)])
def test_for_data_at_one_point_only_cds_gives_no_gradient_towards_the_text(times, scale):
    """ε is constant along a flow towards one point, so both predictions of CDS agree, for any asset.

    ISM, SCTD and GCS point from the empty prompt's point to the text's. SDS points from the asset to the text's point.
    """
    schedule, (target, elsewhere) = mixture(2, spread=0.0).schedule, mixture(2, spread=0.0).means
    z_0, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).unbind()

    def denoise(z_t, t, text):
        point = elsewhere if text is None else elsewhere + scale * (target - elsewhere)
        return (z_t - schedule.alpha[t] * point) / schedule.sigma[t]

    text, (t, s, s_m) = torch.ones(3, 1, 1, dtype=torch.float64), times
    away = (scale * (elsewhere - target)).expand_as(z_0)
    k_t, k_s, k_m = schedule.k[t], schedule.k[s], schedule.k[s_m]
    expected = {
        "cds": torch.zeros_like(z_0),
        "sds": (z_0 - elsewhere + away) / k_t,
        "ism": away / k_t,
        "sctd": schedule.alpha[s_m] * ((k_t - k_s) * k_m / k_s + 8.5 * (k_t - k_m)) / k_t * away,
        "sctd-official": schedule.alpha[s_m] * (-(k_t - k_s) * k_m / k_s + 8.5 * (k_t - k_m)) / k_t * away,
        "gcs": (2 * schedule.alpha[s_m] * schedule.sigma[s_m] * (1 / k_s - 1 / k_t) + 1) * away,
    }
    residual = {
        name: load(name)(z_0, denoise=denoise, text=text, noise=noise, times=times, schedule=schedule)
        for name in expected
    }
    for name in expected:
        torch.testing.assert_close(
            residual[name], expected[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_one_step_cross_consistency_equals_ism_from_the_segment_start():
    """LucidDreamer's residual with s = s_m, times the interval."""
    world, (t, s, s_m) = mixture(5, spread=0.3), Times(t=120, s=60, s_m=20)
    z_0, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()
    guided = cfg(world, 7.5, world.null)
    given = {"denoise": guided, "text": world.text([0], 3), "noise": noise, "schedule": world.schedule}
    one, none = (load("sctd")(z_0, times=Times(t, s, s_m), outer_weight=w, **given) for w in (1.0, 0.0))
    ism = load("ism")(z_0, times=Times(t, s_m, s_m), **given)
    length = world.schedule.alpha[s_m] * (world.schedule.k[t] - world.schedule.k[s_m])
    torch.testing.assert_close(one - none, length * ism, rtol=0, atol=1e-12)


def test_smaller_steps_converge_to_the_exact_flow():
    data = theorem.GaussianData(mean=0.5, spread=0.4)
    z_t = torch.tensor([-2.0, 0.3, 1.5], dtype=torch.float64).view(-1, 1, 1, 1)
    for t, s in [(980, 20), (20, 980)]:
        one, two = (steps_of(step)(data, z_t, t, s) for step in (2, 1))
        torch.testing.assert_close(
            2 * two - one, exact_flow(data, z_t, t, s), rtol=0, atol=1e-4
        )  # Richardson extrapolation
        assert torch.equal(steps_of(960)(data, z_t, t, s), one_jump(data, z_t, t, s))


@pytest.mark.parametrize("spread", [0.35, 1.0])
@pytest.mark.parametrize("segments", [1, 4, 32])
def test_theorem_1_error_is_of_first_order_in_the_solver_step(segments, spread):
    errors = [largest_trajectory_error(steps_of(step), segments, spread=spread) for step in (3, 5, 15)]
    assert slope((3, 5, 15), errors) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("spread", [0.35, 1.0])
def test_theorem_1_error_is_bounded_by_the_segment_length(spread):
    """It shrinks with every halving, and C Δt (s_{m+1} − s_m) with C of the shortest segment bounds all.

    The bound is not tight: the flow contracts early errors, so the slope is below 1.
    """
    segments = (1, 2, 4, 8, 16, 32)
    errors = [largest_trajectory_error(steps_of(15), n, spread=spread) for n in segments]
    assert all(longer > shorter for longer, shorter in pairwise(errors))
    constant = errors[-1] / 30
    assert all(error <= constant * 960 / n * (1 + 1e-9) for error, n in zip(errors, segments, strict=True))
    assert 0.25 < slope([960 / n for n in segments], errors) < 0.75


@pytest.mark.parametrize("start", [260, 500])
def test_theorem_1_slope_in_length_is_nearly_1_at_high_noise(start):
    lengths = (30, 60, 120)
    errors = [trajectory_error(steps_of(15), start, start + length) for length in lengths]
    assert 0.88 < slope(lengths, errors) < 1


def test_error_of_one_jump_is_of_second_order_in_the_segment_length():
    lengths = (15, 30, 60, 120)
    errors = [trajectory_error(one_jump, 500, 500 + length) for length in lengths]
    assert slope(lengths, errors) == pytest.approx(2, abs=0.1)


def test_table_1_ranking_of_the_objectives():
    """Whole trajectories have 2.5 and 1.9 times the error, less than the bounds' 5 and 2.5 times."""
    cds, gcs, sctd = (error for _, _, error in theorem.bounds(15 // 5).values())
    assert 2 < cds / sctd < 5
    assert 1.5 < gcs / sctd < 2.5
    assert cds > gcs


@pytest.mark.parametrize(("start", "end"), [(20, 100), (20, 150)])
def test_inversion_residual_equals_the_sctd_objective(start, end):
    """For one jump, and segments short enough for one step of inversion."""
    z_0, noise = torch.randn(2, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()

    def denoise(z_t, t, text):
        return (theorem.NULL if text is None else theorem.TEXT).noise(z_t, t)

    times = Times(t=end, s=(start + end) // 2, s_m=start)
    given = {"denoise": denoise, "noise": noise, "times": times, "schedule": theorem.SCHEDULE}
    text = torch.ones(1, 1, 1, dtype=torch.float64)
    ours = load("sctd")(z_0, text=text, **given)
    torch.testing.assert_close(theorem.inversion_residual(one_jump, z_0, noise, start, end), ours, rtol=0, atol=1e-13)

    for _ in range(300):
        z_0 = z_0 - 0.3 * load("sctd")(z_0, text=text, **{**given, "noise": torch.zeros_like(noise)})
    assert float(z_0) == pytest.approx(theorem.inversion_asset(one_jump, start, end), abs=1e-9)


@pytest.mark.parametrize("start", [260, 500])
def test_inversion_error_depends_on_the_solver_step_but_not_on_the_segment_length(start):
    """The residual scales with the segment length too, so the length cancels. The theorem does not cover this."""
    across = [theorem.inversion_error(steps_of(step), start, start + 240) for step in (3, 5, 15)]
    assert slope((3, 5, 15), across) == pytest.approx(1, abs=0.05)
    along = [theorem.inversion_error(steps_of(15), start, start + length) for length in (30, 60, 120, 240)]
    assert abs(slope((30, 60, 120, 240), along)) < 0.25
    jumped = [theorem.inversion_error(one_jump, start, start + length) for length in (30, 60, 120, 240)]
    assert slope((30, 60, 120, 240), jumped) == pytest.approx(0.93, abs=0.06)


def test_with_exact_flows_the_inversion_asset_is_not_the_mean_of_the_data():
    """It is beyond the text's mean at 1, away from the empty prompt's at 0, and farther for noisier segments."""
    ends = [theorem.inversion_asset(exact_flow, start, start + 120) for start in (20, 260, 500)]
    assert 1.3 < ends[0] < ends[1] < ends[2]


def test_steps_that_do_not_divide_the_interval_are_rejected():
    with pytest.raises(ValueError, match="steps of 7 do not divide 100 to 20: use a divisor of 80"):
        trajectory_error(steps_of(7), 20, 100)


def test_slope_equals_the_exponent():
    assert slope((1, 3, 7), (2.0, 2 * 3**1.5, 2 * 7**1.5)) == pytest.approx(1.5, abs=1e-12)


@pytest.mark.parametrize("name", ["trajectory", "length", "bounds", "inversion"])
def test_tables_of_the_testbed_page_are_current(name, tables):
    assert tables[name] in PAGE, (
        "docs/testbed.md is out of date: paste what `python -m sctd.experiments.theorem` prints"
    )


@pytest.fixture(scope="module")
def tables():
    return theorem.tables()
