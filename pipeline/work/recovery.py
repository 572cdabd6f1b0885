"""Recovery of a distillation that is interrupted, runs out of memory, or ends in NaN or infinity."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

import torch

from pipeline.store import files
from pipeline.store.attempts import BEFORE, NO_CHECKPOINT, Attempt, Checkpoint
from pipeline.store.run_folder import CHECKPOINT
from sctd.scene.densify import DensifyError
from sctd.train.checkpoint import reseeded
from sctd.train.gradient import LoopOptions
from sctd.train.optimize import OptimizeError, Step
from sctd.transfer import TimingMark


class NumericError(ArithmeticError):
    """A numeric failure: distillation ended in NaN, infinity or no Gaussians."""


class Optimization(Protocol):
    """Starts the distillation of a job from its initialization or from the checkpoint `resume`, as `optimize` does."""

    def __call__(self, *, seed: int, resume: bytes | None, loop: LoopOptions) -> Iterator[Step]: ...


class Recovery:
    """The iterations of one attempt at a job.

    The attempt starts from the newest usable checkpoint, `start`; each one that is damaged or of another version adds a
    text to `warnings`. `views_at_once` starts as the number of views of an iteration. `free` releases cached memory of
    the device.
    """

    def __init__(
        self, run: Optimization, attempt: Attempt, seed: int, views: int, mark: TimingMark, free: Callable[[], None]
    ):
        self.run, self.attempt, self.seed, self.mark, self.free = run, attempt, seed, mark, free
        self.views_at_once, self.sub_seed, self.warnings = views, attempt.sub_seed, list[str]()
        self.start, self._resumed = self._resume()

    def steps(self) -> Iterator[Step]:
        """The remaining iterations.

        If the device runs out of memory, they continue after the last step with half as many views at once. After a
        numeric failure, the next attempt starts from the checkpoint before the newest one, with another seed. Raises
        NumericError, which the executor does not treat as an input error.
        """
        steps, last = self._resumed, None
        while True:
            try:
                for last in steps:
                    yield last
                return
            except torch.OutOfMemoryError:
                if self.views_at_once == 1:
                    raise
            except (OptimizeError, DensifyError) as error:
                self._reseed(str(error), last.iteration if last else 0)
                raise NumericError(str(error)) from error
            self.views_at_once //= 2
            state = last.checkpoint() if last else self.start.state
            self.free()
            steps = self._start(state)

    def _resume(self) -> tuple[Checkpoint, Iterator[Step]]:
        for name in (CHECKPOINT, BEFORE):
            try:
                saved = Checkpoint.from_bytes(files.read(self.attempt.fence.folder / name))
                return saved, self._start(saved.state)
            except FileNotFoundError:
                continue
            except (ValueError, TypeError) as error:
                self.warnings.append(f"{name} cannot be used ({' '.join(str(error).split())})")
        return NO_CHECKPOINT, self._start(NO_CHECKPOINT.state)

    def _start(self, state: bytes) -> Iterator[Step]:
        loop = LoopOptions(self.views_at_once, mark=self.mark)
        return self.run(seed=seed_of(self.seed, self.sub_seed), resume=state or None, loop=loop)

    def _reseed(self, error: str, iteration: int) -> None:
        restart = Checkpoint.read(self.attempt.fence.folder / BEFORE)
        if restart.iteration:
            restart = replace(restart, state=reseeded(restart.state, seed_of(self.seed, self.sub_seed + 1)))
        self.attempt.record_numeric_failure(error, iteration, restart if restart.iteration else None)


def seed_of(seed: int, sub_seed: int) -> int:
    """The seed of an attempt: the job's own seed, or after `sub_seed` numeric failures one derived from it."""
    if not sub_seed:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} after breakdown {sub_seed}".encode()).digest()[:7])
