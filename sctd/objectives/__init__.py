"""Objectives, by the name used on the command line: pure functions from latents to a residual, an equation a file.

All are called alike and take no part in autograd; the gradient on z_0 is `WEIGHTS[…](schedule, times) * residual`:

    residual = OBJECTIVES[name](z_0, denoise=…, text=…, noise=…, times=…, schedule=…, **options)

`options` are the keyword arguments that a function has beyond these; the trainer fills them from the recipe by name.
One with a loss on pixels asks for `decode` and returns `ResidualPair`.
"""

from collections.abc import Callable

from sctd.objectives.cds import cds
from sctd.objectives.gcs import gcs
from sctd.objectives.ism import ism
from sctd.objectives.sctd import sctd
from sctd.objectives.sctd_official import sctd_official
from sctd.objectives.sds import sds
from sctd.objectives.weights import WEIGHTS, TimeWeight
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

__all__ = ["OBJECTIVES", "WEIGHTS", "Objective", "TimeWeight"]
