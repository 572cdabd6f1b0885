"""The contract of executors; every test runs on the inline executor and on Ray."""

from functools import partial
from typing import NamedTuple

import pytest

from cluster.scheduling.executor import BootError, InlineExecutor, Outcome, Stage, StorageError
from cluster.scheduling.failures import Failure
from cluster.scheduling.workers import Event
from tests.support.fake_workers import STEPS, FailsAtStart, logged, stages

FINE = ["ok-a", "ok-b", "ok-c"]
ITEMS = [*FINE, "invalid-d", "crash-e", "full-f", "oom_once-g", "ok-unscorable-h"]


class Run(NamedTuple):
    outcomes: list[Outcome]
    events: list[Event]
    started: list[str]  # the stage of every worker
    generated: list[str]  # the item of every attempt at generation

    def of(self, item: str) -> Outcome:
        (outcome,) = [outcome for outcome in self.outcomes if outcome.item == item]
        return outcome


@pytest.fixture(scope="module")
def run(executor, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    events: list[Event] = []
    outcomes = list(executor.run(stages(folder, generators=1), ITEMS, events.append))
    started = [stage for _, stage, _ in logged(folder, "started")]
    return Run(outcomes, events, started, [item for _, item, *_ in logged(folder, "begin")])


def test_every_item_ends_exactly_once(run):
    assert sorted(outcome.item for outcome in run.outcomes) == sorted(ITEMS)


def test_an_item_passes_through_all_stages(run):
    assert [run.of(item) for item in FINE] == [Outcome(item, f"score of asset of {item}") for item in FINE]


def test_a_worker_is_built_once_and_used_for_many_items(run):
    assert run.started.count("evaluate") == 1
    assert run.started.count("generate") == 2, "the second replaces the one that ran out of memory"


def test_an_input_error_is_one_sentence_without_a_traceback(run):
    expected = Failure("input", "the prompt is empty; write what the object is")
    assert run.of("invalid-d") == Outcome("invalid-d", None, "generate", expected)


def test_an_unexpected_exception_fails_its_item_with_its_traceback(run):
    error = run.of("crash-e").error
    assert (error.kind, error.message) == ("error", "KeyError: 'nobody thought of this'")
    assert "Traceback" in error.details


def test_a_full_disk_is_a_storage_failure(run):
    error = run.of("full-f").error
    assert (error.kind, error.message) == ("storage", "OSError: [Errno 28] No space left on device")


def test_the_stage_that_failed_is_named(run):
    assert run.of("ok-unscorable-h").failed_stage == "evaluate"


def test_out_of_memory_is_retried_once_storage_five_times_and_other_errors_never(run):
    assert run.of("oom_once-g").result == "score of asset of oom_once-g"
    assert sorted(run.generated) == sorted([*ITEMS, "oom_once-g", *["full-f"] * 5])


def test_a_watcher_gets_start_progress_and_end_events(run):
    generation = [event for event in run.events if event.stage == "generate"]
    assert [event.kind for event in generation if event.item == "ok-a"] == [
        "started",
        *["progress"] * STEPS,
        "finished",
    ]
    assert [event.kind for event in generation if event.item == "invalid-d"] == ["started", "failed"]
    assert [event.kind for event in generation if event.item == "oom_once-g"][:3] == ["started", "retried", "started"]
    steps = [event.progress for event in generation if event.kind == "progress" and event.item == "ok-a"]
    assert [(progress.done, progress.total) for progress in steps] == [(step + 1, STEPS) for step in range(STEPS)]
    starts = [event.kind for event in run.events if event.item is None and event.stage == "evaluate"]
    assert starts == ["starting", "ready"]


def test_a_worker_that_cannot_start_stops_the_run(executor, tmp_path):
    broken = [Stage("generate", partial(FailsAtStart, tmp_path), workers=1)]
    with pytest.raises(BootError) as caught:
        list(executor.run(broken, ["ok-a", "ok-b"]))
    assert str(caught.value) == (
        "The generate worker could not start: "
        "FileNotFoundError: prior/unet is missing; expected a Stable Diffusion folder"
    )
    assert len(logged(tmp_path, "started")) == 1


def test_a_temporary_storage_failure_fails_no_item(executor, tmp_path):
    outcomes = list(executor.run(stages(tmp_path, generators=1), ["flaky-a", "ok-b"]))
    assert {outcome.item: outcome.result for outcome in outcomes} == {
        "flaky-a": "score of asset of flaky-a",
        "ok-b": "score of asset of ok-b",
    }


def test_a_storage_outage_stops_the_run_and_fails_no_item(executor, tmp_path):
    outcomes = []
    with pytest.raises(StorageError) as caught:
        outcomes.extend(executor.run(stages(tmp_path, generators=1), ["full-a", "full-b"]))
    assert str(caught.value) == (
        "Storage fails for every worker (OSError: [Errno 28] No space left on device); check that the run folder can "
        "be written, then run the same command again: finished jobs are kept."
    )
    assert outcomes == []
    attempts = [item for _, item, *_ in logged(tmp_path, "begin")]
    assert max(attempts.count("full-a"), attempts.count("full-b")) == 6


def test_without_items_no_worker_starts(executor, tmp_path):
    assert list(executor.run(stages(tmp_path), [])) == []
    assert logged(tmp_path, "started") == []


def test_inline_reserves_no_gpu():
    assert InlineExecutor().gpus() == 0
