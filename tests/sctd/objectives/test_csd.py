from typing import Any

import pytest
import torch

from sctd.diffusion.guidance import cfg
from sctd.diffusion.times import Times
from sctd.experiments.testbed import evaluate, settings
from sctd.objectives import gradient
from sctd.objectives.csd import csd
from sctd.recipe.effects import has_effect, with_settings
from sctd.recipe.methods import for_objective
from sctd.recipe.presets import paper
from sctd.recipe.recipe import RecipeError, with_overrides
from sctd.train import optimize
from tests.support.analytic import STABLE_DIFFUSION, Mixture, mixture
from tests.support.tiny_prior import TinyPrior, ball, recipe

AUTHORS = (1.0, 0.5)


def arguments(world: Mixture, t: int = 560, progress: float = 0.5) -> dict[str, Any]:
    """Text for mode 0, and a negative prompt for the last."""
    z_0, noise = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guided, text = cfg(world, 7.5, world.null), world.text([0], 3)
    given = {"z_0": z_0, "denoise": guided, "text": text, "noise": noise, "times": Times(t, t, t)}
    return given | {
        "schedule": world.schedule, "unguided": world, "negative": world.text([-1]), "progress": progress,
    }  # fmt: skip


def predictions(given: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """ε_y, ε_∅ and ε_neg of the noisy latents."""
    world, times = given["unguided"], given["times"]
    z_t = given["schedule"].noised(given["z_0"], given["noise"], times.t)
    negative = given["negative"].expand(3, -1, -1)
    return world(z_t, times.t, given["text"]), world(z_t, times.t, None), world(z_t, times.t, negative)


def test_it_is_the_score_of_the_classifier_without_guidance() -> None:
    given = arguments(mixture(5, spread=0.3))
    eps_text, eps_null, _ = predictions(given)
    torch.testing.assert_close(csd(**given), eps_text - eps_null, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("progress", "omega"), [(0.0, 1.0), (0.25, 0.875), (1.0, 0.5)])
def test_the_negative_prompt_takes_a_share_of_the_empty_prompt_that_moves_between_its_ends(progress, omega) -> None:
    given = arguments(mixture(5, spread=0.3), progress=progress)
    eps_text, eps_null, eps_negative = predictions(given)
    expected = eps_text - omega * eps_negative - (1 - omega) * eps_null
    torch.testing.assert_close(csd(**given, negative_weight=AUTHORS), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "progress", "count"),
    [
        ((0.0, 0.0), 0.5, 2),
        ((1.0, 1.0), 0.5, 2),
        (AUTHORS, 0.0, 2),
        (AUTHORS, 0.5, 3),
        (AUTHORS, 1.0, 3),
        ((0.0, 1.0), 0.5, 3),
        ((0.0, 1.0), 1.0, 2),
    ],
)
def test_number_of_unet_evaluations(weights, progress, count) -> None:
    """One sample each: the text, and those of the empty and the negative prompt whose weight is not 0."""
    world = mixture(5, spread=0.3)
    csd(**arguments(world, progress=progress), negative_weight=weights)
    assert (world.calls, world.samples) == (count, 3 * count)


def test_data_at_one_point_need_no_classifier() -> None:
    """The text says nothing: no gradient, wherever z_0 is."""
    given = arguments(mixture(1, spread=0.0))
    assert csd(**given, negative_weight=AUTHORS).abs().max() < 1e-9


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_for_points_of_each_prompt_it_leads_from_the_others_to_that_of_the_text(progress: float) -> None:
    """ε = (z_t − α point)/σ: ((1 − ω) null + ω negative − text)/k_t, whatever z_0 and its noise are."""
    given, schedule = arguments(mixture(3, spread=0.0), progress=progress), mixture(3, spread=0.0).schedule
    target, elsewhere, worse = mixture(3, spread=0.0).means
    points = {1.0: target, 2.0: worse}

    def denoise(z_t, t, text):
        point = elsewhere if text is None else points[float(text[0, 0, 0])]
        return (z_t - schedule.alpha[t] * point) / schedule.sigma[t]

    given |= {"denoise": denoise, "unguided": denoise, "text": torch.ones(3, 1, 1).double()}
    given |= {"negative": 2 * torch.ones(1, 1, 1).double()}
    omega = 1 - progress / 2
    expected = ((1 - omega) * elsewhere + omega * worse - target) / schedule.k[560]
    found = csd(**given, negative_weight=AUTHORS)
    torch.testing.assert_close(found, expected.expand(3, -1, -1, -1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("step", [0, 2500, 9999, 10_000])
@pytest.mark.parametrize("t", [20, 350, 499])
def test_parity_with_the_released_code(t: int, step: int) -> None:
    """Its stage on Stable Diffusion, read as its configuration and its loss are written.

    u = −1 → −0.5 and n = 0 → −0.5 over 10,000 steps, m = 0; w = 1 − ᾱ_t; the loss is half the squared distance of z_0
    from the constant z_0 − g, divided by the batch.
    """
    given = arguments(mixture(5, spread=0.3), t, step / 10_000)
    betas = torch.linspace(STABLE_DIFFUSION["beta_start"] ** 0.5, STABLE_DIFFUSION["beta_end"] ** 0.5, 1000) ** 2
    alphas_cumprod = (1 - betas).cumprod(0).double()
    z_0, noise, world = given["z_0"].clone().requires_grad_(), given["noise"], given["unguided"]
    with torch.no_grad():
        z_t = alphas_cumprod[t].sqrt() * z_0 + (1 - alphas_cumprod[t]).sqrt() * noise
        texts = torch.cat([given["text"], given["negative"].expand(3, -1, -1), world.null.expand(3, -1, -1)])
        eps_text, eps_negative, eps_null = world(torch.cat([z_t] * 3), t, texts).chunk(3)
        u, n, m = -1 + 0.5 * step / 10_000, -0.5 * step / 10_000, 0
        grad = (1 - alphas_cumprod[t]) * (1.0 * eps_text + u * eps_negative + n * eps_null + m * noise)
        target = z_0 - grad
    (expected,) = torch.autograd.grad(0.5 * ((z_0 - target) ** 2).sum() / len(z_0), z_0)
    ours = gradient(
        csd(**given, negative_weight=AUTHORS),
        schedule=given["schedule"], times=given["times"], time_weight="one_minus_alpha_bar", weight=1.0,
        clamp=(0.0, 0.0), progress=given["progress"],
    )  # fmt: skip
    torch.testing.assert_close(ours / len(z_0), expected, rtol=1e-8, atol=1e-8)


def test_a_run_has_the_negative_prompt_of_its_recipe_and_no_guidance() -> None:
    """Two iterations: ω is 3/4 and 1/2. The scale changes nothing."""
    chosen = with_overrides(
        for_objective(recipe(iterations=2, noise__kind="fresh"), "csd-authors"), {"noise.offset": 0}
    )
    prior = TinyPrior()
    embedded, embed = [], prior.embed
    prior.embed = lambda texts: (embedded.extend(texts), embed(texts))[1]
    *_, last = optimize.optimize(chosen, prior, ball(), "a red ball", 0)
    assert "oversaturated color, ugly, tiling, low quality, noisy" in embedded
    assert len(prior.calls) == 6
    louder = with_overrides(chosen, {"guidance.scale": 100})
    *_, other = optimize.optimize(louder, TinyPrior(), ball(), "a red ball", 0)
    assert torch.equal(last.gaussians.means, other.gaussians.means)


def test_settings_without_effect_are_refused() -> None:
    shared, authors = (for_objective(paper(), name) for name in ("csd", "csd-authors"))
    for key in ("guidance.scale", "guidance.perp_neg", "guidance.negative_prompt"):
        assert not has_effect(shared, key)
    assert has_effect(shared, "guidance.view_text")
    assert [has_effect(each, "objective.negative_prompt") for each in (shared, authors)] == [False, True]
    with pytest.raises(RecipeError, match=r"guidance.scale has no effect on csd; keys read there: guidance.prompt_"):
        with_settings(shared, {"guidance.scale": 10})


def test_on_exact_scores_it_overshoots() -> None:
    """Nothing but the classifier pulls, and it grows beyond the data: norms 1.28 to 1.43 after 600 iterations."""
    found = evaluate(settings("csd", {"iterations": 600, "cameras.views": 32}))
    assert found.norm_ratio > 1.2
