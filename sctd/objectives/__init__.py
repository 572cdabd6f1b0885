"""Objectives, by the name used on the command line: pure functions from latents to a residual, an equation a file.

All are called alike and take no part in autograd; the gradient on z_0 is `WEIGHTS[…](schedule, times) * residual`:

    residual = OBJECTIVES[name](z_0, denoise=…, text=…, noise=…, times=…, schedule=…, **options)
"""

from collections.abc import Callable

from sctd.objectives.sctd import sctd
from sctd.objectives.sds import sds
from sctd.objectives.weights import WEIGHTS, TimeWeight
from sctd.types import Latents

Objective = Callable[..., Latents]

OBJECTIVES: dict[str, Objective] = {"sctd": sctd, "sds": sds}

__all__ = ["OBJECTIVES", "WEIGHTS", "Objective", "TimeWeight"]
