"""Distillation objectives: functions from latents to a residual, one equation per file.

All have the same signature:

    residual = load("sds").residual(z_0, denoise=…, text=…, noise=…, times=…, schedule=…, **options)

`options` are the function's other keyword arguments, which `of_recipe` takes from a recipe. An objective may also ask
for what `OFFERED` names. One that asks for `state` has `init(…) → state` in its file and, if it learns along,
`update(z_0, …) → state`, for the end of each iteration. An objective with a pixel loss takes `decode` and returns a
`ResidualPair`. `gradient` converts a residual to the gradient on z_0. The objectives are listed in
`sctd.recipe.objective.ENTRIES`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.objectives.weights import WEIGHTS, TimeWeight
from sctd.recipe import custom_file, custom_objective
from sctd.recipe.custom_objective import ARGUMENTS, OFFERED
from sctd.recipe.methods import entry_of
from sctd.recipe.objective import ENTRIES, Entry
from sctd.recipe.recipe import Recipe, value_of
from sctd.types import Latents, ObjectiveState, ResidualPair

__all__ = ["ENTRIES", "OFFERED", "WEIGHTS", "Objective", "TimeWeight", "gradient", "load", "of_recipe"]


@dataclass(frozen=True)
class Objective:
    """The functions of an objective. A pure one, which keeps nothing, has `residual` alone."""

    residual: Callable[..., Latents | ResidualPair]
    init: Callable[..., ObjectiveState] | None = None
    update: Callable[..., ObjectiveState] | None = None

    @property
    def functions(self) -> list[Callable[..., Any]]:
        return [each for each in (self.residual, self.init, self.update) if each is not None]

    def asks_for(self, name: str) -> bool:
        """Whether one of its functions takes the argument `name`."""
        return any(name in inspect.signature(function).parameters for function in self.functions)

    def __call__(self, z_0: Latents, **offered: Any) -> Latents | ResidualPair:
        """The residual. `offered` may have more arguments than the objective asks for."""
        return self.residual(z_0, **_asked(self.residual, offered, always=ARGUMENTS))

    def initial(self, **offered: Any) -> ObjectiveState:
        """The state before the first iteration; {} if it has none."""
        return self.init(**_asked(self.init, offered)) if self.init else {}

    def updated(self, state: ObjectiveState, z_0: Latents, **offered: Any) -> ObjectiveState:
        """The state after an iteration whose latents were `z_0`, of all views."""
        return self.update(z_0, **_asked(self.update, {**offered, "state": state})) if self.update else state


def load(name: str) -> Objective:
    """A bundled objective, without its options."""
    return _functions(ENTRIES[name])


def of_recipe(recipe: Recipe) -> Objective:
    """The objective of a recipe with its options."""
    entry = entry_of(recipe.objective)
    options = {key.rpartition(".")[2]: value_of(recipe, key) for key in entry.options}
    return Objective(
        *(function and partial(function, **_asked(function, options)) for function in vars(_functions(entry)).values())
    )


def _asked(function: Callable[..., Any], offered: Mapping[str, Any], always: tuple[str, ...] = ()) -> Mapping[str, Any]:
    """Those of the offered arguments that a function takes by name, and those that it always gets."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in offered.items() if name in names or name in always}


def _functions(entry: Entry) -> Objective:
    """The functions of an entry; all but `update` run without autograd, because nothing passes through the denoiser."""
    if custom_file.is_custom(entry.function):
        loaded = custom_objective.load(custom_file.reference(entry.function))
        residual, init, update = loaded.function, loaded.init, loaded.update
    else:
        path, _, name = entry.function.partition(":")
        module = import_module(path)
        residual, init, update = getattr(module, name), getattr(module, "init", None), getattr(module, "update", None)
    no_grad = torch.no_grad()
    return Objective(no_grad(residual), no_grad(init) if init else None, update)


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
