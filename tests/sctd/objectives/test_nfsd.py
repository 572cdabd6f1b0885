from typing import Any

import pytest
import torch

from sctd.diffusion.guidance import cfg
from sctd.diffusion.times import Times
from sctd.experiments.testbed import evaluate, settings
from sctd.objectives import gradient
from sctd.objectives.csd import csd
from sctd.objectives.nfsd import nfsd
from sctd.recipe.methods import for_objective
from sctd.recipe.presets import embedded, paper
from sctd.train import optimize
from tests.support.analytic import STABLE_DIFFUSION, Mixture, mixture
from tests.support.tiny_prior import TinyPrior, ball, recipe

BOTH = pytest.mark.parametrize("t", [199, 200], ids=["t < 200", "t ≥ 200"])


def arguments(world: Mixture, t: int = 560, scale: float = 7.5) -> dict[str, Any]:
    """Text for mode 0, and a negative prompt for the last."""
    z_0, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guided, text = cfg(world, scale, world.null), world.text([0], 3)
    given = {"z_0": z_0, "denoise": guided, "text": text, "noise": noise, "times": Times(t, t, t)}
    return given | {"schedule": world.schedule, "unguided": world, "negative": world.text([-1])}


@BOTH
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_it_is_the_sum_of_its_two_terms(t: int, scale: float) -> None:
    given = arguments(mixture(5, spread=0.3), t, scale)
    world, z_t = given["unguided"], given["schedule"].noised(given["z_0"], given["noise"], t)
    eps_null = world(z_t, t, None)
    delta_C = world(z_t, t, given["text"]) - eps_null
    delta_D = eps_null if t < 200 else eps_null - world(z_t, t, given["negative"].expand(3, -1, -1))
    torch.testing.assert_close(nfsd(**given), delta_D + scale * delta_C, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("t", "calls", "samples"), [(20, 1, 2), (199, 1, 2), (200, 2, 3), (980, 2, 3)])
def test_number_of_unet_evaluations(t: int, calls: int, samples: int) -> None:
    """A guided prediction of two samples, and from t = 200 on one with the negative prompt."""
    world = mixture(5, spread=0.3)
    nfsd(**arguments(world, t))
    assert (world.calls, world.samples) == (calls, 3 * samples)


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_for_a_point_of_each_prompt_both_branches_have_a_closed_form(scale: float) -> None:
    """ε = (z_t − α point)/σ = ε* + (z_0 − point)/k: below 200 it is SDS and the noise ε* itself, which stays.

    From 200 on it leads from the point of the negative prompt to the guided one, whatever z_0 and ε* are.
    """
    target, elsewhere, worse = mixture(3, spread=0.0).means
    guided_point = elsewhere + scale * (target - elsewhere)
    points = {0.0: elsewhere, 1.0: target, 2.0: worse}
    for t in (100, 560):
        given = arguments(mixture(3, spread=0.0), t)
        schedule = given["schedule"]

        def denoise(z_t, t, text, schedule=schedule):
            point = torch.stack([points[float(each)] for each in text[:, 0, 0]])
            return (z_t - schedule.alpha[t] * point) / schedule.sigma[t]

        one = torch.ones(1, 1, 1, dtype=torch.float64)
        given |= {"denoise": cfg(denoise, scale, 0 * one), "unguided": denoise, "negative": 2 * one}
        given |= {"text": one.expand(3, -1, -1)}
        if t < 200:
            expected = given["noise"] + (given["z_0"] - guided_point) / schedule.k[t]
        else:
            expected = ((worse - guided_point) / schedule.k[t]).expand(3, -1, -1, -1)
        torch.testing.assert_close(nfsd(**given), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [20, 199, 200, 560, 979])
def test_parity_with_its_ports(t: int) -> None:
    """There is no released code. All ports compute (1 − ᾱ_t) (δ_D + 7.5 δ_C) from one batch of three predictions."""
    given = arguments(mixture(5, spread=0.3), t)
    betas = torch.linspace(STABLE_DIFFUSION["beta_start"] ** 0.5, STABLE_DIFFUSION["beta_end"] ** 0.5, 1000) ** 2
    alphas_cumprod = (1 - betas).cumprod(0).double()
    z_0, world = given["z_0"].clone().requires_grad_(), given["unguided"]
    with torch.no_grad():
        z_t = alphas_cumprod[t].sqrt() * z_0 + (1 - alphas_cumprod[t]).sqrt() * given["noise"]
        texts = torch.cat([given["text"], world.null.expand(3, -1, -1), given["negative"].expand(3, -1, -1)])
        eps_text, eps_null, eps_negative = world(torch.cat([z_t] * 3), t, texts).chunk(3)
        delta_D = torch.where(torch.tensor(t) < 200, eps_null, eps_null - eps_negative)
        grad = (1 - alphas_cumprod[t]) * (delta_D + 7.5 * (eps_text - eps_null))
        target = z_0 - grad
    (expected,) = torch.autograd.grad(0.5 * ((z_0 - target) ** 2).sum() / len(z_0), z_0)
    ours = gradient(
        nfsd(**given), schedule=given["schedule"], times=given["times"], time_weight="one_minus_alpha_bar", weight=1.0,
        clamp=(0.0, 0.0), progress=0.5,
    )  # fmt: skip
    torch.testing.assert_close(ours / len(z_0), expected, rtol=1e-8, atol=1e-8)


def test_with_an_empty_negative_prompt_it_is_csd_times_the_scale_from_200_on() -> None:
    given = arguments(mixture(5, spread=0.3))
    given["negative"] = given["unguided"].null
    expected = 7.5 * csd(**given, progress=0.5)
    torch.testing.assert_close(nfsd(**given), expected, rtol=1e-9, atol=1e-9)


def test_its_empty_prompt_is_empty_in_every_base_and_its_negative_prompt_is_embedded() -> None:
    """The paper's base has a negative prompt in the guidance, which would take the place of ∅."""
    assert paper().guidance.negative_prompt
    assert [for_objective(base(), "nfsd").guidance.negative_prompt for base in (paper, embedded)] == ["", ""]
    prior = TinyPrior()
    seen, embed = [], prior.embed
    prior.embed = lambda texts: (seen.extend(texts), embed(texts))[1]
    list(optimize.optimize(for_objective(recipe(iterations=2), "nfsd"), prior, ball(), "a red ball", 0))
    assert "" in seen
    assert any(text.startswith("unrealistic, blurry, low quality, out of focus") for text in seen)


def test_on_exact_scores_high_times_oversaturate() -> None:
    """As SDS with t up to 980 throughout. Norms of 1.10 to 1.14, and 2.37 to 2.58, after 600 iterations."""
    norms = [
        evaluate(settings(name, {"iterations": 600, "cameras.views": 32})).norm_ratio
        for name in ("nfsd", "nfsd-authors")
    ]
    assert norms[0] < 1.4 < norms[1]
