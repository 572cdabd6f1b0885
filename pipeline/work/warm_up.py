"""What a recipe compiles before its first iteration: reported one by one by workers, and built ahead by `warmup`."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch

from pipeline.assets import images
from pipeline.weights.models import Weights
from sctd.prior.control import Control, controlled
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.recipe.compute import ComputeConfig
from sctd.recipe.recipe import Recipe, with_overrides
from sctd.scene.cameras import orbit
from sctd.train.batch_sizes import batch_sizes
from sctd.train.initialization import initial_gaussians
from sctd.train.optimize import optimize

PROMPT, GAUSSIANS = "a red mushroom", 1000  # of the iteration that is run ahead


class Build(NamedTuple):
    """Something to compile: a message, and the call that does it."""

    note: str
    run: Callable[[], object]


def builds(recipe: Recipe, prior: StableDiffusionPrior, views_at_once: int) -> Iterator[Build]:
    """The CUDA graphs that the recipe needs and the prior does not have yet; none without CUDA graphs.

    With a ControlNet, whose residuals are inputs of the U-Net, the first iteration compiles the U-Net instead.
    """
    if prior.captured is None:
        return
    views, captured = recipe.cameras.views, prior.captured
    parts = sorted({min(views_at_once, views - first) for first in range(0, views, views_at_once)})
    for part in parts:
        if not captured.moments.has(torch.Size((part, 3, prior.image_size, prior.image_size))):
            yield Build(f"capturing the encoder for {part} views", partial(_encode, prior, part))
    sizes = sorted({size for part in parts for size in batch_sizes(recipe, prior, part)})
    if recipe.guidance.control != "none":
        yield Build(f"compiling the U-Net for batches of {' and '.join(map(str, sizes))}", lambda: None)
        return
    todo = [size for size in sizes if not captured.predict.has(*_shapes(prior, size))]
    for number, size in enumerate(todo, 1):
        note = f"compiling the U-Net for batches of {size} ({number} of {len(todo)})"
        yield Build(note, partial(_predict, prior, size))


def load_prior(weights: Weights, compute: ComputeConfig, device: torch.device) -> StableDiffusionPrior:
    """The prior with these compute settings."""
    dtype, fast = getattr(torch, compute.dtype), compute.cuda_graphs and device.type == "cuda"
    engine = compute.cpu_engine if device.type == "cpu" else "torch"
    return StableDiffusionPrior.load(
        weights.part("prior"), device, dtype, cuda_graphs=fast, cpu_offload=fast, cpu_engine=engine
    )


def ahead(recipe: Recipe, weights: Weights, device: torch.device, log: Callable[[str], None]) -> dict[str, float]:
    """Compile what runs of a recipe need on this device, as their workers do; the seconds of each part by its note.

    Ends with an iteration of the recipe from a small ball and two images, for the kernels that render.
    """
    seconds: dict[str, float] = {}

    def timed(note: str, run: Callable[[], object]) -> object:
        log(note)
        start = time.monotonic()
        result = run()
        seconds[note] = time.monotonic() - start
        return result

    prior = timed("loading the prior", lambda: load_prior(weights, recipe.compute, device))
    assert isinstance(prior, StableDiffusionPrior)
    for build in builds(recipe, prior, recipe.cameras.views):
        timed(build.note, build.run)
    timed("running an iteration", lambda: _iterate(recipe, prior, weights))
    return seconds


def _iterate(recipe: Recipe, prior: StableDiffusionPrior, weights: Weights) -> None:
    small = with_overrides(recipe, {"initialization.kind": "ball", "initialization.count": GAUSSIANS})
    initial = initial_gaussians(small.initialization, "", torch.Generator().manual_seed(0)).to(prior.device)
    control = None
    if recipe.guidance.control != "none":
        model = Control.load(weights.part("control"), prior.device)
        control = partial(controlled, prior, model, scale=recipe.guidance.control_scale)
    next(optimize(small, prior, initial, PROMPT, 0, control=control))
    images.on_white(initial, orbit(2, 15.0, 3.5, 0.55, prior.image_size))


def _shapes(prior: StableDiffusionPrior, size: int) -> tuple[torch.Size, ...]:
    """The shapes of the U-Net's inputs: latents, times and text."""
    return torch.Size((size, *prior.latent_shape)), torch.Size((size,)), torch.Size((size, *prior.null.shape[1:]))


def _predict(prior: StableDiffusionPrior, size: int) -> None:
    prior.denoise(torch.zeros(size, *prior.latent_shape, device=prior.device), 0, None)


def _encode(prior: StableDiffusionPrior, views: int) -> None:
    images = torch.zeros(views, 3, prior.image_size, prior.image_size, device=prior.device)
    prior.encode(images.requires_grad_())
