"""How many workers there are of each kind, and what each reserves."""

from typing import NamedTuple

from cluster.executor import Executor
from pipeline import devices, manifest

EVALUATOR_GPU = 0.2  # judging is a hundredth of the work: it shares a GPU rather than having one


class Placement(NamedTuple):
    """Numbers for `cluster.Stage`."""

    generators: int
    generator_gpus: float
    evaluator_gpus: float


def place(executor: Executor, jobs: int, workers: int | None) -> Placement:
    """One generator per GPU or, without GPUs, per core; with `workers` so many, several to a GPU if need be.

    Never more than there are jobs. A generator alone on its GPU reserves 0.8 of it: no second one fits, the evaluator
    does.
    """
    gpus = executor.gpus() if jobs and devices.can_use_gpus() else 0
    generators, share = _spread(gpus, jobs, workers, 1 - EVALUATOR_GPU)
    return Placement(generators, share, EVALUATOR_GPU if gpus else 0.0)


def spread(executor: Executor, items: int, workers: int | None) -> tuple[int, float]:
    """How many workers there are where there is one kind and nothing is rendered, and what of a GPU each reserves."""
    return _spread(executor.gpus() if items else 0, items, workers, 1.0)


def _spread(gpus: int, items: int, workers: int | None, whole: float) -> tuple[int, float]:
    """Workers, and the share of a GPU of each, if together they have `whole` of one."""
    count = max(1, min(items, workers or gpus or manifest.cores()))
    return count, int(whole / -(-count // gpus) * 1000) / 1000 if gpus else 0.0
