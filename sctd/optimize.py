"""Text to 3D (Sec. 4.5): render, encode, take the objective's gradient on the latents, chain it back to the Gaussians.

`optimize` yields one `Step` an iteration; whoever calls it prints, saves or stops. No files, no clock, no output.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sctd import adam, densify, draws, guidance, objectives, regularize
from sctd.brightness import brightest, dimmed
from sctd.cameras import Cameras
from sctd.checkpoint import Identity, State, from_bytes, to_bytes
from sctd.densify import Population
from sctd.gaussians import Gaussians
from sctd.recipe import Recipe
from sctd.render import Rendering, render
from sctd.schedule import NoiseSchedule
from sctd.times import Times
from sctd.types import Denoiser, Images, Latents, ResidualPair, Text

Controlled = Callable[[Images], Denoiser]
"""Given a picture in [0, 1] for each view, an unguided denoiser that follows them."""


class OptimizeError(ValueError):
    """A run that cannot begin or go on."""


@runtime_checkable
class Prior(Protocol):
    """What the trainer asks of a text-to-image model; its parameters take no gradients."""

    @property
    def schedule(self) -> NoiseSchedule: ...
    @property
    def latent_shape(self) -> tuple[int, int, int]: ...
    @property
    def image_size(self) -> int: ...
    def encode(self, images: Images, generator: torch.Generator | None = None) -> Latents:
        """Images in [0, 1] → z_0, differentiable; a sample of the posterior, or without a generator its mean."""
        ...

    def embed(self, texts: list[str]) -> Text: ...
    def decode(self, z_0: Latents) -> Images:
        """z_0 → images in [0, 1]."""
        ...

    def denoise(self, z_t: Latents, t: int, text: Text | None) -> Latents: ...


@dataclass(frozen=True)
class Step:
    """A completed iteration (from 1). Nothing in it changes later, so that it may be kept.

    `loss` is ½ |gradient on z_0|², mean over the views, plus the regularisers. `skipped` counts the iterations so far
    that met NaN or infinity and were undone.
    """

    iteration: int
    iterations: int
    loss: float
    num_gaussians: int
    gaussians: Gaussians
    skipped: int
    state: State
    identity: Identity

    def checkpoint(self) -> bytes:
        """What `optimize(…, resume=…)` continues from, on the CPU bit for bit."""
        return to_bytes(self.state, self.identity)


def optimize(
    recipe: Recipe,
    prior: Prior,
    initial: Gaussians,
    prompt: str,
    seed: int,
    resume: bytes | None = None,
    control: Controlled | None = None,
) -> Iterator[Step]:
    """Distil `prompt` into Gaussians, beginning with `initial` and on its device, or with the checkpoint `resume`.

    `control` makes the denoiser that sees what `recipe.guidance.control` names, if it names anything:
    `partial(controlled, prior, Control.load(folder), scale=…)`.

    The same seed gives the same asset, on the CPU in every bit. Random numbers are drawn on the CPU, so that cameras,
    times and noise are those of the seed on every device. Raises at once: OptimizeError for what cannot begin,
    CheckpointError for a checkpoint of another run. Raises later: OptimizeError after `recipe.give_up_after`
    iterations in a row with NaN or infinity, DensifyError when every Gaussian has faded.
    """
    if not prompt.strip():
        raise OptimizeError("the prompt is empty; say what to make")
    if not 0 < initial.num <= recipe.bounds.max_gaussians:
        raise OptimizeError(
            f"{initial.num} Gaussians to begin with; expected 1 to {recipe.bounds.max_gaussians}: "
            "change seed_shape.count, seed_shape.replicas or bounds.max_gaussians"
        )
    if (control is None) != (recipe.guidance.control == "none"):
        found = "no ControlNet was given" if control is None else "a ControlNet was given"
        raise OptimizeError(f"guidance.control is {recipe.guidance.control!r} and {found}; they must agree")
    identity = Identity(recipe.digest(), prompt, seed)
    device = initial.means.device
    state = from_bytes(resume, identity, device) if resume is not None else _initial_state(recipe, prior, initial, seed)
    run = _Run.of(recipe, prior, prompt, seed, device, control)
    return _steps(run, state, identity)


def _steps(run: "_Run", state: State, identity: Identity) -> Iterator[Step]:
    iterations = run.recipe.iterations
    while state.iteration < iterations:
        state = run.advance(state)
        gaussians = state.population.gaussians
        yield Step(state.iteration, iterations, state.loss, gaussians.num, gaussians, state.skipped, state, identity)


def _initial_state(recipe: Recipe, prior: Prior, initial: Gaussians, seed: int) -> State:
    generator = draws.generator_of(seed)
    noise = draws.noise(recipe, prior.latent_shape, generator).to(initial.means.device)
    gaussians = densify.bounded(_with_sh_degree(initial.detach(), recipe.sh_degree), recipe.bounds)
    return State(0, 0, 0, 0, 0.0, Population.of(gaussians), noise, generator.get_state())


def _with_sh_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """The same Gaussians; harmonics that they lack begin at 0, those beyond `degree` are left out."""
    num_basis = (degree + 1) ** 2
    missing = gaussians.sh.new_zeros(gaussians.num, max(num_basis - gaussians.sh.shape[1], 0), 3)
    return replace(gaussians, sh=torch.cat([gaussians.sh[:, :num_basis], missing], dim=1))


@dataclass(frozen=True)
class _Run:
    """What stays the same from iteration to iteration."""

    recipe: Recipe
    prior: Prior
    seed: int
    device: torch.device
    control: Controlled | None
    null: Text
    views: guidance.ViewText | None
    text_of: Callable[[Cameras], Text]
    residual: objectives.Objective

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        prior: Prior,
        prompt: str,
        seed: int,
        device: torch.device,
        control: Controlled | None,
    ) -> "_Run":
        null = prior.embed([recipe.guidance.negative_prompt])
        text = recipe.guidance.prompt_template.replace("{prompt}", prompt)
        text_of, views = _texts(recipe.guidance.view_text, prior, text)
        options = recipe.objective.model_dump() | {"threshold": recipe.times.threshold, "decode": prior.decode}
        residual = objectives.with_options(recipe.objective.name, options)
        return cls(recipe, prior, seed, device, control, null, views, text_of, residual)

    def advance(self, state: State) -> State:
        """The next state; where NaN or infinity turn up, the same one but for its counters and random numbers."""
        generator = torch.Generator()
        generator.set_state(state.random)
        iteration, before = state.iteration + 1, state.population
        pull = self._pull(state, iteration, generator)
        after = self._moved(before, pull.gradients, iteration, state.updates + 1)
        seconds = {f"Adam's second moment of {name}": tensor for name, tensor in after.second_moment.tensors().items()}
        faulty = _not_finite({**pull.gradients_by_name(), **seconds, **after.gaussians.tensors()})
        if faulty:
            return self._skipped(state, faulty, generator)
        if self.recipe.densify.enabled:
            after = densify.observe(after, pull.gradient_pixels, pull.radii)
        after = self._repopulated(after, iteration, generator)
        after = self._dimmed(after, pull.brightest, iteration)
        return State(
            iteration, state.updates + 1, state.skipped, 0, float(pull.loss), after, state.noise, generator.get_state()
        )

    def _pull(self, state: State, iteration: int, generator: torch.Generator) -> "_Pull":
        """Where the objective pulls each Gaussian."""
        recipe, num_views = self.recipe, self.recipe.cameras.views
        scene = draws.generator_of(self.seed, iteration)
        cameras = draws.views(recipe, iteration, self.prior.image_size, scene).to(self.device)
        background = draws.backgrounds(recipe.background, num_views, scene).to(self.device)
        leaves = state.population.gaussians.map(lambda tensor: tensor.detach().requires_grad_())
        shown = draws.with_scale_noise(leaves, recipe.encoding.scale_noise, generator)
        rendering = render(shown, cameras, background)

        images, mirrored = _encoded_images(recipe, rendering, cameras, scene)
        z_0 = self.prior.encode(images, generator if recipe.encoding.posterior == "sample" else None).float()
        noise = (
            state.noise
            if recipe.noise.kind == "fixed"
            else draws.noise(recipe, self.prior.latent_shape, generator).to(z_0)
        )
        times = draws.times(recipe, iteration, generator)
        with torch.no_grad():
            residual = self.residual(
                z_0.detach(),
                denoise=self._denoiser(cameras, rendering, mirrored),
                text=self.text_of(cameras),
                noise=noise,
                times=times,
                schedule=self.prior.schedule,
            )
            pair = residual if isinstance(residual, ResidualPair) else ResidualPair(residual, torch.zeros_like(images))
            gradient, on_images = (self._weighted(part, times, iteration) for part in pair)
        # The gradients of these products are `gradient` and `on_images`: the U-Net's Jacobian is left out.
        total = ((z_0 * gradient).sum() + (images * on_images).sum()) / num_views
        added = z_0.new_zeros(())
        if iteration > recipe.regularizers.after_share * recipe.iterations:
            added = regularize.penalty(recipe.regularizers, leaves, rendering, cameras)
        tensors = leaves.tensors()
        *gradients, pixels = torch.autograd.grad(
            total + added, [*tensors.values(), rendering.means2d], allow_unused=True, materialize_grads=True
        )
        loss = (gradient.square().sum() + on_images.square().sum()) / (2 * num_views) + added.detach()
        by_name = dict(zip(tensors, gradients, strict=True))
        bright = brightest(rendering.rgb.detach(), recipe.brightness.quantile) if recipe.brightness.enabled else 0.0
        return _Pull(loss, gradient, Gaussians(**by_name), num_views * pixels, rendering.radii, bright)

    def _denoiser(self, cameras: Cameras, rendering: Rendering, mirrored: bool) -> Denoiser:
        """The guided prior for the views of this iteration: objectives know of no guidance but this."""
        settings = self.recipe.guidance

        def plain(z_t: Latents, t: int, text: Text | None) -> Latents:
            return self.prior.denoise(z_t, t, text).float()  # differences of predictions are taken in float32

        if self.control is not None:
            seen = regularize.disparity_images(rendering, cameras).detach()
            plain = self.control(seen.flip(-1) if mirrored else seen)
        if settings.perp_neg and self.views is not None:
            negatives = guidance.negatives(self.views, cameras.azimuth_degrees)
            return guidance.perp_neg(plain, settings.scale, self.null, negatives)
        return guidance.cfg(plain, settings.scale, self.null)

    def _weighted(self, residual: Tensor, times: Times, iteration: int) -> Tensor:
        """The gradient that a residual stands for."""
        settings = self.recipe.objective
        return objectives.gradient(
            residual,
            schedule=self.prior.schedule,
            times=times,
            time_weight=settings.time_weight,
            weight=settings.weight,
            clamp=settings.clamp,
            progress=iteration / self.recipe.iterations,
        )

    def _moved(self, population: Population, gradients: Gaussians, iteration: int, count: int) -> Population:
        """After Adam's `count`-th step, inside the bounds."""
        recipe = self.recipe
        progress = (iteration - 1) / max(recipe.iterations - 1, 1)
        gaussians, first, second = adam.update(
            population.gaussians,
            adam.clipped(gradients, recipe.optimizer, progress),
            population.first_moment,
            population.second_moment,
            rates=adam.rates_at(recipe.optimizer, progress, gradients.sh.shape[1]),
            count=count,
            optimizer=recipe.optimizer,
        )
        gaussians = densify.bounded(gaussians, recipe.bounds)
        return replace(population, gaussians=gaussians, first_moment=first, second_moment=second)

    def _repopulated(self, population: Population, iteration: int, generator: torch.Generator) -> Population:
        grows, moves = self.recipe.densify, self.recipe.relocate
        if grows.enabled and iteration < grows.before:
            if iteration > grows.after and iteration % grows.interval == 0:
                population = densify.densify(population, grows, self.recipe.bounds, iteration, generator)
            if grows.reset_interval and iteration % grows.reset_interval == 0:
                population = densify.reset_opacity(population, grows.reset_opacity)
        last = moves.until_share * self.recipe.iterations
        if moves.enabled and iteration % moves.interval == 0 and iteration <= last:
            population = densify.relocate(population, moves, generator)
        return population

    def _dimmed(self, population: Population, brightest: float, iteration: int) -> Population:
        """BEG: all colours towards mid grey, and their moments forgotten, where the brightest views outshine."""
        settings, progress = self.recipe.brightness, iteration / self.recipe.iterations
        if not (settings.enabled and settings.after_share < progress < settings.until_share):
            return population
        return dimmed(population, settings.factor) if brightest > settings.limit else population

    def _skipped(self, state: State, faulty: list[str], generator: torch.Generator) -> State:
        in_a_row = state.skipped_in_a_row + 1
        if in_a_row >= self.recipe.give_up_after:
            raise OptimizeError(
                f"NaN or infinity in {in_a_row} iterations in a row, up to iteration {state.iteration + 1}, "
                f"in {', '.join(faulty)}; use a prior in bfloat16 or float32, or lower the rates and guidance.scale"
            )
        return replace(
            state,
            iteration=state.iteration + 1,
            skipped=state.skipped + 1,
            skipped_in_a_row=in_a_row,
            random=generator.get_state(),
        )


class _Pull(NamedTuple):
    loss: Float[Tensor, ""]
    gradient: Latents
    gradients: Gaussians
    gradient_pixels: Float[Tensor, "views num 2"]
    radii: Tensor
    brightest: float

    def gradients_by_name(self) -> dict[str, Tensor]:
        """Where a fault would show first, in the order in which it spreads."""
        rest = {f"the gradient of {name}": tensor for name, tensor in self.gradients.tensors().items()}
        return {"the gradient on z_0": self.gradient, "the loss": self.loss, **rest}


def _texts(view_text: str, prior: Prior, text: str) -> tuple[Callable[[Cameras], Text], guidance.ViewText | None]:
    """The text for cameras, and the texts for all view words if the recipe wants these."""
    if view_text == "none":
        embedding = prior.embed([text])
        return lambda cameras: embedding.expand(cameras.num, -1, -1), None
    views, rule = guidance.ViewText(*prior.embed(guidance.view_prompts(text))), guidance.VIEW_TEXT[view_text]
    return lambda cameras: rule(views, cameras.azimuth_degrees, cameras.elevation_degrees), views


def _encoded_images(
    recipe: Recipe, rendering: Rendering, cameras: Cameras, generator: torch.Generator
) -> tuple[Images, bool]:
    """What the encoder sees: the colours or, in some iterations, the disparity; and whether it is mirrored."""
    as_disparity, mirrored = torch.rand(2, generator=generator) < torch.tensor(
        [recipe.encoding.disparity_share, recipe.encoding.flip_share]
    )
    images = rendering.rgb
    if as_disparity:
        images = regularize.disparity_images(rendering, cameras)
    return (images.flip(-1), True) if mirrored else (images, False)


def _not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity; one wait for the device."""
    are_finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).tolist()
    return [name for name, is_finite in zip(tensors, are_finite, strict=True) if not is_finite]
