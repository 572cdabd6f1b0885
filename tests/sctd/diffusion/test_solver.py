import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DPMSolverMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from sctd.diffusion.solver import inversion_noise, invert, joined, jump, second_order
from sctd.diffusion.times import Times
from tests.support.analytic import STABLE_DIFFUSION, mixture, schedule

SHAPE = (1, 4, 2, 2)
# diffusers 0.42 makes numpy copy a tensor in a way that numpy 2 deprecates.
NUMPY_2 = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def latents(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype).unbind()


@pytest.mark.parametrize(("t", "s"), [(980, 788), (500, 20), (100, 0), (20, 500)])
def test_jump_equals_equation_5_integrated_numerically(t, s):
    ours, (z_t, eps) = schedule(), latents()
    log_snr = [math.log(ours.alpha[i] / ours.sigma[i]) for i in (t, s)]
    integral, _ = quad(lambda lam: math.exp(-lam), *log_snr, epsabs=1e-13, epsrel=1e-13)
    expected = ours.alpha[s] / ours.alpha[t] * z_t - ours.alpha[s] * eps * integral
    torch.testing.assert_close(jump(ours, z_t, eps, t, s), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("t", "s"), [(981, 961), (501, 481), (21, 1)])
def test_jump_to_less_noise_equals_a_ddim_step_of_diffusers(t, s):
    """diffusers works in float32 throughout, hence 1e-6 relative to latents of size one."""
    theirs = DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    theirs.set_timesteps(50)
    z_t, eps = latents(dtype=torch.float32)
    torch.testing.assert_close(
        jump(schedule(), z_t, eps, t, s), theirs.step(eps, t, z_t).prev_sample, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("s", [21, 501, 981])
def test_jump_to_more_noise_equals_an_inverse_ddim_step_of_diffusers(s):
    """diffusers names the step by its target, which is 1000/50 indices above its start."""
    theirs = DDIMInverseScheduler(**STABLE_DIFFUSION, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    theirs.set_timesteps(50)
    z_t, eps = latents(dtype=torch.float32)
    torch.testing.assert_close(
        jump(schedule(), z_t, eps, s - 20, s), theirs.step(eps, s, z_t).prev_sample, rtol=2e-6, atol=2e-6
    )


def test_jump_with_v_prediction_equals_its_closed_form():
    """G = (α_s α_t + σ_s σ_t) z_t + (σ_s α_t − α_s σ_t) v."""
    ours, (z_t, v) = schedule(), latents()
    (a_t, b_t), (a_s, b_s) = [(ours.alpha[i], ours.sigma[i]) for i in (700, 200)]
    torch.testing.assert_close(
        jump(ours, z_t, ours.eps_from_v(z_t, v, 700), 700, 200),
        (a_s * a_t + b_s * b_t) * z_t + (b_s * a_t - a_s * b_t) * v,
        rtol=0, atol=1e-14,
    )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(t=st.integers(0, 999), s=st.integers(0, 999), seed=st.integers(0, 9))
def test_a_jump_and_its_reverse_cancel(t, s, seed):
    ours, (z_t, eps) = schedule(), latents(seed)
    torch.testing.assert_close(jump(ours, jump(ours, z_t, eps, t, s), eps, s, t), z_t, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("t", "s"), [(940, 20), (20, 940)])
def test_repeated_jumps_converge_to_the_flow_at_first_order(t, s):
    """Halving the step halves the distance to the exact solution, in both directions."""
    world = mixture(1, spread=0.5)
    z_t = latents()[0]

    def distance(steps: int) -> float:
        z, length = z_t, (s - t) // steps
        for a in range(t, s, length):
            z = jump(world.schedule, z, world(z, a, None), a, a + length)
        return float((z - world.flow(z_t, t, s)).norm())

    distances = [distance(steps) for steps in (115, 230, 460)]
    orders = [math.log2(a / b) for a, b in pairwise(distances)]
    assert distances[-1] < 0.02
    assert orders == pytest.approx([1, 1], abs=0.15)


def test_joined_noise_reproduces_two_jumps_in_one():
    ours, (z_a, first) = schedule(), latents()
    second = latents(1)[0]
    for a, b, c in [(20, 300, 500), (500, 300, 20), (200, 210, 980)]:
        both = jump(ours, jump(ours, z_a, first, a, b), second, b, c)
        torch.testing.assert_close(
            jump(ours, z_a, joined(ours, first, second, (a, b, c)), a, c), both, rtol=0, atol=1e-13
        )


@pytest.mark.parametrize(("t", "calls"), [(400, 2), (151, 2), (150, 1), (90, 1)])
def test_inversion_equals_equation_11(t, calls):
    """Two steps through s if t > t_τ = 150, else one, all with the empty prompt."""
    world = mixture(3, spread=0.3)
    z_sm, times = latents()[0], Times(t=t, s=50, s_m=10)
    z_t = invert(world.schedule, world, z_sm, times, threshold=150)
    assert world.calls == calls

    if calls == 2:
        z_s = jump(world.schedule, z_sm, world(z_sm, 10, None), 10, 50)
        expected = jump(world.schedule, z_s, world(z_s, 50, None), 50, t)
    else:
        expected = jump(world.schedule, z_sm, world(z_sm, 10, None), 10, t)
    torch.testing.assert_close(z_t, expected, rtol=0, atol=1e-13)


def test_inversion_of_data_at_one_point_is_exact():
    """ε is constant along the flow, so even two steps reach the exact solution."""
    world = mixture(1, spread=0.0)
    z_sm, times = latents()[0], Times(t=800, s=300, s_m=200)
    exact = world.flow(z_sm, 200, 800)
    torch.testing.assert_close(invert(world.schedule, world, z_sm, times, threshold=150), exact, rtol=0, atol=1e-12)
    eps = inversion_noise(world.schedule, world, z_sm, times, threshold=150)
    torch.testing.assert_close(eps, world(z_sm, 200, None), rtol=0, atol=1e-12)


@NUMPY_2
@pytest.mark.parametrize("steps", [8, 25])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_second_order_equals_diffusers_dpm_solver(prediction, steps):
    """The last step is of first order. diffusers rounds every latent to float32, 1e-6 of its size."""
    world = mixture(3, spread=0.3)
    text, z_t = world.text([0], batch=1), 3 * latents()[0]
    theirs = DPMSolverMultistepScheduler(**STABLE_DIFFUSION, prediction_type=prediction)
    theirs.set_timesteps(steps)
    times = theirs.timesteps.tolist()
    variance = theirs.alphas_cumprod.double()
    exact = ((1 - variance) / variance).sqrt()[times]
    theirs.sigmas = torch.cat([exact, torch.zeros(1, dtype=torch.float64)])  # diffusers' are float32

    z = z_t
    for t in times:
        eps = world(z, t, text)
        alpha, sigma = world.schedule.alpha[t], world.schedule.sigma[t]
        v = (eps - sigma * z) / alpha
        z = theirs.step(eps if prediction == "epsilon" else v, t, z).prev_sample
    ours = second_order(world.schedule, world, z_t, times, text)
    ours = world.schedule.clean(ours, world(ours, times[-1], text), times[-1])
    torch.testing.assert_close(ours, z, rtol=0, atol=2e-6)


def test_second_order_converges_to_the_flow_at_second_order():
    """Halving the step quarters the distance to the exact solution; first-order jumps only halve it."""
    world = mixture(1, spread=0.5)
    z_t = latents()[0]

    def distance(steps: int) -> float:
        times = range(940, 19, -920 // steps)
        return float((second_order(world.schedule, world, z_t, times, None) - world.flow(z_t, 940, 20)).norm())

    distances = [distance(steps) for steps in (115, 230, 460)]
    orders = [math.log2(a / b) for a, b in pairwise(distances)]
    assert distances[-1] < 2e-4
    assert orders == pytest.approx([2, 2], abs=0.15)


def test_second_order_samples_of_a_gaussian_have_its_mean_and_spread():
    """25 steps, as `segmentdreamer reference` takes, from the marginal at 999: 4,000 latents of N(mean, 0.5²).

    Equal up to sampling error, except that the last step, from 40 to no noise, takes the expected z_0, whose deviation
    lacks the uncertainty left at time 40.
    """
    world = mixture(1, spread=0.5)
    alpha, sigma = world.schedule.alpha[999], world.schedule.sigma[999]
    noise = torch.randn(4000, *SHAPE[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z_t = alpha * world.means + (alpha**2 / 4 + sigma**2).sqrt() * noise
    times = [round(i * 999 / 25) for i in range(25, 0, -1)]
    z = second_order(world.schedule, world, z_t, times, None)
    z_0 = world.schedule.clean(z, world(z, times[-1], None), times[-1])
    torch.testing.assert_close(z_0.mean(0), world.means[0], rtol=0, atol=4 * 0.5 / 4000**0.5)
    unknown = float(world.schedule.k[times[-1]] / 0.5)
    assert float((z_0 - world.means[0]).std()) == pytest.approx(0.5 / math.hypot(1, unknown), rel=0.01)


def test_second_order_is_exact_for_data_at_one_point():
    world = mixture(1, spread=0.0)
    z_t, times = latents()[0], [999, 500, 100, 20]
    exact = world.flow(z_t, 999, 20)
    torch.testing.assert_close(second_order(world.schedule, world, z_t, times, None), exact, rtol=0, atol=1e-12)
