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
    generators = max(1, min(jobs, workers or gpus or manifest.cores()))
    if not gpus:
        return Placement(generators, 0.0, 0.0)
    per_gpu = -(-generators // gpus)
    return Placement(generators, int((1 - EVALUATOR_GPU) / per_gpu * 1000) / 1000, EVALUATOR_GPU)
