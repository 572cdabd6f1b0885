"""How many workers there are of each kind, and what each reserves."""

from typing import NamedTuple

from cluster.scheduling.executor import Executor
from pipeline.errors import UserError, nearest
from pipeline.store import manifest
from pipeline.work import devices

PLACEMENTS = "auto", "shared", "dedicated", "cpu"
EVALUATOR_GPU = 0.2  # judging is a hundredth of the work: it shares a GPU rather than having one


class Placement(NamedTuple):
    """Numbers for `cluster.Stage`."""

    generators: int
    generator_gpus: float
    evaluator_gpus: float

    @property
    def takes_turns(self) -> bool:
        """The evaluator has whole GPUs, if need be after the generators: all that they make may wait for it."""
        return self.evaluator_gpus >= 1


def check_placement(name: str) -> None:
    """Raise UserError for a place to judge that there is not."""
    if name not in PLACEMENTS:
        hint = nearest(name, PLACEMENTS)
        raise UserError(f"There is no --eval-placement {name!r}; choose from {', '.join(PLACEMENTS)}{hint}.")


def place(executor: Executor, jobs: int, workers: int | None, evaluation: str = "auto") -> Placement:
    """One generator per GPU or, without GPUs, per core; with `workers` so many, several to a GPU if need be.

    Never more than there are jobs. A generator alone on its GPU reserves 0.8 of it: no second one fits, the evaluator
    does. A `dedicated` evaluator has a GPU of its own or, where there is but one, that of the generators after them.
    """
    gpus = executor.gpus() if jobs and devices.can_use_gpus() else 0
    if not gpus or evaluation == "cpu":
        return Placement(*_spread(gpus, jobs, workers, 1.0), 0.0)
    if evaluation == "dedicated":
        return Placement(*_spread(max(1, gpus - 1), jobs, workers, 1.0), 1.0)
    return Placement(*_spread(gpus, jobs, workers, 1 - EVALUATOR_GPU), EVALUATOR_GPU)


def spread(executor: Executor, items: int, workers: int | None) -> tuple[int, float]:
    """How many workers there are where there is one kind and nothing is rendered, and what of a GPU each reserves."""
    return _spread(executor.gpus() if items else 0, items, workers, 1.0)


def _spread(gpus: int, items: int, workers: int | None, whole: float) -> tuple[int, float]:
    """Workers, and the share of a GPU of each, if together they have `whole` of one."""
    count = max(1, min(items, workers or gpus or manifest.cores()))
    return count, int(whole / -(-count // gpus) * 1000) / 1000 if gpus else 0.0
