import pytest
import torch
from diffusers import DDIMScheduler

from sctd.diffusion.schedule import NoiseSchedule, ScheduleError
from tests.support.analytic import STABLE_DIFFUSION, schedule

CONFIGS = {
    "scaled_linear": STABLE_DIFFUSION,
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 500},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": [0.01, 0.02, 0.05]},
    "defaults": {},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_signal_is_diffusers_own(config):
    ours, theirs = NoiseSchedule.from_config(config), DDIMScheduler(**config)
    # α² retakes the square root that α took, in float64: one rounding each.
    torch.testing.assert_close(ours.alpha**2, theirs.alphas_cumprod.double(), rtol=1e-14, atol=0)


def test_variance_is_preserved_and_noise_grows():
    ours = schedule()
    torch.testing.assert_close(ours.alpha**2 + ours.sigma**2, torch.ones(1000, dtype=torch.float64), rtol=1e-15, atol=0)
    assert (ours.k.diff() > 0).all()
    assert ours.num_steps == 1000


def test_noised_has_the_latents_dtype():
    z_0, noise = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    z_t = schedule().noised(z_0, noise, 500)
    assert z_t.dtype == torch.float32
    alphas_cumprod = DDIMScheduler(**STABLE_DIFFUSION).alphas_cumprod[500]
    torch.testing.assert_close(z_t, alphas_cumprod.sqrt() * z_0 + (1 - alphas_cumprod).sqrt() * noise)


def test_v_prediction_is_turned_into_noise():
    """v = α ε − σ z_0 by definition, so the noise comes back exactly."""
    ours = schedule()
    z_0, eps = torch.randn(2, 1, 4, 2, 2, dtype=torch.float64).unbind()
    v = ours.alpha[300] * eps - ours.sigma[300] * z_0
    torch.testing.assert_close(ours.eps_from_v(ours.noised(z_0, eps, 300), v, 300), eps, rtol=0, atol=1e-14)


def test_unknown_schedule_is_refused_by_name():
    with pytest.raises(
        ScheduleError, match=r"beta_schedule is 'sigmoid'; expected 'linear', 'scaled_linear' or 'squared"
    ):
        NoiseSchedule.from_config({"beta_schedule": "sigmoid"})


def test_pure_noise_at_the_end_is_refused():
    with pytest.raises(ScheduleError, match="ends in pure noise"):
        NoiseSchedule.from_config({**STABLE_DIFFUSION, "rescale_betas_zero_snr": True})


def test_to_moves_both():
    assert schedule().to("meta").alpha.device.type == schedule().to("meta").sigma.device.type == "meta"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_train_timesteps": 10**12}, "expected 1 to 1000000 steps"),
        ({"num_train_timesteps": "1000"}, "num_train_timesteps, beta_start and beta_end are '1000', "),
        ({"beta_start": -0.1}, "and numbers between 0 and 1"),
        ({"beta_end": None}, "and numbers between 0 and 1"),
        ({"trained_betas": "x"}, "trained_betas is no list of numbers between 0 and 1"),
        ({"trained_betas": [0.1, 1.0]}, "trained_betas is no list of numbers between 0 and 1"),
    ],
)
def test_impossible_noise_levels_are_refused(changes, sentence):
    with pytest.raises(ScheduleError, match=sentence):
        NoiseSchedule.from_config({"beta_schedule": "linear"} | changes)
