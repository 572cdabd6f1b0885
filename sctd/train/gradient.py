"""The guidance gradient on the asset (Sec. 4.5): render, encode, apply the objective, backpropagate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sctd import objectives
from sctd.diffusion import guidance, perp_neg
from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.errors import SctdError
from sctd.recipe.recipe import Recipe
from sctd.render.contract import Rendering
from sctd.scene.cameras import Cameras
from sctd.train import draws, regularize, representations
from sctd.train.checkpoint import State, moved, tensors_of
from sctd.train.representation import Observed, Representation
from sctd.transfer import TimingMark, no_timing, to_device
from sctd.types import Denoiser, Images, Latents, ObjectiveState, ResidualPair, Text

Controlled = Callable[[Images], Denoiser]
"""Maps one control image in [0, 1] per view to an unguided denoiser that follows them."""


@runtime_checkable
class Prior(Protocol):
    """The interface of a text-to-image model in training. Its parameters need no gradients."""

    @property
    def schedule(self) -> NoiseSchedule: ...
    @property
    def latent_shape(self) -> tuple[int, int, int]: ...
    @property
    def image_size(self) -> int: ...
    def encode(self, images: Images, noise: Latents | None = None) -> Latents:
        """Images in [0, 1] → z_0, differentiable: the posterior mean, or a posterior sample if `noise` is given."""
        ...

    def embed(self, texts: list[str]) -> Text: ...
    def decode(self, z_0: Latents) -> Images:
        """z_0 → images in [0, 1]."""
        ...

    def denoise(self, z_t: Latents, t: int, text: Text | None) -> Latents: ...


@runtime_checkable
class AdaptablePrior(Prior, Protocol):
    """A prior that can learn along."""

    def adapters(self, rank: int) -> Any:
        """ε_ψ(ψ, z_t, t, text, cameras), with a method `initial(generator) → ψ`."""
        ...


class GuidanceGradient(NamedTuple):
    """The gradient of the objective and the regularizers on the asset, with what the iteration saw."""

    z_0: Latents
    loss: Float[Tensor, ""]
    gradient: Latents
    gradients: Any
    """On the asset, and of its type."""
    seen: Observed
    state: ObjectiveState
    """That of the objective after the iteration."""

    def gradients_by_name(self) -> dict[str, Tensor]:
        """All gradients and the loss, in the order in which a numeric failure spreads."""
        rest = {f"the gradient of {name}": tensor for name, tensor in self.gradients.tensors().items()}
        return {"the gradient on z_0": self.gradient, "the loss": self.loss, **rest, **tensors_of(self.state)}


class ViewBatch(NamedTuple):
    """The random draws of one iteration: cameras, backgrounds, encoder input, ε*, posterior noise and times."""

    cameras: Cameras
    background: Float[Tensor, "views 3"]
    encoder_input: draws.EncoderInput
    noise: Latents
    sampling: Latents | None
    times: Times

    def select(self, views: slice) -> "ViewBatch":
        """The draws of some of the views."""
        return self._replace(
            cameras=self.cameras.select(views),
            background=self.background[views],
            noise=self.noise[views],
            sampling=None if self.sampling is None else self.sampling[views],
        )


@dataclass(frozen=True)
class LoopOptions:
    """How the iterations run. The options change speed and memory, and otherwise only the rounding of sums."""

    views_at_once: int | None = None
    """Process so many views together, by default all. Fewer need less memory."""
    ahead: bool | None = None
    """Start an iteration before the previous one is known to be finite, so that the device never waits (on GPUs)."""
    mark: TimingMark = no_timing
    renderer: Callable[..., Rendering] | None = None
    """Replaces `Representation.render`."""


USUAL = LoopOptions()


@dataclass(frozen=True)
class Distillation:
    """Computes the guidance gradient of an iteration. Holds everything that is the same in all iterations.

    `text` is the embedded prompt, or that of each view if the prompt depends on the view.
    """

    recipe: Recipe
    prior: Prior
    seed: int
    control: Controlled | None
    loop: LoopOptions
    null: Text
    text: Text | guidance.ViewText
    objective: objectives.Objective
    offered: Mapping[str, Any]
    """What the objective gets in every iteration if it asks for it."""
    representation: Representation

    @classmethod
    def of(
        cls, recipe: Recipe, prior: Prior, prompt: str, seed: int, control: Controlled | None, loop: LoopOptions
    ) -> "Distillation":
        null = prior.embed([recipe.guidance.negative_prompt])
        prompt = recipe.guidance.prompt_template.replace("{prompt}", prompt)
        if recipe.guidance.view_text == "none":
            text: Text | guidance.ViewText = prior.embed([prompt])
        else:
            text = guidance.ViewText(*prior.embed(guidance.view_prompts(prompt)))
        objective = objectives.of_recipe(recipe)
        offered: dict[str, Any] = {"schedule": prior.schedule, "decode": prior.decode}
        if objective.asks_for("adapted"):
            if not isinstance(prior, AdaptablePrior):
                raise SctdError("the objective learns along, but the prior has no adapters; add a method adapters")
            offered["adapted"] = prior.adapters(recipe.objective.adapter_rank)
        if objective.asks_for("negative"):
            offered["negative"] = prior.embed([recipe.objective.negative_prompt])
        kind = representations.of_recipe(recipe)
        return cls(recipe, prior, seed, control, loop, null, text, objective, offered, kind)

    def initial_state(self, generator: torch.Generator) -> ObjectiveState:
        """What the objective keeps, before the first iteration."""
        return self.objective.initial(recipe=self.recipe, prior=self.prior, generator=generator, **self.offered)

    def __call__(self, state: State, iteration: int, generator: torch.Generator) -> GuidanceGradient:
        """The guidance gradient on the whole asset."""
        recipe, num_views, device = self.recipe, self.recipe.cameras.views, state.noise.device
        scene_generator = draws.generator_of(self.seed, iteration)
        cameras = draws.views(recipe, iteration, self.prior.image_size, scene_generator).to(device)
        background = to_device(draws.backgrounds(recipe.background, num_views, scene_generator), device)
        leaves = state.scene.asset.map(lambda tensor: tensor.detach().requires_grad_())
        drawn = self.representation.drawn(leaves, state.scene, iteration, generator)
        encoder_input = draws.encoder_input(recipe, scene_generator)
        latents = num_views, *self.prior.latent_shape
        sampling = torch.randn(latents, generator=generator) if recipe.encoding.posterior == "sample" else None
        noise = state.noise
        if recipe.noise.kind == "fresh":
            noise = to_device(draws.noise(recipe, self.prior.latent_shape, generator), device).to(noise)
        times = draws.times(recipe, iteration, generator)
        self.loop.mark("draws")
        batch = ViewBatch(cameras, background, encoder_input, noise, sampling, times)
        at_once = self.loop.views_at_once or num_views
        chunks = [slice(first, first + at_once) for first in range(0, num_views, at_once)]
        kept = state.objective
        whole = _joined([self._part(iteration, leaves, drawn, batch.select(views), kept) for views in chunks])
        if self.objective.update is None:
            return whole._replace(state=kept)
        given = {"text": self.text_of(cameras), "generator": generator, "progress": iteration / recipe.iterations}
        updated = self.objective.updated(kept, whole.z_0, cameras=cameras, **given, **self.offered)
        self.loop.mark("objective")
        return whole._replace(state=moved(updated, device))

    def _part(
        self, iteration: int, leaves: Any, drawn: Any, batch: ViewBatch, state: ObjectiveState
    ) -> GuidanceGradient:
        """The contribution of some of the views to the gradient of all views."""
        recipe, num_views, mark = self.recipe, self.recipe.cameras.views, self.loop.mark
        cameras, background, encoder_input, noise, sampling, times = batch
        progress = iteration / recipe.iterations
        rendering = (self.loop.renderer or self.representation.render)(drawn, cameras, background)
        images = rendering.rgb if not encoder_input.disparity else regularize.disparity_images(rendering, cameras)
        images = images.flip(-1) if encoder_input.mirrored else images
        mark("render")
        z_0 = self.prior.encode(images, None if sampling is None else to_device(sampling, noise.device)).float()
        mark("encode", cameras.num)
        maps = partial(_maps, rendering, cameras, encoder_input.mirrored) if self.looks_at_surfaces else dict
        residual = self.residual(
            z_0.detach(),
            unguided=self._denoiser(cameras, rendering, encoder_input.mirrored),
            noise=noise,
            times=times,
            cameras=cameras,
            progress=progress,
            state=state,
            **maps(),
        )
        pair = residual if isinstance(residual, ResidualPair) else ResidualPair(residual, torch.zeros_like(images))
        gradient, on_images = (self._weighted(part, times, iteration) for part in pair)
        mark("objective")
        # The gradients of these products are `gradient` and `on_images`, so the Jacobian of the U-Net is omitted.
        total = ((z_0 * gradient).sum() + (images * on_images).sum()) / num_views
        added = z_0.new_zeros(())
        if iteration > recipe.regularizers.after_share * recipe.iterations:
            added = cameras.num / num_views * self.representation.penalty(leaves, rendering, cameras, progress)
        mark("regularizers")
        z_0.register_hook(lambda _: mark("regularizers"))
        images.register_hook(lambda _: mark("encode backward", cameras.num))
        tensors, centres = leaves.tensors(), [] if rendering.means2d is None else [rendering.means2d]
        found = torch.autograd.grad(
            total + added, [*tensors.values(), *centres], allow_unused=True, materialize_grads=True
        )
        mark("render backward")
        loss = (gradient.square().sum() + on_images.square().sum()) / (2 * num_views) + added.detach()
        gradients = leaves.with_tensors(dict(zip(tensors, found, strict=False)))
        pixels = num_views * found[-1] if centres else None
        rendered = rendering.rgb.detach() if recipe.brightness.enabled else None
        seen = Observed(pixels, rendering.radii, rendered)
        return GuidanceGradient(z_0.detach(), loss, gradient, gradients, seen, state)

    def residual(self, z_0: Latents, *, unguided: Denoiser, cameras: Cameras, **given: Any) -> Latents | ResidualPair:
        """The residual of the objective, which gets what it asks for. All guidance is applied here."""
        text, denoise = self.text_of(cameras), self.guided(cameras, unguided)
        given = {"denoise": denoise, "unguided": unguided, "text": text, "cameras": cameras, **given, **self.offered}
        return self.objective(z_0, **given)

    @cached_property
    def looks_at_surfaces(self) -> bool:
        """Whether the objective asks for what is rendered besides colours."""
        return any(map(self.objective.asks_for, ("alpha", "depth", "positions")))

    def text_of(self, cameras: Cameras) -> Text:
        """The embedded prompt of each view."""
        if not isinstance(self.text, guidance.ViewText):
            return self.text.expand(cameras.num, -1, -1)
        rule = guidance.VIEW_TEXT[self.recipe.guidance.view_text]
        return rule(self.text, cameras.azimuth_degrees, cameras.elevation_degrees)

    def _denoiser(self, cameras: Cameras, rendering: Rendering, mirrored: bool) -> Denoiser:
        """The unguided denoiser for the views of this iteration, controlled if the recipe has a ControlNet."""
        denoise, mark = self.prior.denoise, self.loop.mark
        if self.control is not None:
            disparity = regularize.disparity_images(rendering, cameras).detach()
            denoise = self.control(disparity.flip(-1) if mirrored else disparity)

        def plain(z_t: Latents, t: int, text: Text | None) -> Latents:
            mark("objective")
            predicted = denoise(z_t, t, text).float()  # differences of predictions need float32
            mark("denoise", len(z_t))
            return predicted

        return plain

    def guided(self, cameras: Cameras, denoise: Denoiser) -> Denoiser:
        """The guidance of the recipe around an unguided denoiser."""
        settings = self.recipe.guidance
        if settings.perp_neg and isinstance(self.text, guidance.ViewText):
            negatives = perp_neg.negatives(self.text, cameras.azimuth_degrees)
            return perp_neg.perp_neg(denoise, settings.scale, self.null, negatives)
        return guidance.cfg(denoise, settings.scale, self.null)

    def _weighted(self, residual: Tensor, times: Times, iteration: int) -> Tensor:
        """The gradient of a residual: weighted and clamped as the recipe says."""
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


def _maps(rendering: Rendering, cameras: Cameras, mirrored: bool) -> dict[str, Tensor]:
    """Opacity, depth and positions of the surfaces in the pixels that the encoder saw, without gradients."""
    alpha, depth = rendering.alpha.detach(), rendering.depth.detach() / rendering.alpha.detach().clamp(min=1e-6)
    maps = {"alpha": alpha, "depth": depth, "positions": cameras.unprojected(depth)}
    return {name: each.flip(-1) if mirrored else each for name, each in maps.items()}


def _joined(parts: list[GuidanceGradient]) -> GuidanceGradient:
    """Combine the gradients of parts of the views into that of all views."""
    if len(parts) == 1:
        return parts[0]
    gradients = [part.gradients.tensors() for part in parts]
    return GuidanceGradient(
        torch.cat([part.z_0 for part in parts]),
        torch.stack([part.loss for part in parts]).sum(),
        torch.cat([part.gradient for part in parts]),
        parts[0].gradients.with_tensors(
            {name: torch.stack([each[name] for each in gradients]).sum(0) for name in gradients[0]}
        ),
        Observed(*(_all_views(each) for each in zip(*(part.seen for part in parts), strict=True))),
        parts[0].state,
    )


def _all_views(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None
