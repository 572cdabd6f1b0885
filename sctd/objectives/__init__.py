"""Distillation objectives by command-line name: pure functions from latents to a residual, one equation per file.

All have the same signature and run without autograd:

    residual = OBJECTIVES[name](z_0, denoise=…, text=…, noise=…, times=…, schedule=…, **options)

`options` are the function's other keyword arguments; `with_options` sets them by name from a recipe. An objective with
a pixel loss takes `decode` and returns a `ResidualPair`. `gradient` converts a residual to the gradient on z_0.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.objectives.cds import cds
from sctd.objectives.gcs import gcs
from sctd.objectives.ism import ism
from sctd.objectives.sctd import sctd
from sctd.objectives.sctd_official import sctd_official
from sctd.objectives.sds import sds
from sctd.objectives.weights import WEIGHTS, TimeWeight
from sctd.recipe import custom_objective
from sctd.types import Latents, ResidualPair

Objective = Callable[..., Latents | ResidualPair]

OBJECTIVES: dict[str, Objective] = {
    "sctd": sctd,
    "sctd-official": sctd_official,
    "sds": sds,
    "ism": ism,
    "cds": cds,
    "gcs": gcs,
}

__all__ = ["OBJECTIVES", "WEIGHTS", "Objective", "TimeWeight", "gradient", "with_options"]


def with_options(name: str, options: Mapping[str, Any]) -> Objective:
    """The objective with the options that match its parameters; other options are ignored.

    If the option `function` is set, it is a custom objective (`sctd.recipe.custom_objective`).
    """
    custom = options.get("function")
    objective = custom_objective.function(custom_objective.reference(custom)) if custom else OBJECTIVES[name]
    parameters = inspect.signature(objective).parameters
    return partial(objective, **{key: value for key, value in options.items() if key in parameters})


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
