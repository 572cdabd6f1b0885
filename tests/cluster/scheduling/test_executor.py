"""What an attempt does when its node is taken away."""

import pytest

from cluster.scheduling.executor import LEAVING, Progress, Success, attempt


def worker(item):
    """Ten steps; saves its state when it is asked to."""
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
    told = []
    while True:
        try:
            told.append(next(steps))
        except StopIteration as stop:
            return stop.value, told


@pytest.mark.parametrize("leaves_at", [1, 4, 9])
def test_it_ends_as_soon_as_its_state_is_saved(leaves_at):
    asked = iter(range(100))
    reply, told = outcome(attempt(worker, "x", lambda: next(asked) >= leaves_at))
    assert reply == LEAVING
    assert (told[-1].done, told[-1].saved) == (leaves_at + 1, leaves_at)


def test_a_worker_without_checkpoints_goes_on_to_its_end():
    asked = iter(range(100))
    assert outcome(attempt(forgetful, "x", lambda: next(asked) >= 3))[0] == Success("asset of x")


def test_nothing_is_begun_on_a_node_that_is_leaving():
    assert outcome(attempt(worker, "x", lambda: True)) == (LEAVING, [])


def test_who_stays_is_asked_nothing():
    reply, told = outcome(attempt(worker, "x"))
    assert reply == Success("asset of x")
    assert [progress.saved for progress in told] == [0] * 10
