"""What a recipe compiles before its first iteration: reported one by one by workers, and built ahead by `warmup`."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch

from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.recipe.recipe import Recipe
from sctd.train.batch_sizes import batch_sizes


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


def _shapes(prior: StableDiffusionPrior, size: int) -> tuple[torch.Size, ...]:
    """The shapes of the U-Net's inputs: latents, times and text."""
    return torch.Size((size, *prior.latent_shape)), torch.Size((size,)), torch.Size((size, *prior.null.shape[1:]))


def _predict(prior: StableDiffusionPrior, size: int) -> None:
    prior.denoise(torch.zeros(size, *prior.latent_shape, device=prior.device), 0, None)


def _encode(prior: StableDiffusionPrior, views: int) -> None:
    images = torch.zeros(views, 3, prior.image_size, prior.image_size, device=prior.device)
    prior.encode(images.requires_grad_())
