"""Recovery without a prior: the optimization is a function that raises at chosen iterations."""

import json
from dataclasses import dataclass

import pytest
import torch

from pipeline.store.attempts import NO_CHECKPOINT, Attempt, Checkpoint, SupersededError
from pipeline.store.run_folder import Store
from pipeline.work.recovery import NumericError, Recovery, seed_of
from sctd.scene.densify import DensifyError
from sctd.train.checkpoint import CheckpointError
from sctd.train.optimize import OptimizeError
from sctd.transfer import no_timing

LENGTH, SEED, VIEWS, JOB = 6, 7, 4, "job"


@dataclass
class FakeStep:
    iteration: int
    seed: int
    views_at_once: int

    def checkpoint(self):
        return state_of(self.iteration)


def state_of(iteration):
    return f"state {iteration}".encode()


class FakeOptimization:
    """Yields `LENGTH` steps. `errors`: raised instead of an iteration, once, or always with `always`."""

    def __init__(self, errors=(), *, always=False):
        self.errors, self.always, self.starts = dict(errors), always, []

    def __call__(self, *, seed, resume, loop):
        if resume is not None and not resume.startswith(b"state"):
            raise CheckpointError("of another version\n  and damaged")
        first = 1 if resume is None else int(resume.split()[1]) + 1
        self.starts.append((first, seed, loop.views_at_once))
        return self._steps(first, seed, loop.views_at_once)

    def _steps(self, first, seed, views_at_once):
        for iteration in range(first, LENGTH + 1):
            if iteration in self.errors:
                raise self.errors[iteration] if self.always else self.errors.pop(iteration)
            yield FakeStep(iteration, seed, views_at_once)


@pytest.fixture
def attempt(tmp_path):
    return Attempt.start(Store(tmp_path), JOB)


def recovery(run, attempt, free=lambda: None):
    return Recovery(run, attempt, SEED, VIEWS, no_timing, free)


def save(attempt, name, iteration, state=None):
    checkpoint = Checkpoint(iteration, 10.0 * iteration, state or state_of(iteration), -1.0)
    attempt.store.write(attempt.fence.folder / name, checkpoint.to_bytes())
    return checkpoint


def test_without_a_checkpoint_all_iterations_run_once(attempt):
    run = FakeOptimization()
    recovering = recovery(run, attempt)
    assert recovering.start == NO_CHECKPOINT
    assert [step.iteration for step in recovering.steps()] == [1, 2, 3, 4, 5, 6]
    assert run.starts == [(1, SEED, VIEWS)]
    assert recovering.warnings == []


def test_it_resumes_from_the_newest_checkpoint(attempt):
    save(attempt, "checkpoint-before", 2)
    newest = save(attempt, "checkpoint", 4)
    recovering = recovery(FakeOptimization(), attempt)
    assert recovering.start == newest
    assert [step.iteration for step in recovering.steps()] == [5, 6]


def test_an_unusable_checkpoint_gives_a_warning_and_the_previous_one_is_used(attempt):
    before = save(attempt, "checkpoint-before", 2)
    save(attempt, "checkpoint", 4, b"other")
    recovering = recovery(FakeOptimization(), attempt)
    assert recovering.start == before
    assert recovering.warnings == ["checkpoint cannot be used (of another version and damaged)"]
    (attempt.fence.folder / "checkpoint-before").write_bytes(b"{}\n")
    recovering = recovery(FakeOptimization(), attempt)
    assert recovering.start == NO_CHECKPOINT
    assert recovering.warnings[1] == "checkpoint-before cannot be used (the digest does not match the state)"
    assert [step.iteration for step in recovering.steps()] == [1, 2, 3, 4, 5, 6]


def test_out_of_memory_halves_the_views_at_once_until_one_is_left(attempt):
    run, freed = FakeOptimization({3: torch.OutOfMemoryError("a"), 5: torch.OutOfMemoryError("b")}), []
    recovering = recovery(run, attempt, lambda: freed.append(len(run.starts)))
    steps = list(recovering.steps())
    assert [(step.iteration, step.views_at_once) for step in steps] == [(1, 4), (2, 4), (3, 2), (4, 2), (5, 1), (6, 1)]
    assert run.starts == [(1, SEED, 4), (3, SEED, 2), (5, SEED, 1)]
    assert freed == [1, 2], "memory is freed before each new start"
    assert recovering.views_at_once == 1


def test_out_of_memory_before_the_first_step_continues_from_the_checkpoint(attempt):
    save(attempt, "checkpoint", 4)
    run = FakeOptimization({5: torch.OutOfMemoryError("a")})
    assert [step.iteration for step in recovery(run, attempt).steps()] == [5, 6]
    assert run.starts == [(5, SEED, 4), (5, SEED, 2)]


def test_out_of_memory_with_one_view_is_raised(attempt):
    run = FakeOptimization({2: torch.OutOfMemoryError("full")}, always=True)
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        list(recovery(run, attempt).steps())
    assert [views for _, _, views in run.starts] == [4, 2, 1]


@pytest.mark.parametrize("error", [OptimizeError("NaN"), DensifyError("NaN")])
def test_after_a_numeric_failure_the_next_attempt_has_another_seed(attempt, error):
    save(attempt, "checkpoint", 2, b"other")
    with pytest.raises(NumericError, match="NaN"):
        list(recovery(FakeOptimization({4: error}), attempt).steps())
    folder = attempt.fence.folder
    assert json.loads((folder / "breakdown.json").read_bytes()) == {"sub_seed": 1, "iteration": 3, "error": "NaN"}
    assert not (folder / "checkpoint").exists()
    run = FakeOptimization()
    again = recovery(run, Attempt.start(attempt.store, JOB))
    assert len(list(again.steps())) == LENGTH
    assert run.starts == [(1, seed_of(SEED, 1), VIEWS)]
    assert again.sub_seed == 1


def test_after_a_numeric_failure_the_checkpoint_before_the_newest_one_is_reseeded(attempt, monkeypatch):
    save(attempt, "checkpoint-before", 2)
    save(attempt, "checkpoint", 3)
    monkeypatch.setattr("pipeline.work.recovery.reseeded", lambda state, seed: state + f" {seed}".encode())
    with pytest.raises(NumericError):
        list(recovery(FakeOptimization({4: OptimizeError("NaN")}), attempt).steps())
    restart = Checkpoint.read(attempt.fence.folder / "checkpoint")
    assert restart == Checkpoint(2, 20.0, f"state 2 {seed_of(SEED, 1)}".encode(), -1.0)
    assert not (attempt.fence.folder / "checkpoint-before").exists()


def test_a_superseded_attempt_does_not_change_the_seed(attempt):
    recovering = recovery(FakeOptimization({1: OptimizeError("NaN")}), attempt)
    Attempt.start(attempt.store, JOB)
    with pytest.raises(SupersededError):
        list(recovering.steps())
    assert not (attempt.fence.folder / "breakdown.json").exists()


def test_sub_seeds_are_those_of_the_first_release():
    assert [seed_of(7, sub_seed) for sub_seed in (0, 1, 2)] == [7, 32043367238903380, 14811259346523176]
