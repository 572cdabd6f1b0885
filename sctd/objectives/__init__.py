"""Objectives, by the name used on the command line: pure functions from latents to a residual, an equation a file.

All are called alike and take no part in autograd; `gradient` makes of a residual the gradient on z_0:

    residual = OBJECTIVES[name](z_0, denoise=…, text=…, noise=…, times=…, schedule=…, **options)

`options` are the keyword arguments that a function has beyond these; `with_options` fills them by name, from a recipe.
One with a loss on pixels asks for `decode` and returns `ResidualPair`.
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
    """The objective with those of the options that it has under their names; the others are not its.

    With the option `function`, it is that of a file (`sctd.recipe.custom_objective`).
    """
    own = options.get("function")
    objective = custom_objective.function(custom_objective.reference(own)) if own else OBJECTIVES[name]
    wanted = inspect.signature(objective).parameters
    return partial(objective, **{key: value for key, value in options.items() if key in wanted})


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
    """λ w(t) times the residual, each number cut to ± a bound: from the first of `clamp` linearly to the second.

    `progress` in [0, 1] is the share of the run that is over; a `clamp` of (0, 0) cuts nothing.
    """
    whole = weight * WEIGHTS[time_weight](schedule, times) * residual
    first, last = clamp
    if max(first, last) == 0:
        return whole
    bound = first + (last - first) * progress
    return whole.clamp(-bound, bound)
