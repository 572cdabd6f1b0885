from itertools import pairwise

import pytest
import torch

from sctd.diffusion.guidance import cfg
from sctd.diffusion.solver import jump
from sctd.diffusion.times import Times
from sctd.experiments.testbed import Mixture, evaluate, settings
from sctd.objectives.sdi import sdi
from tests.support.analytic import mixture

AT_560, AT_120 = Times(560, 560, 560), Times(120, 120, 120)


def arguments(world: Mixture, times: Times, *, scale: float = 7.5) -> dict:
    z_0, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guided, text = cfg(world, scale, world.null), world.text([0], 3)
    return {"z_0": z_0, "denoise": guided, "text": text, "noise": noise, "times": times, "schedule": world.schedule}


@pytest.mark.parametrize("rho", [-1.0, -6.5 / 8.5, 0.0, 1.0])
@pytest.mark.parametrize(("times", "path"), [(AT_560, [0, 200, 400, 560]), (AT_120, [0, 120])])
def test_the_noise_is_that_of_an_inversion_in_latents(times, path, rho):
    """κ = (z_t − α_t z_0)/σ_t, with z_t from solver steps along the path, guided by ε_∅ + ρ (ε̂ − ε_∅)."""
    given = arguments(mixture(5, spread=0.3), times)
    z_0, denoise, text, schedule = (given[name] for name in ("z_0", "denoise", "text", "schedule"))
    z = schedule.noised(z_0, given["noise"], 0)
    for a, b in pairwise(path):
        null = denoise(z, a, None)
        z = jump(schedule, z, null + rho * (denoise(z, a, text) - null), a, b)
    kappa = (z - schedule.alpha[times.t] * z_0) / schedule.sigma[times.t]
    expected = denoise(z, times.t, text) - kappa
    torch.testing.assert_close(sdi(**given, inversion_guidance=rho), expected, rtol=1e-9, atol=1e-9)


def test_with_its_authors_weight_it_is_the_distance_to_the_clean_prediction():
    """z_0 − ẑ_0 = (σ_t/α_t)(ε̂ − κ), the gradient of ‖z_0 − ẑ_0‖²/2 with ẑ_0 held fixed."""
    given = arguments(mixture(5, spread=0.3), AT_560)
    schedule, seen = given["schedule"], []

    def denoise(z_t, t, text):
        seen.append((z_t, t, predicted := given["denoise"](z_t, t, text)))
        return predicted

    residual = sdi(**{**given, "denoise": denoise})
    z_t, t, eps = seen[-1]
    assert t == 560
    expected = given["z_0"] - schedule.clean(z_t, eps, t)
    torch.testing.assert_close(schedule.k[t] * residual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rho", [-1.0, 0.5])
@pytest.mark.parametrize("times", [AT_560, AT_120])
def test_for_data_at_one_point_it_points_there_from_any_noise(times, rho):
    """All predictions towards one point are equal along a flow, so κ cancels: (z_0 − point)/k_t, as SDS."""
    world = mixture(1, spread=0.0)
    given = arguments(world, times)
    found = sdi(**given, inversion_guidance=rho)
    torch.testing.assert_close(found, (given["z_0"] - world.means[0]) / world.schedule.k[times.t], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("step", "steps"), [(200, 3), (100, 6), (560, 1), (1000, 1)])
def test_number_of_unet_evaluations(step, steps):
    """One step: a prediction with ∅, and a guided one of two samples; then one guided prediction at t."""
    world = mixture(5, spread=0.3)
    sdi(**arguments(world, AT_560), inversion_step=step)
    assert (world.calls, world.samples) == (2 * steps + 1, 3 * (3 * steps + 2))


def test_on_exact_scores_it_is_smooth():
    """As ISM, whose noise also comes from an inversion; five seeds of 600 iterations: norms 0.74 to 0.76."""
    found = evaluate(settings("sdi", {"iterations": 600, "cameras.views": 32}))
    assert 0.7 < found.norm_ratio < 0.8
