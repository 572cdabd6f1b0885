"""Placement: the number of workers of each stage, and the GPU share that each reserves."""

from collections.abc import Sequence
from typing import NamedTuple

from cluster.ray.nodes import smallest_gpu_gib
from cluster.scheduling.executor import Executor
from pipeline.errors import UserError, nearest
from pipeline.store import manifest
from pipeline.work import devices, mps
from sctd.recipe.recipe import Recipe

PLACEMENTS = "auto", "shared", "dedicated", "cpu"
EVALUATOR_GPU = 0.2  # evaluation is a hundredth of the work, so it shares a GPU
# Measured (docs/performance.md): a U-Net of SD's size nearly fills a GPU alone, a small one waits for kernel launches.
MOST_LARGE, MOST_SMALL = 4, 8
EVALUATOR_GIB = 8.0  # with scorers of the published sizes
SMALL_GIB = 3.0  # of a worker whose recipe asks for no GPU memory, with its share of the evaluator
GENERATORS_PER_EVALUATOR = 16


class Placement(NamedTuple):
    """The numbers of workers and GPU shares for `cluster.scheduling.executor.Stage`."""

    generators: int
    generator_gpus: float
    evaluator_gpus: float
    generators_per_gpu: int = 1

    @property
    def evaluators(self) -> int:
        """One serves 16 generators: an asset takes more than 16 times as long as its evaluation."""
        return 1 if self.takes_turns else -(-self.generators // GENERATORS_PER_EVALUATOR)

    @property
    def takes_turns(self) -> bool:
        """Whether the evaluator needs a whole GPU, if necessary after the generators: all assets may have to wait."""
        return self.evaluator_gpus >= 1


def check_placement(name: str) -> None:
    """Raise UserError for an unknown --eval-placement."""
    if name not in PLACEMENTS:
        hint = nearest(name, PLACEMENTS)
        raise UserError(f"Unknown value {name!r} for --eval-placement; choose from {', '.join(PLACEMENTS)}{hint}.")


def most_per_gpu(recipes: Sequence[Recipe], gpus: int) -> int:
    """How many assets at once earn something on each GPU of this machine: 1 without MPS.

    With it, as many as fit into the smallest GPU beside the evaluator and leave each a CPU core, but at most
    `MOST_LARGE`, or `MOST_SMALL` if no recipe asks for GPU memory.
    """
    memory = smallest_gpu_gib() if gpus and mps.program() else None
    if memory is None:
        return 1
    needed = max(recipe.compute.min_gpu_gib for recipe in recipes)
    fit = (memory - EVALUATOR_GIB) / needed if needed else memory / SMALL_GIB
    return max(1, min(MOST_LARGE if needed else MOST_SMALL, int(fit), manifest.cores() // gpus))


def place(executor: Executor, jobs: int, workers: int | None, evaluation: str = "auto", per_gpu: int = 1) -> Placement:
    """`per_gpu` generators per GPU or, without GPUs, one per core; or `workers` generators, several on a GPU if needed.

    There are never more generators than jobs. The generators on a GPU together reserve 0.8 of it, so that the evaluator
    fits beside them but no other generator. A `dedicated` evaluator has its own GPU; if there is only one GPU, it uses
    that GPU after the generators.
    """
    gpus = executor.gpus() if jobs and devices.can_use_gpus() else 0
    whole, evaluator = 1.0, 0.0
    if gpus and evaluation == "dedicated":
        gpus, evaluator = max(1, gpus - 1), 1.0
    elif gpus and evaluation != "cpu":
        whole, evaluator = 1 - EVALUATOR_GPU, EVALUATOR_GPU
    count, share, on_gpu = _spread(gpus, jobs, workers, whole, per_gpu)
    return Placement(count, share, evaluator, on_gpu)


def spread(executor: Executor, items: int, workers: int | None) -> tuple[int, float]:
    """The number of workers and the GPU share of each, for a run with a single stage that does not render."""
    return _spread(executor.gpus() if items else 0, items, workers, 1.0)[:2]


def _spread(gpus: int, items: int, workers: int | None, whole: float, per_gpu: int = 1) -> tuple[int, float, int]:
    """The number of workers, the GPU share of each, and how many are on a GPU, of which they share `whole`."""
    count = max(1, min(items, workers or gpus * per_gpu or manifest.cores()))
    on_gpu = -(-count // gpus) if gpus else 1
    return count, int(whole / on_gpu * 1000) / 1000 if gpus else 0.0, on_gpu
