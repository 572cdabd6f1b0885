"""The pull on the Gaussians (Sec. 4.5): render, encode, take the objective's gradient on the latents, chain it back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sctd import draws, guidance, objectives, regularize
from sctd.brightness import brightest
from sctd.cameras import Cameras
from sctd.checkpoint import State
from sctd.gaussians import Gaussians
from sctd.recipe import Recipe
from sctd.render import Rendering, render
from sctd.schedule import NoiseSchedule
from sctd.times import Times
from sctd.types import Denoiser, Images, Latents, ResidualPair, Text

Controlled = Callable[[Images], Denoiser]
"""Given a picture in [0, 1] for each view, an unguided denoiser that follows them."""


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


class Pull(NamedTuple):
    """Where the objective and the regularisers pull each Gaussian, and what densification wants to know of it."""

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


@dataclass(frozen=True)
class Puller:
    """What stays the same from iteration to iteration of how the prior pulls."""

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
    ) -> "Puller":
        null = prior.embed([recipe.guidance.negative_prompt])
        text = recipe.guidance.prompt_template.replace("{prompt}", prompt)
        text_of, views = _texts(recipe.guidance.view_text, prior, text)
        options = recipe.objective.model_dump() | {"threshold": recipe.times.threshold, "decode": prior.decode}
        residual = objectives.with_options(recipe.objective.name, options)
        return cls(recipe, prior, seed, device, control, null, views, text_of, residual)

    def __call__(self, state: State, iteration: int, generator: torch.Generator) -> Pull:
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
        return Pull(loss, gradient, Gaussians(**by_name), num_views * pixels, rendering.radii, bright)

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
