import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sctd.diffusion.guidance import cfg
from sctd.diffusion.segments import equal
from sctd.diffusion.solver import invert, jump
from sctd.diffusion.times import Times, TimesError, annealed_window, draw
from sctd.objectives import ENTRIES, WEIGHTS, gradient, load, of_recipe
from sctd.objectives.sctd import sctd
from sctd.objectives.sds import sds
from sctd.recipe import custom_objective
from sctd.recipe.methods import for_objective
from sctd.recipe.presets import paper
from sctd.recipe.recipe import value_of, with_overrides
from tests.support.analytic import Mixture, mixture
from tests.support.toy_adapters import completed

TWO_STEPS, ONE_STEP = Times(t=560, s=450, s_m=400), Times(t=120, s=60, s_m=20)
BOTH = pytest.mark.parametrize("times", [TWO_STEPS, ONE_STEP], ids=["two steps", "one step"])


def random(count: int, *shape: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind()


def arguments(world: Mixture, times: Times, *, scale: float = 7.5, batch: int = 3) -> dict:
    """The arguments of every objective: text for mode 0, a guided denoiser."""
    z_0, noise = random(2, batch, *world.means.shape[1:])
    guided = cfg(world, scale, world.null)
    text = world.text([0], batch)
    return {"z_0": z_0, "denoise": guided, "text": text, "noise": noise, "times": times, "schedule": world.schedule}


def consistencies(z_0, *, denoise, text, noise, times, schedule):
    """z_sm, G(ẑ_s, s, ∅) and G(z̃_t, t, y) of Eq. 10 and 11, computed as latents."""
    t, s, s_m = times
    z_sm = schedule.noised(z_0, noise, s_m)
    z_t = invert(schedule, denoise, z_sm, times, threshold=150)
    eps_t = denoise(z_t, t, text)
    z_s = jump(schedule, z_t, eps_t, t, s)
    return z_sm, jump(schedule, z_s, denoise(z_s, s, None), s, s_m), jump(schedule, z_t, eps_t, t, s_m)


@BOTH
def test_sctd_equals_the_sum_of_both_consistencies_in_latents(times):
    given = arguments(mixture(5, spread=0.3), times)
    z_sm, G_s_null, G_t_text = consistencies(**given)
    expected = (z_sm - G_s_null) + 8.5 * (z_sm - G_t_text)
    torch.testing.assert_close(sctd(**given), expected, rtol=0, atol=1e-12)


@BOTH
def test_sctd_in_float32_rounds_less_than_differences_of_latents(times):
    """Near the data residuals are small. The relative error is 1 to 4e-7, and at least twice that by latents."""
    world = mixture(5, spread=0.3)
    given = arguments(world, times, scale=1.0)
    given["z_0"] = world.means[0] + 0.3 * given["z_0"]
    exact = sctd(**given)

    def in_float32(z_t, t, text):
        return given["denoise"](z_t.double(), t, text).float()

    single = {**given, "z_0": given["z_0"].float(), "noise": given["noise"].float(), "denoise": in_float32}
    z_sm, G_s_null, G_t_text = consistencies(**single)
    by_latents = (z_sm - G_s_null) + 8.5 * (z_sm - G_t_text)
    by_noises = sctd(**single)
    assert by_noises.dtype == torch.float32
    assert (by_noises - exact).norm() < 6e-7 * exact.norm()
    assert (by_noises - exact).norm() < (by_latents - exact).norm()


@BOTH
def test_sctd_equals_the_gradient_of_equation_10(times):
    """With G(z̃_t, t, ∅) ≈ z_sm(θ) and stop-gradients: ∂L/∂z_0 = 2 b(t) α_sm times ours, the outer weight squared."""
    world, w = mixture(5, spread=0.3), 6.5
    given = arguments(world, times, scale=1.0)  # Eq. 10 as printed has no guidance inside
    z_0 = given["z_0"].clone().requires_grad_()
    _, G_s_null, G_t_text = consistencies(**given)
    z_sm = world.schedule.noised(z_0, given["noise"], times.s_m)
    b = WEIGHTS["b_t"](world.schedule, times)
    loss = b * (((G_s_null - z_sm) ** 2).sum() + (((w + 1) * (z_sm - G_t_text)) ** 2).sum())
    (expected,) = torch.autograd.grad(loss, z_0)
    ours = 2 * b * world.schedule.alpha[times.s_m] * sctd(**given, outer_weight=(w + 1) ** 2)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_b_t_converts_distances_at_the_segment_start_to_distances_of_noise():
    """The identity behind Eq. 8: ε̂ − ε = (z_sm − G(z_t, t)) / (α_sm (k_t − k_sm)) when z_t and z_sm share ε."""
    world, (z_0, noise) = mixture(5, spread=0.3), random(2, 3, 4, 2, 2)
    t, _, s_m = TWO_STEPS
    z_t = world.schedule.noised(z_0, noise, t)
    eps = world(z_t, t, None)
    apart = world.schedule.noised(z_0, noise, s_m) - jump(world.schedule, z_t, eps, t, s_m)
    torch.testing.assert_close(
        (eps - noise) ** 2, WEIGHTS["b_t"](world.schedule, TWO_STEPS) * apart**2, rtol=1e-9, atol=1e-12
    )


def test_other_weights_equal_their_formulas():
    world = mixture(1, spread=0.3)
    alpha, sigma = float(world.schedule.alpha[560]), float(world.schedule.sigma[560])
    values = {name: weight(world.schedule, TWO_STEPS) for name, weight in WEIGHTS.items() if name != "b_t"}
    assert values == pytest.approx(
        {"one": 1, "sigma_over_alpha": sigma / alpha, "one_minus_alpha_bar": 1 - alpha**2}, rel=1e-12
    )


def test_b_t_rejects_equal_t_and_s_m():
    with pytest.raises(
        TimesError, match=r"t and s_m are both 300, but b\(t\) divides by their distance: choose another t"
    ):
        WEIGHTS["b_t"](mixture(1, spread=0.3).schedule, Times(300, 300, 300))


def test_one_step_cross_consistency_equals_the_ism_residual():
    """ε̂(z_t, t, y) − ε(z_sm, s_m, ∅) times the interval: interval score matching with s = s_m."""
    given = arguments(mixture(5, spread=0.3), ONE_STEP)
    schedule, denoise = given["schedule"], given["denoise"]
    z_sm = schedule.noised(given["z_0"], given["noise"], 20)
    eps_sm = denoise(z_sm, 20, None)
    ism = denoise(jump(schedule, z_sm, eps_sm, 20, 120), 120, given["text"]) - eps_sm
    cross = sctd(**given, outer_weight=1.0) - sctd(**given, outer_weight=0.0)
    torch.testing.assert_close(cross, schedule.alpha[20] * (schedule.k[120] - schedule.k[20]) * ism)


def test_sds_equals_predicted_minus_added_noise():
    given = arguments(mixture(5, spread=0.3), TWO_STEPS)
    z_t = given["schedule"].noised(given["z_0"], given["noise"], 560)
    assert torch.equal(sds(**given), given["denoise"](z_t, 560, given["text"]) - given["noise"])


@pytest.mark.parametrize(
    ("objective", "times", "calls", "samples"),
    [
        ("sctd", TWO_STEPS, 4, 5),
        ("sctd", ONE_STEP, 3, 4),
        ("sctd-official", TWO_STEPS, 4, 5),
        ("sctd-official", ONE_STEP, 3, 4),
        ("sds", TWO_STEPS, 1, 2),
        ("ism", Times(t=280, s=200, s_m=0), 3, 4),
        ("ism", Times(t=281, s=201, s_m=0), 4, 5),
        ("cds", TWO_STEPS, 2, 4),
        ("gcs", TWO_STEPS, 6, 8),
    ],
)
def test_number_of_unet_evaluations(objective, times, calls, samples):
    """Per view and iteration, with guidance. Above t_τ the inversion takes one more step."""
    world = mixture(5, spread=0.3)
    load(objective)(**arguments(world, times, batch=4))
    assert (world.calls, world.samples) == (calls, 4 * samples)


@pytest.mark.parametrize("objective", ENTRIES)
def test_residual_has_no_graph_and_arguments_are_unchanged(objective):
    given = arguments(mixture(5, spread=0.3), TWO_STEPS)
    given = completed(load(objective), given, mixture(5, spread=0.3))
    given["z_0"].requires_grad_()
    before = {key: given[key].clone() for key in ("z_0", "noise", "text")}
    first, second = (load(objective)(**given) for _ in range(2))
    assert not first.requires_grad
    assert torch.equal(first, second)  # the same ε*, the same residual
    assert all(torch.equal(given[key], before[key]) for key in before)
    other_noise = load(objective)(**{**given, "noise": -given["noise"]})
    assert not torch.allclose(first, other_noise)


def one_point_each(schedule, target, elsewhere):
    """A denoiser for data at one point given the text, and at another given the empty prompt."""

    def denoise(z_t, t, text):
        has_text = torch.zeros(len(z_t)) if text is None else text[:, 0, 0]
        points = elsewhere + has_text[:, None, None, None] * (target - elsewhere)
        return (z_t - schedule.alpha[t] * points) / schedule.sigma[t]

    return denoise


@pytest.mark.parametrize("scale", [1.0, 7.5])
@BOTH
def test_for_data_at_one_point_the_gradient_towards_the_text_has_a_closed_form(times, scale):
    """ε is constant along a flow towards one point, so the consistency of the text with itself (CDS) is zero.

    SDS points from z_0 to the guided point. SCTD points from the empty prompt's point to the text's, for any z_0; its
    self term (the first in the brackets) and its cross term have the same direction.
    """
    world = mixture(2, spread=0.0)
    schedule, (target, elsewhere) = world.schedule, world.means
    t, s, s_m = times
    given = arguments(world, times)
    given["text"] = torch.ones(3, 1, 1, dtype=torch.float64)
    given["denoise"] = cfg(
        one_point_each(schedule, target, elsewhere), scale, torch.zeros(1, 1, 1, dtype=torch.float64)
    )

    guided_point = elsewhere + scale * (target - elsewhere)
    torch.testing.assert_close(sds(**given), (given["z_0"] - guided_point) / schedule.k[t], rtol=1e-9, atol=1e-9)

    k_t, k_s, k_m = schedule.k[t], schedule.k[s], schedule.k[s_m]
    length = schedule.alpha[s_m] * ((k_t - k_s) * k_m / k_s + 8.5 * (k_t - k_m))
    expected = length * scale / k_t * (elsewhere - target)
    torch.testing.assert_close(sctd(**given), expected.expand(3, -1, -1, -1), rtol=1e-9, atol=1e-9)


def test_without_the_approximation_sctd_costs_one_more_prediction():
    """It equals Eq. 10 with G(z̃_t, t, ∅) itself, computed as latents."""
    world = mixture(5, spread=0.3)
    given = arguments(world, TWO_STEPS, batch=4)
    exact = sctd(**given, approximation=False)
    assert (world.calls, world.samples) == (5, 4 * 6)
    schedule, denoise, (t, s, s_m) = given["schedule"], given["denoise"], TWO_STEPS
    z_t = invert(schedule, denoise, schedule.noised(given["z_0"], given["noise"], s_m), TWO_STEPS, threshold=150)
    eps_t = denoise(z_t, t, given["text"])
    z_s = jump(schedule, z_t, eps_t, t, s)
    G_null = jump(schedule, z_t, denoise(z_t, t, None), t, s_m)
    G_s_null, G_t_text = jump(schedule, z_s, denoise(z_s, s, None), s, s_m), jump(schedule, z_t, eps_t, t, s_m)
    expected = (G_null - G_s_null) + 8.5 * (G_null - G_t_text)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-11)
    assert not torch.allclose(exact, sctd(**given))


@BOTH
def test_the_released_code_flips_the_self_term(times):
    """λ σ_t/α_t [(G_s − z_sm) + (w + 1)(z_sm − G_y)], as the released code computes it from latents."""
    given = arguments(mixture(5, spread=0.3), times)
    z_sm, G_s_null, G_t_text = consistencies(**given)
    expected = (G_s_null - z_sm) + 8.5 * (z_sm - G_t_text)
    torch.testing.assert_close(load("sctd-official")(**given), expected, rtol=0, atol=1e-12)


def test_the_released_code_inverts_in_two_steps_at_the_threshold():
    """At t = t_τ = 150 Eq. 11 takes one step, but the released code takes two (t >= 150)."""
    given = arguments(mixture(5, spread=0.3), Times(t=150, s=60, s_m=20))
    calls = []
    for objective in "sctd", "sctd-official":
        world = mixture(5, spread=0.3)
        load(objective)(**given | {"denoise": cfg(world, 7.5, world.null)})
        calls.append(world.calls)
    assert calls == [3, 4]


def test_ism_inverts_in_steps_and_compares_both_ends_of_the_last_step():
    given = arguments(mixture(5, spread=0.3), Times(t=560, s=470, s_m=0))
    schedule, denoise = given["schedule"], given["denoise"]
    z = schedule.noised(given["z_0"], given["noise"], 0)
    for a, b in (0, 200), (200, 400), (400, 470):
        z = jump(schedule, z, denoise(z, a, None), a, b)
    eps_s = denoise(z, 470, None)
    z_t = jump(schedule, z, eps_s, 470, 560)
    assert torch.equal(load("ism")(**given), denoise(z_t, 560, given["text"]) - eps_s)


def test_ism_from_the_segment_start_equals_the_one_step_cross_term():
    """With s = s_m the residuals are equal, except that SCTD multiplies by the length of the interval."""
    given = arguments(mixture(5, spread=0.3), ONE_STEP)
    t, _, s_m = ONE_STEP
    cross = sctd(**given, outer_weight=1.0) - sctd(**given, outer_weight=0.0)
    residual = load("ism")(**given | {"times": Times(t=t, s=s_m, s_m=s_m)})
    length = given["schedule"].alpha[s_m] * (given["schedule"].k[t] - given["schedule"].k[s_m])
    torch.testing.assert_close(cross, length * residual)


def test_cds_compares_guided_predictions_at_both_ends_of_a_solver_step():
    """In the variance-exploding variables of its authors: ẑ = z_0 + k_t ε + (k_s − k_t) ε̂_t."""
    given = arguments(mixture(5, spread=0.3), TWO_STEPS)
    schedule, denoise, (t, s, _) = given["schedule"], given["denoise"], TWO_STEPS
    k, alpha = schedule.k, schedule.alpha
    z_t = given["z_0"] + k[t] * given["noise"]
    eps_t = denoise(alpha[t] * z_t, t, given["text"])
    z_s = z_t + (k[s] - k[t]) * eps_t
    expected = eps_t - denoise(alpha[s] * z_s, s, given["text"])
    torch.testing.assert_close(load("cds")(**given), expected, rtol=1e-9, atol=1e-9)


@BOTH
def test_cds_gives_no_gradient_for_data_at_one_point(times):
    """ε is constant along the flow towards a point, so both predictions agree for any z_0."""
    given = arguments(mixture(1, spread=0.0), times, scale=1.0)
    largest = {name: load(name)(**given).abs().max() for name in ("cds", "sds")}
    assert largest["cds"] < 1e-9
    assert largest["sds"] > 0.1


@BOTH
def test_for_gaussian_data_cds_pulls_weakly_to_a_place_that_its_noise_has_displaced(times):
    """c (z_0 + k_t ε − μ), c = s² (k_t − k_s) / ((s² + k_t²)(s² + k_s²)); SDS is zero nearer to μ, at μ + s² ε/k_t."""
    spread = 0.3
    world = mixture(1, spread=spread)
    given, (t, s, _) = arguments(world, times, scale=1.0), times
    k_t, k_s = given["schedule"].k[t], given["schedule"].k[s]
    strength = spread**2 * (k_t - k_s) / ((spread**2 + k_t**2) * (spread**2 + k_s**2))
    expected = strength * (given["z_0"] + k_t * given["noise"] - world.means[0])
    torch.testing.assert_close(load("cds")(**given), expected, rtol=1e-9, atol=1e-9)
    at_zero = {"cds": world.means[0] - k_t * given["noise"], "sds": world.means[0] + spread**2 * given["noise"] / k_t}
    for name, z_0 in at_zero.items():
        assert load(name)(**given | {"z_0": z_0}).abs().max() < 1e-9, name
    assert strength < 0.5 * k_t / (spread**2 + k_t**2)  # that of SDS


def test_gcs_equals_the_gradients_of_its_three_losses():
    """∂L/∂z_0 with stop-gradients and without the U-Net Jacobian; ∂L_CP/∂x directly on the images."""
    times = Times(t=560, s=470, s_m=400)
    given = arguments(mixture(5, spread=0.3), times)
    schedule, denoise, text, (t, s, e) = given["schedule"], given["denoise"], given["text"], times

    def clean(z, eps, at):
        return (z - schedule.sigma[at] * eps) / schedule.alpha[at]

    def decode(z):
        return 2 * z[:, :3]

    z_e = schedule.noised(given["z_0"], given["noise"], e)
    z_s = jump(schedule, z_e, denoise(z_e, e, None), e, s)
    z_t = jump(schedule, z_s, denoise(z_s, s, None), s, t)
    eps_t = denoise(z_t, t, text)
    s_hat, e_hat = (jump(schedule, z_t, eps_t, t, b) for b in (s, e))
    cc = jump(schedule, z_t, denoise(z_t, t, None), t, e) - jump(schedule, s_hat, denoise(s_hat, s, None), s, e)
    x_null, x_text = clean(z_e, denoise(z_e, e, None), e), clean(e_hat, denoise(e_hat, e, text), e)
    expected = 2 * schedule.alpha[e] * cc + 2 * 0.5 * (x_null - x_text)

    latents = load("gcs")(**given)
    pair = load("gcs")(**given, decode=decode)
    torch.testing.assert_close(latents, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pair.latents, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(pair.images, 2 * 0.5 * (decode(x_null) - decode(x_text)), rtol=1e-12, atol=1e-12)
    assert isinstance(load("gcs")(**given, decode=decode, pixel_constraint=0.0), torch.Tensor)


@pytest.mark.parametrize("objective", ["sctd", "sctd-official", "sds", "ism", "gcs"])
def test_descent_ends_nearest_to_the_point_of_the_text(objective):
    """Data at four points, of which the text names one, without guidance.

    SDS reaches the point itself. SCTD compares text and empty prompt, so it stops where their predictions agree. CDS
    compares the text with itself and does not converge.
    """
    world = mixture(4, spread=0.0)
    z_0, noise = random(2, 8, 4, 2, 2, seed=1)
    source = torch.Generator().manual_seed(0)
    guided, text = cfg(world, 1.0, world.null), world.text([0], 8)

    def distances(z_0):
        return (z_0.flatten(1)[:, None] - world.means.flatten(1)).norm(dim=-1)

    assert (distances(z_0).argmin(1) != 0).sum() >= 6
    for _ in range(200):
        times = draw(annealed_window(1500), equal(5, 1000), source)
        residual = load(objective)(z_0, denoise=guided, text=text, noise=noise, times=times, schedule=world.schedule)
        z_0 = z_0 - 0.05 * residual
    assert (distances(z_0).argmin(1) == 0).all()
    if objective == "sds":
        assert (distances(z_0)[:, 0] < 1e-3).all()


def test_gradient_is_the_weighted_residual_clamped_to_a_moving_bound():
    residual = torch.tensor([-3.0, -0.1, 0.2, 5.0], dtype=torch.float64)
    given = {
        "schedule": mixture(1, spread=0.3).schedule,
        "times": TWO_STEPS,
        "time_weight": "sigma_over_alpha",
        "weight": 0.1,
    }
    whole = 0.1 * float(given["schedule"].k[560]) * residual
    assert torch.equal(gradient(residual, **given, clamp=(0.0, 0.0), progress=0.5), whole)
    for progress, bound in ((0.0, 0.05), (0.5, 0.1), (1.0, 0.15)):
        found = gradient(residual, **given, clamp=(0.05, 0.15), progress=progress)
        torch.testing.assert_close(found, whole.clamp(-bound, bound))
        assert (found != whole).sum() == 2


@pytest.mark.parametrize("objective", ENTRIES)
def test_an_entry_lists_exactly_the_options_of_its_function(objective):
    signatures = [inspect.signature(function).parameters for function in load(objective).functions]
    parameters = {name: each for signature in signatures for name, each in signature.items()}
    asked = {key for name, key in custom_objective.OPTIONS_OF.items() if name in parameters}
    own = set(ENTRIES[objective].options) - asked
    assert asked <= set(ENTRIES[objective].options)
    found = parameters.keys() - {*custom_objective.ARGUMENTS, *custom_objective.OFFERED}
    assert {key.rpartition(".")[2] for key in own} == found
    defaults = {key: parameters[key.rpartition(".")[2]].default for key in own}
    assert defaults == {key: value_of(paper(), key) for key in defaults}


@pytest.mark.parametrize("objective", ENTRIES)
def test_an_objective_gets_its_options_from_the_recipe(objective):
    """Options of other objectives change nothing."""
    options = {
        "outer_weight": 0.0, "self_sign": -1, "inversion_step": 20, "compact_consistency": 3.0,
        "conditional_guidance": 2.0, "inversion_guidance": 0.5,
    }  # fmt: skip
    world = mixture(5, spread=0.3)
    given = completed(load(objective), arguments(world, TWO_STEPS), world)
    own = {
        "sctd": ["outer_weight", "self_sign"], "sctd-official": ["outer_weight"], "ism": ["inversion_step"],
        "gcs": ["compact_consistency", "conditional_guidance"], "sdi": ["inversion_step", "inversion_guidance"],
    }  # fmt: skip
    recipe = with_overrides(for_objective(paper(), objective), {f"objective.{key}": x for key, x in options.items()})
    plain = load(objective)(**given)
    for name in own.get(objective, []):
        assert not torch.equal(load(objective)(**given, **{name: options[name]}), plain), name
    expected = load(objective)(**given, **{name: options[name] for name in own.get(objective, [])})
    assert torch.equal(of_recipe(recipe)(**given), expected)


def test_every_later_objective_has_its_own_tests():
    """Those of the first six are here."""
    first = {"sctd", "sctd-official", "sds", "ism", "cds", "gcs"}
    modules = {name: ENTRIES[name].function.partition(":")[0].rpartition(".")[2] for name in ENTRIES.keys() - first}
    files = {name: Path(__file__).with_name(f"test_{module}.py") for name, module in modules.items()}
    assert [name for name, file in files.items() if not file.is_file()] == []


def test_objectives_are_listed_without_torch_and_loaded_on_demand():
    code = (
        "import sys; from sctd.recipe.methods import METHODS; assert 'torch' not in sys.modules;"
        "import sctd.objectives; assert 'sctd.objectives.sds' not in sys.modules;"
        "sctd.objectives.load('sds'); assert 'sctd.objectives.sds' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_objective_of_a_recipe_runs_without_autograd(tmp_path):
    """Also one of a file, whose function is not decorated."""
    (tmp_path / "own.py").write_text(
        "LIKE = 'sds'\ndef f(z_0, *, denoise, text, noise, times, schedule): return 2 * denoise(z_0, times.t, text)"
    )
    world = mixture(5, spread=0.3)
    given = arguments(world, TWO_STEPS)
    given["z_0"].requires_grad_()
    for name in (*ENTRIES, f"{tmp_path}/own.py:f"):
        objective = of_recipe(for_objective(paper(), name))
        assert not objective(**completed(objective, given, world)).requires_grad, name
