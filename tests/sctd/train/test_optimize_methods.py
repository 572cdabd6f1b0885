"""sctd.train.optimize by objective and option: cost, closed forms, clamp, brightness, noise, guidance, resume."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trimesh
from torch import Tensor

from sctd.diffusion.times import Times
from sctd.formats import ply
from sctd.objectives import ENTRIES, load
from sctd.recipe.methods import WITH_GAUSSIANS, for_objective
from sctd.recipe.recipe import Recipe, with_overrides
from sctd.render.contract import Rendering
from sctd.render.rasterize import render
from sctd.scene.cameras import Cameras
from sctd.scene.gaussians import Gaussians
from sctd.train import draws, gaussian_splatting, optimize
from sctd.train.initialization import initial_gaussians
from sctd.train.optimize import OptimizeError
from sctd.train.regularize import disparity_images
from tests.support.tiny_prior import SIZE, VARIANCE, TinyPrior, ball, growing, recipe, rows, run
from tests.support.toy_adapters import completed

VIEWS = 2
ALONE = {"regularizers.oversize": 0, "regularizers.alpha_entropy": 0, "relocate.enabled": False}
"""Only the objective: no regularizers, no relocation."""


def method(name: str, base: Recipe | None = None, **overrides: object) -> Recipe:
    """A method with the small recipe; in keyword names, __ stands for a dot."""
    chosen = for_objective(base or recipe(), name)
    return with_overrides(chosen, {key.replace("__", "."): value for key, value in overrides.items()})


def record_results(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list:
    """Record all results of a function from now on."""
    returned, function = [], getattr(module, name)

    def spy(*arguments: object, **options: object) -> object:
        returned.append(function(*arguments, **options))
        return returned[-1]

    monkeypatch.setattr(module, name, spy)
    return returned


# ---- every method ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_GAUSSIANS)
def test_every_method_moves_all_gaussians_and_stays_finite(name: str) -> None:
    steps = run(method(name, iterations=5, bounds__colour=False))
    assert [step.skipped for step in steps] == [0] * 5
    assert all(0 < step.loss < math.inf for step in steps)
    before, after = ball().tensors(), steps[-1].gaussians.tensors()
    for key in before:
        assert bool(after[key].isfinite().all())
        assert bool((after[key] != before[key]).flatten(1).any(1).all() if key != "logit_opacities" else
                    (after[key] != before[key]).all()), key  # fmt: skip


def cost(name: str, times: Times, *, perp_neg: bool) -> tuple[int, int]:
    """Calls, and samples per view, of one iteration: a guided prediction counts 2, with Perp-Neg 4."""
    samples = 4 if perp_neg else 2
    match name:
        case "sctd":
            plain, guided = (3 if times.t > 150 else 2), 1
        case "sctd-official":
            plain, guided = (3 if times.t >= 150 else 2), 1
        case "sds":
            plain, guided = 0, 1
        case "ism":
            plain, guided = math.ceil((times.s - times.s_m) / 200) + 1, 1
        case "cds":
            plain, guided = 0, 2
        case "gcs":
            plain, guided = 4, 2
        case "sdi":  # a step of 100 indices takes two
            steps = math.ceil(times.t / 100)
            plain, guided = steps, steps + 1
        case _:  # as called alone, which the test of the objective counts
            plain, guided = counted(name, times)
    return plain + guided, plain + samples * guided


def counted(name: str, times: Times) -> tuple[int, int]:
    """Predictions with the empty prompt, and with a text, of one call of an objective."""
    has_text: list[bool] = []

    def denoise(z_t: Tensor, t: int, text: Tensor | None) -> Tensor:
        has_text.append(text is not None)
        return z_t

    z_0, text, objective = torch.ones(1, 4, 2, 2), torch.ones(1, 1, 1), load(name)

    def unguided(z_t: Tensor, t: int, text: Tensor | None) -> Tensor:
        has_text.append(False)  # one sample, as with the empty prompt
        return z_t

    given = {"z_0": z_0, "denoise": denoise, "unguided": unguided, "text": text, "noise": z_0, "times": times}
    objective(**completed(objective, given | {"schedule": TinyPrior().schedule}, lambda z_t, t, text: z_t))
    return has_text.count(False), has_text.count(True)


@pytest.mark.parametrize("name", ["sctd", "sctd-official", "sds", "ism", "cds", "gcs"])
def test_predictions_counted_alone_are_those_of_the_table(name: str) -> None:
    for times in (Times(500, 450, 400), Times(120, 60, 0)):
        plain, guided = counted(name, times)
        assert cost(name, times, perp_neg=False) == (plain + guided, plain + 2 * guided)


@pytest.mark.parametrize("perp_neg", [False, True], ids=["CFG", "Perp-Neg"])
@pytest.mark.parametrize("name", ENTRIES)
def test_number_of_calls_and_samples_of_an_iteration(
    name: str, perp_neg: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, prior = record_results(monkeypatch, draws, "times"), TinyPrior()
    chosen = method(name, iterations=12, guidance__perp_neg=perp_neg, times__warmup_share=0.5)
    for number, _ in enumerate(optimize.optimize(chosen, prior, ball(), "a red ball", 0)):
        calls, samples = cost(name, drawn[number], perp_neg=perp_neg)
        assert (len(prior.calls), sum(batch for batch, _, _ in prior.calls)) == (calls, VIEWS * samples)
        prior.calls.clear()
    assert number == 11


def test_the_table_of_costs() -> None:
    """Samples per view (CFG, Perp-Neg): SCTD 5 and 7, below its threshold 4 and 6; SDS 2, 4; CDS 4, 8; GCS 8, 12."""
    two_steps, one_step = Times(500, 450, 400), Times(120, 60, 0)
    table = {
        (name, times): tuple(cost(name, times, perp_neg=perp_neg)[1] for perp_neg in (False, True))
        for name in ENTRIES
        for times in (two_steps, one_step)
    }
    for name in ("sctd", "sctd-official"):
        assert table[name, two_steps] == (5, 7)
        assert table[name, one_step] == (4, 6)
    for times in (two_steps, one_step):
        assert (table["sds", times], table["cds", times], table["gcs", times]) == ((2, 4), (4, 8), (8, 12))
    assert [cost("ism", Times(s + 80, s, 0), perp_neg=False)[1] for s in (0, 1, 200, 201, 420)] == [3, 4, 4, 5, 6]


@pytest.mark.parametrize("name", WITH_GAUSSIANS)
def test_a_run_resumed_at_a_random_iteration_gives_the_same_ply(name: str) -> None:
    """With every source of randomness: growth, resets, disparity, mirroring, posterior samples, camera progress."""
    kind = method(name).noise.kind
    chosen = method(name, growing(noise__kind=kind), brightness__limit=0.3)
    uninterrupted = run(chosen)
    stop = random.Random(f"{name} 1").randrange(1, 12)
    resumed = list(
        optimize.optimize(chosen, TinyPrior(), ball(), "a red ball", 0, resume=uninterrupted[stop - 1].checkpoint())
    )
    assert len(resumed) == 12 - stop
    assert ply.to_ply(resumed[-1].gaussians) == ply.to_ply(uninterrupted[-1].gaussians)
    assert ply.to_ply(resumed[-1].gaussians) != ply.to_ply(uninterrupted[stop - 1].gaussians)
    assert resumed[-1].checkpoint() == uninterrupted[-1].checkpoint()


def template(kind: str, folder: Path) -> Path:
    if kind == "mesh":
        trimesh.creation.box(extents=(0.5, 0.4, 0.6)).export(folder / "box.glb")
        return folder / "box.glb"
    (folder / "asset.ply").write_bytes(ply.to_ply(ball()))
    return folder / "asset.ply"


@pytest.mark.parametrize("name", ["sctd", "gcs-authors"])
@pytest.mark.parametrize("kind", ["mesh", "ply"])
def test_a_resumed_run_from_a_template_is_bit_identical(kind: str, name: str, tmp_path: Path) -> None:
    shape = {
        "initialization.kind": kind,
        "initialization.path": str(template(kind, tmp_path)),
        "initialization.count": 20,
    }
    base = with_overrides(growing(initialization__replicas=3), shape)
    chosen = method(name, base)

    def run_from(resume: bytes | None = None) -> list[optimize.Step]:
        initial = initial_gaussians(chosen.initialization, "", torch.Generator().manual_seed(4))
        assert initial.num == 60
        return list(optimize.optimize(chosen, TinyPrior(), initial, "a red ball", 4, resume=resume))

    uninterrupted = run_from()
    stop = random.Random(f"{kind} {name}").randrange(1, 12)
    assert ply.to_ply(run_from(uninterrupted[stop - 1].checkpoint())[-1].gaussians) == ply.to_ply(
        uninterrupted[-1].gaussians
    )


# ---- closed forms ---------------------------------------------------------------------------------------------------


def first_iteration(chosen: Recipe, prior: TinyPrior) -> tuple[Gaussians, Rendering, Cameras, torch.Tensor, Times]:
    """Leaves, rendering, cameras, noise and times of the first iteration of seed 0."""
    generator, scene = draws.generator_of(0), draws.generator_of(0, 1)
    noise = draws.noise(chosen, prior.latent_shape, generator)
    cameras = draws.views(chosen, 1, SIZE, scene)
    background = draws.backgrounds(chosen.background, VIEWS, scene)
    if chosen.noise.kind == "fresh":
        noise = draws.noise(chosen, prior.latent_shape, generator)
    leaves = ball().map(lambda tensor: tensor.requires_grad_())
    return leaves, render(leaves, cameras, background), cameras, noise, draws.times(chosen, 1, generator)


def eps(prior: TinyPrior, z_t: torch.Tensor, t: int, target: torch.Tensor) -> torch.Tensor:
    """Predicted noise for Gaussian data around a target."""
    alpha, sigma = prior.schedule.alpha[t], prior.schedule.sigma[t]
    return sigma * (z_t - alpha * target) / (alpha**2 * VARIANCE + sigma**2)


@pytest.mark.parametrize("encoder", ["intact", "zero"])
def test_one_step_of_gcs_matches_its_three_losses(encoder: str) -> None:
    """Explicit for Gaussian data, with stop-gradients as in the paper.

    L_CP bypasses the encoder: with an encoder whose output is zero, only L_CP moves the Gaussians.
    """
    chosen = method(
        "gcs", iterations=1, guidance__scale=1, guidance__view_text="none", objective__weight=3,
        objective__compact_consistency=0.7, objective__conditional_guidance=0.4, objective__pixel_constraint=0.9,
    )  # fmt: skip
    chosen, prior = with_overrides(chosen, ALONE), TinyPrior()
    encode = prior.encode
    if encoder == "zero":
        prior.embed(["a red ball"])  # texts are embedded with the intact encoder
        target = {text: prior._target(text) for text in ("", "red")}
        prior._target = lambda text: target["red" if "red" in text else ""]
        encode = prior.encode = lambda images, noise=None: 0 * type(prior).encode(prior, images)
    (step,) = run(chosen, prior=prior)

    leaves, rendering, _, noise, (t, s, e) = first_iteration(chosen, prior)
    z_0 = encode(rendering.rgb)
    alpha, sigma, k = prior.schedule.alpha, prior.schedule.sigma, prior.schedule.k
    red, grey = prior._target("red"), prior._target("")

    def moved(z: torch.Tensor, noise: torch.Tensor, a: int, b: int) -> torch.Tensor:
        return alpha[b] * (z / alpha[a] + (k[b] - k[a]) * noise)

    with torch.no_grad():
        z_e = alpha[e] * z_0 + sigma[e] * noise
        z_s = moved(z_e, eps(prior, z_e, e, grey), e, s)
        z_t = moved(z_s, eps(prior, z_s, s, grey), s, t)
        towards = eps(prior, z_t, t, red)
        s_hat, e_hat = moved(z_t, towards, t, s), moved(z_t, towards, t, e)
        apart = moved(z_t, eps(prior, z_t, t, grey), t, e) - moved(s_hat, eps(prior, s_hat, s, grey), s, e)
        x_null = (z_e - sigma[e] * eps(prior, z_e, e, grey)) / alpha[e]
        x_text = (e_hat - sigma[e] * eps(prior, e_hat, e, red)) / alpha[e]
        on_latents = 3 * 2 * (0.7 * alpha[e] * apart + 0.4 * (x_null - x_text))
        on_pixels = 3 * 2 * 0.9 * (prior.decode(x_null) - prior.decode(x_text))

    size = float(on_latents.square().sum() + on_pixels.square().sum())
    assert step.loss == pytest.approx(size / (2 * VIEWS), rel=1e-4)
    of_pixels = torch.autograd.grad(
        (rendering.rgb * on_pixels).sum(), list(leaves.tensors().values()), retain_graph=True
    )
    of_latents = torch.autograd.grad((z_0 * on_latents).sum(), list(leaves.tensors().values()))
    after = step.scene
    for name, pixels, latents in zip(leaves.tensors(), of_pixels, of_latents, strict=True):
        torch.testing.assert_close(
            getattr(after.first_moment, name), 0.1 * (pixels + latents) / VIEWS, rtol=1e-3, atol=1e-6
        )
        assert bool(pixels.any())
        assert bool(latents.any()) == (encoder == "intact")
    assert not torch.equal(step.gaussians.means, ball().means)


def test_without_the_pixel_constraint_all_gradients_pass_through_the_encoder() -> None:
    prior = TinyPrior()
    encode = prior.encode
    target = prior._target("red")
    prior._target = lambda text: target
    prior.encode = lambda images, noise=None: 0 * encode(images)
    chosen = method("gcs", iterations=2, objective__pixel_constraint=0)
    steps = run(with_overrides(chosen, ALONE), prior=prior)
    assert torch.equal(rows(steps[-1].scene.first_moment), torch.zeros_like(rows(ball())))


def test_nan_from_the_decoder_is_undone_and_reported() -> None:
    prior = TinyPrior()
    prior.decode = lambda z_0: torch.full((len(z_0), 3, SIZE, SIZE), torch.nan)
    steps = optimize.optimize(method("gcs", max_skipped_iterations=3), prior, ball(), "a red ball", 0)
    with pytest.raises(OptimizeError, match="NaN or infinity in 3 iterations in a row, up to iteration 3, in the loss"):
        list(steps)


# ---- clamp ----------------------------------------------------------------------------------------------------------


def test_the_clamp_moves_from_its_first_to_its_second_bound() -> None:
    """With a weight so large that every number is clamped, the loss of a view is ½ · numbers · bound²."""
    chosen = method("cds", iterations=4, objective__weight=1e9, objective__clamp=(0.02, 0.08))
    bounds = [(2 * step.loss / 64) ** 0.5 for step in run(with_overrides(chosen, ALONE))]
    assert bounds == pytest.approx([0.035, 0.05, 0.065, 0.08], rel=1e-4)


def test_the_clamp_applies_to_pixels() -> None:
    chosen = method("gcs", iterations=1, objective__weight=1e9, objective__clamp=(0.02, 0.08))
    (step,) = run(with_overrides(chosen, ALONE))
    numbers = 2 * step.loss / 0.08**2
    assert 64 + 0.9 * 3 * SIZE**2 < numbers <= 64 + 3 * SIZE**2 + 1e-2  # a few pixels may be below the bound


def test_a_wide_clamp_has_no_effect_and_a_narrow_one_has() -> None:
    losses = {
        clamp: run(with_overrides(method("cds", iterations=2), ALONE | {"objective.clamp": clamp}))[-1].loss
        for clamp in ((0, 0), (1e6, 1e6), (1e-3, 1e-3))
    }
    assert losses[0, 0] == losses[1e6, 1e6]
    assert losses[1e-3, 1e-3] < losses[0, 0]


# ---- brightness -----------------------------------------------------------------------------------------------------


def run_with_brightness(
    monkeypatch: pytest.MonkeyPatch, levels: Callable[[int], float], **overrides: object
) -> list[optimize.Step]:
    """Ten iterations in which only BEG changes the constant SH terms; `levels` is the brightness from the 3rd on."""
    calls = []

    def found(images: torch.Tensor, quantile: float) -> float:
        assert images.shape == (VIEWS, 3, SIZE, SIZE)
        assert not images.requires_grad
        assert quantile == 0.7
        calls.append(images)
        return levels(2 + len(calls))  # not called before the third iteration

    monkeypatch.setattr(gaussian_splatting, "brightest", found)
    chosen = method(
        "sctd", iterations=10, brightness__enabled=True, brightness__quantile=0.7, brightness__factor=0.5,
        brightness__limit=0.9, sh_degree=1,
    )  # fmt: skip
    chosen = with_overrides(chosen, ALONE | {key.replace("__", "."): value for key, value in overrides.items()})
    still = chosen.optimizer.sh_constant.model_copy(update={"start": 0.0, "end": 0.0})
    frozen = chosen.optimizer.model_copy(update={"sh_constant": still})
    return run(chosen.model_copy(update={"optimizer": frozen}))


def dims(steps: list[optimize.Step]) -> dict[int, float]:
    """The iterations at which the constant SH terms changed, with the factors."""
    found, before = {}, ball().sh[:, 0]
    for step in steps:
        after, moments = step.gaussians.sh[:, 0], step.scene
        if not torch.equal(after, before):
            found[step.iteration] = float((after / before).median())
            torch.testing.assert_close(after, found[step.iteration] * before)
            assert not moments.first_moment.sh.any()
            assert not moments.second_moment.sh.any()
        else:
            assert bool(moments.second_moment.sh.any())
        assert bool(moments.second_moment.means.any())
        before = after
    return found


def test_beg_dims_only_between_its_shares_of_the_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 0.2 and before 0.9 of ten: 3 to 8."""
    assert dims(run_with_brightness(monkeypatch, lambda iteration: 1.0)) == pytest.approx(
        dict.fromkeys(range(3, 9), 0.5)
    )


def test_beg_dims_only_if_the_limit_is_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = run_with_brightness(
        monkeypatch, lambda iteration: {4: 0.91, 6: 0.9, 7: 5.0}.get(iteration, 0.1), brightness__factor=0.8
    )
    assert dims(steps) == pytest.approx({4: 0.8, 7: 0.8})


def test_beg_measures_the_rendered_images_only_if_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    found, renderings = (
        record_results(monkeypatch, gaussian_splatting, "brightest"),
        record_results(monkeypatch, gaussian_splatting, "render"),
    )
    run(method("sctd", iterations=4))
    assert found == []
    del renderings[:]
    run(method("sctd", iterations=4, brightness__enabled=True, brightness__quantile=0.6))
    by_hand = [
        float(
            torch.stack([view.mean(0)[view.mean(0) > 0].quantile(0.6) for view in rendering.rgb.detach()]).quantile(0.6)
        )
        for rendering in renderings
    ]
    assert found == pytest.approx(by_hand[:3])  # the fourth iteration is after `until_share`


# ---- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fixed", "fresh"])
@pytest.mark.parametrize("shared", [False, True])
def test_shared_noise_is_equal_for_all_views(shared: bool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = record_results(monkeypatch, draws, "noise")
    steps = run(method("sctd", iterations=3, noise__shared=shared, noise__kind=kind, noise__offset=0.3))
    assert len(drawn) == (1 if kind == "fixed" else 4)
    assert all(torch.equal(noise[0], noise[1]) == shared for noise in drawn)
    assert torch.equal(steps[-1].noise[0], steps[-1].noise[1]) == shared
    noise = draws.noise(method("cds", noise__offset=2), (4, 40, 40), torch.Generator().manual_seed(0))
    assert float(noise.mean((0, 2, 3)).std()) > 0.5  # includes the constant per channel


# ---- Perp-Neg -------------------------------------------------------------------------------------------------------


def test_perp_neg_texts_depend_on_the_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """[∅, text, first negatives, second negatives], each for all views: text by azimuth, negatives by half."""
    cameras, prior = record_results(monkeypatch, draws, "views"), TinyPrior()
    chosen = method(
        "sds", iterations=8, guidance__perp_neg=True, guidance__view_text="interpolated",
        guidance__negative_prompt="a green haze", cameras__azimuth_spread="uniform",
    )  # fmt: skip
    run(chosen, prompt="a thing", prior=prior)
    front, side, back = (prior._target(word).flatten() for word in ("front", "", "back"))
    halves = set()
    for batch, views in zip(prior.texts, cameras, strict=True):
        null, text, first, second = (part[:, 0] for part in batch.chunk(4))
        assert torch.equal(null, prior._target("green").flatten().expand(VIEWS, -1))
        for view, azimuth in enumerate(views.azimuth_degrees.tolist()):
            away = abs((azimuth + 180) % 360 - 180) / 90
            halves.add(away < 1)
            expected = (1 - away) * front + away * side if away < 1 else (2 - away) * side + (away - 1) * back
            torch.testing.assert_close(text[view], expected)
            assert torch.equal(first[view], front if away < 1 else side)
            assert torch.equal(second[view], side if away < 1 else front)
    assert halves == {True, False}


def test_one_step_with_perp_neg_matches_the_closed_form() -> None:
    """SDS: the guidance view by view, with the explicit weights of the release."""
    chosen = method(
        "sds", iterations=1, guidance__perp_neg=True, guidance__view_text="interpolated", guidance__scale=4,
    )  # fmt: skip
    chosen, prior = with_overrides(chosen, ALONE), TinyPrior()
    (step,) = run(chosen, prompt="a thing", prior=prior)
    _, rendering, cameras, noise, (t, _, _) = first_iteration(chosen, prior)
    alpha, sigma = prior.schedule.alpha[t], prior.schedule.sigma[t]
    z_t = alpha * prior.encode(rendering.rgb).detach() + sigma * noise
    loss = 0.0
    for view, azimuth in enumerate(cameras.azimuth_degrees.tolist()):
        front, side, back = (prior._target(word) for word in ("front", "", "back"))
        away = abs((azimuth + 180) % 360 - 180) / 90
        if away < 1:
            r, text, negatives = 1 - away, (1 - away) * front + away * side, (front, side)
            weights = (-2 * math.exp(-2 * r) if r <= 0.8 else 0, -2 * math.exp(-10 * (1 - r)) if r >= 0.2 else 0)
        else:
            r, text, negatives = 2 - away, (2 - away) * side + (away - 1) * back, (side, front)
            weights = (-math.exp(-10 * r) if r <= 0.8 else 0, -2)
        eps_null = eps(prior, z_t[view], t, prior._target(""))
        towards = eps(prior, z_t[view], t, text) - eps_null
        total = towards.clone()
        for weight, negative in zip(weights, negatives, strict=True):
            delta = eps(prior, z_t[view], t, negative) - eps_null
            along = (delta * towards).sum() / max(float(towards.square().sum()), 1e-6)
            total += (weight if abs(weight) > 1e-4 else 0) * (delta - along * towards)
        gradient = sigma**2 * (eps_null + 4 * total - noise[view])
        loss += float(gradient.square().sum()) / (2 * VIEWS)
    assert step.loss == pytest.approx(loss, rel=1e-4)


# ---- control --------------------------------------------------------------------------------------------------------


class FakeControl:
    """A ControlNet for the tiny prior that records its control images and batch sizes."""

    def __init__(self, prior: TinyPrior) -> None:
        self.prior, self.images, self.batches = prior, [], []

    def __call__(self, images: torch.Tensor):
        self.images.append(images)

        def denoise(z_t: torch.Tensor, t: int, text: torch.Tensor | None) -> torch.Tensor:
            self.batches.append(len(z_t))
            target = self.prior._target("") if text is None else text.reshape(-1, 4, 4, 4)
            return eps(self.prior, z_t, t, target)

        return denoise


@pytest.mark.parametrize("flip", [0, 1], ids=["not mirrored", "mirrored"])
@pytest.mark.parametrize("disparity", [0, 1], ids=["colours", "disparity"])
def test_control_images_are_the_disparity_mirrored_with_the_render(
    flip: int, disparity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderings, cameras = (
        record_results(monkeypatch, gaussian_splatting, "render"),
        record_results(monkeypatch, draws, "views"),
    )
    prior = TinyPrior()
    control, encoded, encode = FakeControl(prior), [], prior.encode
    prior.encode = lambda images, generator=None: (encoded.append(images), encode(images, generator))[1]
    chosen = method(
        "sctd", iterations=3, guidance__control="depth", encoding__flip_share=flip, encoding__disparity_share=disparity
    )
    steps = list(optimize.optimize(chosen, prior, ball(opacity=0.95), "a red ball", 0, control=control))
    assert (len(steps), len(control.images)) == (3, 3)
    images = [batch for batch in encoded if batch.shape[0] == VIEWS]
    for shown, rendering, seen, image in zip(control.images, renderings, cameras, images, strict=True):
        expected = disparity_images(rendering, seen).detach()
        assert bool(expected.any())
        assert not torch.equal(expected, expected.flip(-1))
        assert torch.equal(shown, expected.flip(-1) if flip else expected)
        assert not shown.requires_grad
        assert torch.equal(image.detach(), shown) == bool(disparity)  # with the orientation of the encoded image
    assert prior.calls == []  # all predictions come from the control


def test_guidance_wraps_the_controlled_denoiser() -> None:
    prior = TinyPrior()
    control = FakeControl(prior)
    chosen = method("sctd", iterations=2, guidance__control="depth", guidance__perp_neg=True)
    steps = list(optimize.optimize(chosen, prior, ball(), "a red ball", 0, control=control))
    assert set(control.batches) == {VIEWS, 4 * VIEWS}
    # A ControlNet that adds nothing does not change the result.
    plain = run(method("sctd", iterations=2, guidance__perp_neg=True))
    assert torch.equal(rows(steps[-1].gaussians), rows(plain[-1].gaussians))


@pytest.mark.parametrize(
    ("control", "is_given", "message"),
    [
        ("depth", False, "guidance.control is 'depth' and no ControlNet was given; they must agree"),
        ("none", True, "guidance.control is 'none' and a ControlNet was given; they must agree"),
    ],
)
def test_recipe_and_control_must_agree(control: str, is_given: bool, message: str) -> None:
    prior = TinyPrior()
    chosen = method("sctd", guidance__control=control)
    with pytest.raises(OptimizeError) as caught:
        optimize.optimize(chosen, prior, ball(), "a red ball", 0, control=FakeControl(prior) if is_given else None)
    assert str(caught.value) == message
