"""Random draws of an iteration: noise, times, cameras, backgrounds and encoder input.

The generator is on the CPU, so that a seed gives the same numbers on every device.
"""

import hashlib
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.diffusion.times import (
    Times,
    Window,
    annealed_window,
    draw,
    draw_annealed,
    draw_interval,
    draw_linear,
    draw_single,
    draw_two_intervals,
    interval_at,
)
from sctd.recipe.recipe import Recipe
from sctd.recipe.scene import BackgroundConfig
from sctd.scene.cameras import Cameras, random_views
from sctd.scene.gaussians import Gaussians
from sctd.transfer import to_device


class EncoderInput(NamedTuple):
    """How the views of an iteration are encoded: as disparity instead of colours, mirrored or not."""

    disparity: bool
    mirrored: bool


def generator_of(seed: int, iteration: int | None = None) -> torch.Generator:
    """The random stream of the trainer, independent of the initial Gaussians drawn from the same seed.

    With an iteration: the stream of cameras, backgrounds and encoder input, which all objectives share. The times and
    noise of an objective come from the other stream, so that they do not shift these draws.
    """
    name = f"sctd.optimize {seed}" if iteration is None else f"sctd.optimize {seed} scene {iteration}"
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def noise(
    recipe: Recipe, latent_shape: tuple[int, int, int], generator: torch.Generator
) -> Float[Tensor, "views channels height width"]:
    """ε for every view: standard normal plus a random constant per channel (`noise.offset`)."""
    channels, height, width = latent_shape
    views = recipe.cameras.views
    standard = torch.randn(1 if recipe.noise.shared else views, channels, height, width, generator=generator)
    constant = recipe.noise.offset * torch.randn(1, channels, 1, 1, generator=generator)
    return standard.expand(views, -1, -1, -1) + constant


def backgrounds(settings: BackgroundConfig, views: int, generator: torch.Generator) -> Float[Tensor, "views 3"]:
    """A uniform background colour per view: white, black, grey or random, by their shares."""
    kind = torch.rand(views, 1, generator=generator)
    colour = settings.darkest + (1 - settings.darkest) * torch.rand(views, 3, generator=generator)
    white, black = settings.white_share, settings.white_share + settings.black_share
    colour = torch.where(kind < black + settings.grey_share, colour[:, :1].expand(views, 3), colour)
    colour = torch.where(kind < black, 0.0, colour)
    return torch.where(kind < white, 1.0, colour)


def encoder_input(recipe: Recipe, generator: torch.Generator) -> EncoderInput:
    """Draw whether this iteration encodes disparity and whether it mirrors, the same for all views."""
    shares = torch.tensor([recipe.encoding.disparity_share, recipe.encoding.flip_share])
    disparity, mirrored = (torch.rand(2, generator=generator) < shares).tolist()
    return EncoderInput(disparity, mirrored)


def views(recipe: Recipe, iteration: int, size: int, generator: torch.Generator) -> Cameras:
    """The cameras of an iteration (from 1), `size` × `size` pixels."""
    settings, ranges = recipe.cameras, recipe.cameras.ranges_at(iteration)
    low, high = settings.azimuth_degrees
    return random_views(
        generator,
        settings.views,
        size=size,
        radius=ranges.radius,
        fov_y_radians=ranges.fov_y_radians,
        elevation_degrees=ranges.elevation_degrees,
        # A full turn always starts at the front, so that it draws the same numbers as no limits.
        azimuth_degrees=(low, high) if high - low < 360 else (0.0, 360.0),
        azimuth_spread=settings.azimuth_spread,
        overhead_share=settings.overhead_share,
        overhead_elevation_degrees=settings.overhead_elevation_degrees,
        center_jitter=settings.center_jitter,
        target_jitter=settings.target_jitter,
        up_jitter=settings.up_jitter,
    )


def times(recipe: Recipe, iteration: int, generator: torch.Generator) -> Times:
    """t, s and s_m of an iteration (from 1). The keys that each rule reads are in `sctd.recipe.effects.RULES`."""
    settings, at = recipe.times, (recipe, iteration)
    match settings.rule:
        case "segments":
            edges, least, margin = settings.edges(), settings.minimum_interval, settings.epsilon
            return draw(_window(*at), edges, generator, min_interval=least, margin=margin)
        case "single":
            return draw_single(_window(*at), generator)
        case "linear":
            return draw_linear(iteration / recipe.iterations, first=settings.start_high, last=settings.low)
        case "interval":
            return draw_interval(_window(*at), _interval(*at), generator)
        case "two_intervals":
            return draw_two_intervals(_window(*at), _interval(*at), generator, margin=settings.epsilon)
        case "annealed":
            progress, (first, last) = iteration / recipe.iterations, (settings.high, settings.low)
            return draw_annealed(
                progress, generator, first=first, last=last, gap=settings.gap, max_t=settings.start_high
            )


def _window(recipe: Recipe, iteration: int) -> Window:
    """The range of t."""
    settings = recipe.times
    return annealed_window(
        iteration,
        lower=settings.low,
        upper=settings.high,
        warm_up=settings.start_high - settings.high,
        warm_up_iterations=_warm_up(recipe),
        shift_lower_bound=settings.shift_lower_bound,
    )


def _interval(recipe: Recipe, iteration: int) -> int:
    """Δ = t − s."""
    settings, warm_up = recipe.times, _warm_up(recipe)
    return interval_at(iteration, interval=settings.interval, extra=settings.interval_extra, warm_up_iterations=warm_up)


def _warm_up(recipe: Recipe) -> int:
    return round(recipe.times.warmup_share * recipe.iterations)


def with_scale_noise(gaussians: Gaussians, share: float, generator: torch.Generator) -> Gaussians:
    """Multiply scales by 1 + √share/4 · N(0, 1), but at least by 0.01."""
    if share == 0:
        return gaussians
    factor = 1 + share**0.5 / 4 * torch.randn(gaussians.num, 3, generator=generator)
    log_factor = to_device(factor.clamp(min=0.01).log(), gaussians.log_scales.device)
    return replace(gaussians, log_scales=gaussians.log_scales + log_factor)
