import math
from itertools import pairwise

import pytest
import torch
from analytic import STABLE_DIFFUSION, mixture, schedule
from diffusers import DDIMInverseScheduler, DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from sctd.solver import inversion_noise, invert, joined, jump
from sctd.times import Times

SHAPE = (1, 4, 2, 2)


def latents(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype).unbind()


@pytest.mark.parametrize(("t", "s"), [(980, 788), (500, 20), (100, 0), (20, 500)])
def test_jump_is_equation_5_integrated_numerically(t, s):
    ours, (z_t, eps) = schedule(), latents()
    log_snr = [math.log(ours.alpha[i] / ours.sigma[i]) for i in (t, s)]
    integral, _ = quad(lambda lam: math.exp(-lam), *log_snr, epsabs=1e-13, epsrel=1e-13)
    expected = ours.alpha[s] / ours.alpha[t] * z_t - ours.alpha[s] * eps * integral
    torch.testing.assert_close(jump(ours, z_t, eps, t, s), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("t", "s"), [(981, 961), (501, 481), (21, 1)])
def test_jump_down_is_a_step_of_diffusers_ddim(t, s):
    """diffusers works in float32 throughout, hence 1e-6 relative to latents of size one."""
    theirs = DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    theirs.set_timesteps(50)
    z_t, eps = latents(dtype=torch.float32)
    torch.testing.assert_close(
        jump(schedule(), z_t, eps, t, s), theirs.step(eps, t, z_t).prev_sample, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("s", [21, 501, 981])
def test_jump_up_is_a_step_of_diffusers_inverse_ddim(s):
    """Its step is named by where it goes, and it starts 1000/50 indices below."""
    theirs = DDIMInverseScheduler(**STABLE_DIFFUSION, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    theirs.set_timesteps(50)
    z_t, eps = latents(dtype=torch.float32)
    torch.testing.assert_close(
        jump(schedule(), z_t, eps, s - 20, s), theirs.step(eps, s, z_t).prev_sample, rtol=2e-6, atol=2e-6
    )


def test_jump_with_v_prediction_has_its_closed_form():
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
def test_there_and_back_again(t, s, seed):
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


def test_two_jumps_joined_are_one():
    ours, (z_a, first) = schedule(), latents()
    second = latents(1)[0]
    for a, b, c in [(20, 300, 500), (500, 300, 20), (200, 210, 980)]:
        both = jump(ours, jump(ours, z_a, first, a, b), second, b, c)
        torch.testing.assert_close(
            jump(ours, z_a, joined(ours, first, second, (a, b, c)), a, c), both, rtol=0, atol=1e-13
        )


@pytest.mark.parametrize(("t", "calls"), [(400, 2), (151, 2), (150, 1), (90, 1)])
def test_inversion_is_equation_11(t, calls):
    """Two steps by way of s if t > t_τ = 150, else one; every one of them for the empty prompt."""
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
    """There ε is constant along the flow, so even two steps lead where the exact solution does."""
    world = mixture(1, spread=0.0)
    z_sm, times = latents()[0], Times(t=800, s=300, s_m=200)
    exact = world.flow(z_sm, 200, 800)
    torch.testing.assert_close(invert(world.schedule, world, z_sm, times, threshold=150), exact, rtol=0, atol=1e-12)
    eps = inversion_noise(world.schedule, world, z_sm, times, threshold=150)
    torch.testing.assert_close(eps, world(z_sm, 200, None), rtol=0, atol=1e-12)
