"""Attempts on a draining node, and the events of commands."""

import pytest

from cluster.scheduling.executor import PREEMPTED, Stage, Success, attempt, event_of
from cluster.scheduling.failures import Failure
from cluster.scheduling.protocol import Place, Stop
from cluster.scheduling.workers import Event, Progress


def worker(item):
    """Ten steps; saves a checkpoint when one is requested."""
    saved = 0
    for step in range(1, 11):
        if (yield Progress(step, 10, saved=saved)):
            saved = step
    return f"asset of {item}"


def forgetful(item):
    for step in range(1, 11):
        yield Progress(step, 10)
    return f"asset of {item}"


def outcome(steps):
    progress = []
    while True:
        try:
            progress.append(next(steps))
        except StopIteration as stop:
            return stop.value, progress


@pytest.mark.parametrize("drains_at", [1, 4, 9])
def test_an_attempt_on_a_draining_node_ends_after_its_checkpoint(drains_at):
    calls = iter(range(100))
    reply, progress = outcome(attempt(worker, "x", lambda: next(calls) >= drains_at))
    assert reply == PREEMPTED
    assert (progress[-1].done, progress[-1].saved) == (drains_at + 1, drains_at)


def test_a_worker_without_checkpoints_runs_to_the_end():
    calls = iter(range(100))
    assert outcome(attempt(forgetful, "x", lambda: next(calls) >= 3))[0] == Success("asset of x")


def test_no_item_starts_on_a_draining_node():
    assert outcome(attempt(worker, "x", lambda: True)) == (PREEMPTED, [])


def test_without_draining_no_checkpoint_is_requested():
    reply, progress = outcome(attempt(worker, "x"))
    assert reply == Success("asset of x")
    assert [step.saved for step in progress] == [0] * 10


@pytest.mark.parametrize(("makes_way", "kind"), [(False, "died"), (True, "stopped")])
def test_only_an_unhealthy_worker_dies(makes_way, kind):
    stop = Stop(Place(1, 2), Failure("preempted", "why"), makes_way=makes_way)
    stages = [Stage(name, object) for name in ("generate", "evaluate")]
    assert event_of(stop, stages) == Event(kind, "evaluate", 2, note="why", error_kind="preempted")
