"""Placement: the number of workers of each stage, and the GPU share that each reserves."""

from typing import NamedTuple

from cluster.scheduling.executor import Executor
from pipeline.errors import UserError, nearest
from pipeline.store import manifest
from pipeline.work import devices

PLACEMENTS = "auto", "shared", "dedicated", "cpu"
EVALUATOR_GPU = 0.2  # evaluation is a hundredth of the work, so it shares a GPU


class Placement(NamedTuple):
    """The numbers of workers and GPU shares for `cluster.scheduling.executor.Stage`."""

    generators: int
    generator_gpus: float
    evaluator_gpus: float

    @property
    def takes_turns(self) -> bool:
        """Whether the evaluator needs a whole GPU, if necessary after the generators: all assets may have to wait."""
        return self.evaluator_gpus >= 1


def check_placement(name: str) -> None:
    """Raise UserError for an unknown --eval-placement."""
    if name not in PLACEMENTS:
        hint = nearest(name, PLACEMENTS)
        raise UserError(f"Unknown value {name!r} for --eval-placement; choose from {', '.join(PLACEMENTS)}{hint}.")


def place(executor: Executor, jobs: int, workers: int | None, evaluation: str = "auto") -> Placement:
    """One generator per GPU or, without GPUs, per core; or `workers` generators, several on a GPU if necessary.

    There are never more generators than jobs. A generator alone on its GPU reserves 0.8 of it, so that the evaluator
    fits beside it but no second generator. A `dedicated` evaluator has its own GPU; if there is only one GPU, it uses
    that GPU after the generators.
    """
    gpus = executor.gpus() if jobs and devices.can_use_gpus() else 0
    if not gpus or evaluation == "cpu":
        return Placement(*_spread(gpus, jobs, workers, 1.0), 0.0)
    if evaluation == "dedicated":
        return Placement(*_spread(max(1, gpus - 1), jobs, workers, 1.0), 1.0)
    return Placement(*_spread(gpus, jobs, workers, 1 - EVALUATOR_GPU), EVALUATOR_GPU)


def spread(executor: Executor, items: int, workers: int | None) -> tuple[int, float]:
    """The number of workers and the GPU share of each, for a run with a single stage that does not render."""
    return _spread(executor.gpus() if items else 0, items, workers, 1.0)


def _spread(gpus: int, items: int, workers: int | None, whole: float) -> tuple[int, float]:
    """The number of workers and the GPU share of each, if the workers on one GPU share `whole` of it."""
    count = max(1, min(items, workers or gpus or manifest.cores()))
    return count, int(whole / -(-count // gpus) * 1000) / 1000 if gpus else 0.0
