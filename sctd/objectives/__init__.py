"""Distillation objectives: pure functions from latents to a residual, one equation per file.

All have the same signature:

    residual = load("sds")(z_0, denoise=…, text=…, noise=…, times=…, schedule=…, **options)

`options` are the function's other keyword arguments, which `of_recipe` takes from a recipe. An objective with a pixel
loss takes `decode` and returns a `ResidualPair`. `gradient` converts a residual to the gradient on z_0. The objectives
are listed in `sctd.recipe.objective.ENTRIES`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.objectives.weights import WEIGHTS, TimeWeight
from sctd.recipe import custom_objective
from sctd.recipe.methods import entry_of
from sctd.recipe.objective import ENTRIES, Entry
from sctd.recipe.recipe import Recipe, value_of
from sctd.types import Images, Latents, ResidualPair

Objective = Callable[..., Latents | ResidualPair]

__all__ = ["ENTRIES", "WEIGHTS", "Objective", "TimeWeight", "gradient", "load", "of_recipe"]


def load(name: str) -> Objective:
    """The function of a bundled objective, without its options."""
    return _function(ENTRIES[name])


def of_recipe(recipe: Recipe, decode: Callable[[Latents], Images] | None = None) -> Objective:
    """The objective of a recipe with its options and, if it has a pixel loss, the decoder."""
    entry = entry_of(recipe.objective)
    function = _function(entry)
    options = {key.rpartition(".")[2]: value_of(recipe, key) for key in entry.options}
    if "decode" in inspect.signature(function).parameters:
        options["decode"] = decode
    return partial(function, **options)


def _function(entry: Entry) -> Objective:
    """The function of an entry, without autograd: no gradient passes through the denoiser (Sec. 4.5)."""
    if custom_objective.is_custom(entry.function):
        function = custom_objective.load(custom_objective.reference(entry.function)).function
    else:
        module, _, name = entry.function.partition(":")
        function = getattr(import_module(module), name)
    return torch.no_grad()(function)


def gradient(
    residual: Tensor,
    *,
    schedule: NoiseSchedule,
    times: Times,
    time_weight: str,
    weight: float,
    clamp: tuple[float, float],
    progress: float,
) -> Tensor:
    """λ w(t) times the residual, clamped elementwise to ± a bound that moves linearly between the ends of `clamp`.

    `progress` in [0, 1] is the completed share of the run. A `clamp` of (0, 0) disables clamping.
    """
    whole = weight * WEIGHTS[time_weight](schedule, times) * residual
    first, last = clamp
    if max(first, last) == 0:
        return whole
    bound = first + (last - first) * progress
    return whole.clamp(-bound, bound)
