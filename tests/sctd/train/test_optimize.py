"""sctd.train.optimize with an analytic prior (tests/support/tiny_prior.py). By objective: test_optimize_methods.py."""

from itertools import islice, pairwise

import pytest
import torch

from sctd.recipe import methods
from sctd.recipe.recipe import Recipe, with_overrides
from sctd.recipe.scene import BackgroundConfig
from sctd.render.rasterize import render
from sctd.scene.cameras import orbit
from sctd.scene.gaussians import Gaussians, rgb_to_sh, sh_to_rgb
from sctd.train import draws, gaussian_splatting, optimize
from sctd.train.checkpoint import CheckpointError
from sctd.train.gradient import LoopOptions
from sctd.train.optimize import OptimizeError
from tests.support.tiny_prior import COLOURS, SIZE, VARIANCE, TinyPrior, ball, growing, recipe, rows, run, same


def test_sctd_reaches_a_toy_target() -> None:
    chosen = recipe(iterations=100, relocate__interval=20)
    cameras = orbit(3, 20.0, 3.8, 0.55, SIZE)

    def distance(gaussians: Gaussians) -> float:
        rendering = render(gaussians, cameras, torch.tensor(COLOURS["red"]))
        return float((rendering.rgb - torch.tensor(COLOURS["red"])[:, None, None]).norm())

    steps = run(chosen)
    assert [step.iteration for step in steps] == list(range(1, 101))
    assert distance(steps[-1].gaussians) < 0.5 * distance(ball())
    assert all(step.num_gaussians == step.gaussians.num == 60 for step in steps)


def test_sds_reaches_the_toy_target_with_one_prediction_per_iteration() -> None:
    prior = TinyPrior()
    steps = run(methods.for_objective(recipe(), "sds"), prior=prior)
    assert len(prior.calls) == len(steps)
    assert all(batch == 4 and not is_null for batch, _, is_null in prior.calls)  # 2 views, guidance doubles them
    red = sh_to_rgb(steps[-1].gaussians.sh[:, 0]).mean(0)
    assert red[0] > 0.55 > 0.5 > red[1]


def test_an_sctd_iteration_costs_five_predictions_per_view_or_four_below_the_threshold() -> None:
    prior = TinyPrior()
    run(recipe(iterations=20), prior=prior)
    batches = [batch for batch, _, _ in prior.calls]
    iterations = batches.count(4)  # one guided prediction per iteration
    assert iterations == 20
    assert set(batches) == {2, 4}
    one_step = sum(t <= 150 for batch, t, _ in prior.calls if batch == 4)
    assert batches.count(2) == 3 * 20 - one_step


@pytest.mark.parametrize("kind", ["fixed", "fresh"])
def test_one_step_matches_the_closed_form_without_the_denoiser_jacobian(kind: str) -> None:
    """SDS on Gaussian data: loss, gradients and statistics follow from an explicit residual."""
    chosen = methods.for_objective(
        recipe(iterations=1, objective__weight=3, guidance__scale=1, guidance__view_text="none", densify__enabled=True),
        "sds",
    )
    chosen = with_overrides(
        chosen, {"regularizers.oversize": 0, "regularizers.alpha_entropy": 0, "noise.kind": kind, "noise.offset": 0.5}
    )
    prior = TinyPrior()
    (step,) = run(chosen, prior=prior)
    ((_, t, _),) = prior.calls

    generator = draws.generator_of(0)
    fixed = draws.noise(chosen, prior.latent_shape, generator)
    scene = draws.generator_of(0, 1)
    cameras = draws.views(chosen, 1, SIZE, scene)
    background = draws.backgrounds(chosen.background, 2, scene)
    noise = fixed if kind == "fixed" else draws.noise(chosen, prior.latent_shape, generator)
    leaves = ball().map(lambda tensor: tensor.requires_grad_())
    rendering = render(leaves, cameras, background)
    z_0 = prior.encode(rendering.rgb)
    alpha, sigma = prior.schedule.alpha[t], prior.schedule.sigma[t]
    z_t = alpha * z_0.detach() + sigma * noise
    eps = sigma * (z_t - alpha * prior._target("red")) / (alpha**2 * VARIANCE + sigma**2)
    gradient = 3 * sigma**2 * (eps - noise)

    assert step.loss == pytest.approx(float(gradient.square().sum() / 4), rel=1e-5)  # ½, mean of 2 views
    of_means, of_pixels = torch.autograd.grad((z_0 * gradient).sum(), [leaves.means, rendering.means2d])
    after = step.scene
    torch.testing.assert_close(after.first_moment.means, 0.1 * of_means / 2, atol=0, rtol=1e-4)  # mean of 2 views
    visible = rendering.radii > 0
    torch.testing.assert_close(after.gradient_sum, (of_pixels.norm(dim=-1) * visible).sum(0))  # per view
    assert torch.equal(after.sightings, visible.sum(0).float())


@pytest.mark.parametrize("method", methods.WITH_GAUSSIANS)
def test_all_objectives_share_the_views_of_an_iteration(method: str, monkeypatch) -> None:
    """Cameras, backgrounds and mirroring depend on the seed, not on the times and noise that an objective draws."""
    scenes = []

    def recorded(gaussians, cameras, background):
        scenes.append((cameras.world_to_camera, background))
        return render(gaussians, cameras, background)

    monkeypatch.setattr(gaussian_splatting, "render", recorded)
    for name in "sctd", method:
        chosen = methods.for_objective(recipe(iterations=4, encoding__flip_share=0.5), name)
        list(optimize.optimize(chosen, TinyPrior(), ball(), "red", 0))
    assert len(scenes) == 8
    for (cameras, background), (others, other_background) in zip(scenes[:4], scenes[4:], strict=True):
        assert torch.equal(cameras, others)
        assert torch.equal(background, other_background)
    assert not torch.equal(scenes[0][0], scenes[1][0])


def test_a_seed_determines_every_bit() -> None:
    for chosen in (recipe(), growing()):
        first, again, other = run(chosen), run(chosen), run(chosen, seed=1)
        assert all(same(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[-1].random, other[-1].random)


@pytest.mark.parametrize("chosen", [recipe(), growing()], ids=["relocating", "growing"])
def test_a_resumed_run_is_bit_identical(chosen: Recipe) -> None:
    steps = run(chosen)
    for stop in (1, 3, 4, 5, 6, 8, 11):  # 4 and 8 relocate or densify, 6 resets opacities
        resumed = list(
            optimize.optimize(chosen, TinyPrior(), ball(), "a red ball", 0, resume=steps[stop - 1].checkpoint())
        )
        assert len(resumed) == 12 - stop
        assert all(same(a, b) for a, b in zip(steps[stop:], resumed, strict=True)), stop
    finished = optimize.optimize(chosen, TinyPrior(), ball(), "a red ball", 0, resume=steps[-1].checkpoint())
    assert list(finished) == []


def test_a_step_does_not_change_while_the_run_continues() -> None:
    steps = optimize.optimize(recipe(), TinyPrior(), ball(), "a red ball", 0)
    first = next(steps)
    before, bytes_before = rows(first.gaussians).clone(), first.checkpoint()
    *_, last = steps
    assert torch.equal(rows(first.gaussians), before)
    assert first.checkpoint() == bytes_before
    assert not torch.equal(rows(last.gaussians), before)
    assert not any(tensor.requires_grad for tensor in last.gaussians.tensors().values())


def test_a_checkpoint_of_another_recipe_prompt_or_seed_is_refused_immediately() -> None:
    content = next(optimize.optimize(recipe(), TinyPrior(), ball(), "a red ball", 0)).checkpoint()
    for chosen, prompt, seed, message in [
        (recipe(guidance__scale=3), "a red ball", 0, "has recipe"),
        (recipe(), "a green ball", 0, "has prompt 'a red ball', this run has prompt 'a green ball'"),
        (recipe(), "a red ball", 7, "has seed 0, this run has seed 7"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            optimize.optimize(chosen, TinyPrior(), ball(), prompt, seed, resume=content)


def test_growth_stops_at_the_cap_and_opacities_are_reset() -> None:
    steps = run(growing(bounds__max_gaussians=75))
    nums = [step.num_gaussians for step in steps]
    assert nums[:3] == [60] * 3
    assert nums[3] > 60
    assert max(nums) == 75
    opacities = [float(step.gaussians.opacities.max()) for step in steps]
    assert opacities[4] > 0.2
    assert opacities[5] <= 0.01 + 1e-6


def test_an_iteration_with_nan_is_undone_and_counted() -> None:
    prior = TinyPrior()
    prior.corrupt = lambda call: call in (12, 40)  # iterations 3 or 4, and a later one
    steps = run(recipe(max_skipped_iterations=2), prior=prior)
    skips = [step.skipped for step in steps]
    assert skips[0] == 0
    assert skips[-1] == 2
    assert len(steps) == 12
    for before, after in pairwise(steps):
        if after.skipped > before.skipped:
            assert torch.equal(rows(after.gaussians), rows(before.gaussians))
            assert torch.equal(rows(after.scene.first_moment), rows(before.scene.first_moment))
            assert after.updates == before.updates
        else:
            assert not torch.equal(rows(after.gaussians), rows(before.gaussians))
    assert bool(rows(steps[-1].gaussians).isfinite().all())


def test_many_skipped_iterations_in_a_row_end_the_run() -> None:
    prior = TinyPrior()
    prior.corrupt = lambda call: call > 20
    steps = optimize.optimize(recipe(max_skipped_iterations=3), prior, ball(), "a red ball", 0)
    with pytest.raises(OptimizeError, match=r"NaN or infinity in 3 iterations in a row, .* in the gradient on z_0"):
        list(steps)


def test_a_resumed_run_counts_iterations_skipped_before() -> None:
    prior = TinyPrior()
    prior.corrupt = lambda call: True
    chosen = recipe(max_skipped_iterations=3)
    step = list(islice(optimize.optimize(chosen, prior, ball(), "a red ball", 0), 2))[-1]
    with pytest.raises(OptimizeError, match="NaN or infinity in 3 iterations in a row, up to iteration 3"):
        next(optimize.optimize(chosen, prior, ball(), "a red ball", 0, resume=step.checkpoint()))


@pytest.mark.parametrize("chosen", [recipe(), growing()], ids=["relocating", "growing"])
@pytest.mark.parametrize("corrupted", [(), (3, 4, 8), (12,)])
def test_running_ahead_of_the_check_gives_the_same_steps(chosen: Recipe, corrupted: tuple[int, ...]) -> None:
    """Also with undone iterations: an iteration that started from an undone one starts again."""
    usual = TinyPrior()
    run(chosen, prior=usual)
    times = [t for batch, t, _ in usual.calls if batch == 4]  # times of the guided prediction of each iteration
    runs = []
    for ahead in (False, True):
        prior = TinyPrior()
        prior.corrupt = lambda _, prior=prior: prior.calls[-1][:2] in {(4, times[number - 1]) for number in corrupted}
        runs.append(list(optimize.optimize(chosen, prior, ball(), "a red ball", 0, loop=LoopOptions(ahead=ahead))))
    assert all(same(a, b) for a, b in zip(*runs, strict=True))
    assert (runs[0][-1].skipped > 0) == bool(corrupted)


@pytest.mark.parametrize("chosen", [recipe(), growing(noise__kind="fixed")], ids=["relocating", "growing"])
def test_fewer_views_at_once_give_the_same_gradients(chosen: Recipe) -> None:
    """One iteration of 2 views, together or one by one: the same random numbers, sums equal up to rounding."""
    whole, split = (
        next(optimize.optimize(chosen, TinyPrior(), ball(), "a red ball", 0, loop=LoopOptions(views_at_once=views)))
        for views in (2, 1)
    )
    assert split.loss == pytest.approx(whole.loss, rel=1e-5)
    assert torch.equal(split.random, whole.random)
    for left, right in zip(
        split.scene.first_moment.tensors().values(),
        whole.scene.first_moment.tensors().values(),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(split.scene.gradient_sum, whole.scene.gradient_sum)
    assert torch.equal(split.scene.largest_radius, whole.scene.largest_radius)


def test_timing_marks_name_the_parts_of_an_iteration_in_order() -> None:
    marked: list[tuple[str, int]] = []
    loop = LoopOptions(mark=lambda part, samples=0: marked.append((part, samples)))
    next(optimize.optimize(recipe(), TinyPrior(), ball(), "a red ball", 0, loop=loop))
    marks = [part for part, _ in marked]
    assert marks[:4] == ["begin", "draws", "render", "encode"]
    assert marks[-6:] == ["regularizers", "regularizers", "encode backward", "render backward", "adam", "densify"]
    assert {mark for mark in marked if mark[1]} == {
        ("encode", 2), ("encode backward", 2), ("denoise", 2), ("denoise", 4),
    }  # fmt: skip
    assert marks[4:-6].count("objective") == 1 + marks.count("denoise")


@pytest.mark.parametrize(
    ("chosen", "num", "prompt", "message"),
    [
        (recipe(), 60, "  ", "the prompt is empty; describe the object"),
        (recipe(bounds__max_gaussians=59), 60, "x", "60 Gaussians; expected 1 to 59: change"),
        (recipe(), 0, "x", "0 Gaussians; expected 1 to 20000: change initialization.count"),
    ],
)
def test_invalid_arguments_are_refused_immediately(chosen: Recipe, num: int, prompt: str, message: str) -> None:
    with pytest.raises(OptimizeError) as caught:
        optimize.optimize(chosen, TinyPrior(), ball(num), prompt, 0)
    assert message in str(caught.value)


def test_the_text_follows_the_view() -> None:
    """The front should be red and the back blue, depending on the camera."""
    chosen = recipe(iterations=80, cameras__views=4, sh_degree=0, relocate__enabled=False)
    gaussians = run(chosen, prompt="a thing")[-1].gaussians
    rendering = render(gaussians, orbit(2, 10.0, 3.8, 0.55, SIZE), torch.zeros(3))
    front, back = (rendering.rgb / rendering.alpha[:, None].clamp(min=1e-3))[:, :, SIZE // 2, SIZE // 2]
    assert front[0] - front[2] > 0.2
    assert back[2] - back[0] > 0.2


@pytest.mark.parametrize(("view_text", "num_texts"), [("nearest", 5), ("interpolated", 5), ("none", 2)])
def test_prompts_include_the_template_the_view_words_and_the_negative_prompt(view_text: str, num_texts: int) -> None:
    chosen = recipe(guidance__view_text=view_text, guidance__negative_prompt="a green haze", cameras__views=4)
    prior = TinyPrior()
    run(chosen, prompt="{a} thing", prior=prior)
    assert prior.prompts[0] == "a green haze"
    assert len(prior.prompts) == num_texts
    assert all(text.startswith("a DSLR photo of {a} thing") for text in prior.prompts[1:])
    words = torch.stack([prior._target(text).reshape(1, -1) for text in prior.prompts[1:]])
    texts = [text for batch in prior.texts if batch is not None for text in batch.chunk(2)[1]]
    is_word = [bool((text == words).all(dim=-1).any()) for text in texts]
    assert len(is_word) == 4 * 12
    assert all(is_word) == (view_text != "interpolated")


def test_sh_coefficients_are_added_or_dropped() -> None:
    assert next(optimize.optimize(growing(), TinyPrior(), ball(), "a red ball", 0)).gaussians.sh_degree == 1
    four = ball()
    four = Gaussians(four.means, four.log_scales, four.quats, four.logit_opacities, four.sh.expand(-1, 4, -1))
    step = next(optimize.optimize(recipe(), TinyPrior(), four, "a red ball", 0))
    assert step.gaussians.sh_degree == 0


def test_parameters_stay_within_the_bounds() -> None:
    chosen = recipe(bounds__radius=0.45, bounds__scale=(0.06, 0.08))
    for step in run(chosen):
        assert float(step.gaussians.means.norm(dim=-1).max()) <= 0.45 + 1e-6
        assert 0.06 - 1e-6 <= float(step.gaussians.scales.min()) <= float(step.gaussians.scales.max()) <= 0.08 + 1e-6
        assert float(step.gaussians.sh.abs().max()) <= float(rgb_to_sh(torch.tensor(1.0))) + 1e-6


def test_background_colours_have_their_shares() -> None:
    settings = BackgroundConfig(white_share=0.2, black_share=0.3, grey_share=0.1, darkest=0.4)
    colours = draws.backgrounds(settings, 20_000, torch.Generator().manual_seed(0))
    white, black = (colours == 1).all(1), (colours == 0).all(1)
    grey = (colours == colours[:, :1]).all(1) & ~white & ~black
    for found, share in ((white, 0.2), (black, 0.3), (grey, 0.1)):
        assert float(found.float().mean()) == pytest.approx(share, abs=0.015)
    assert 0.4 <= float(colours[~black].min()) < 0.41


def test_fixed_noise_is_constant_and_scale_noise_has_its_spread() -> None:
    steps = run(recipe(noise__offset=0.5))
    assert torch.equal(steps[0].noise, steps[-1].noise)
    start = ball(20_000)
    noisy = draws.with_scale_noise(start, 0.2, torch.Generator().manual_seed(0))
    ratio = noisy.scales / start.scales - 1
    assert float(ratio.std()) == pytest.approx(0.2**0.5 / 4, rel=0.02)
    assert float(ratio.mean()) == pytest.approx(0, abs=0.003)
