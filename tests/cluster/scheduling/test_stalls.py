"""Detection of stalled workers, with a clock set by the test."""

import pytest

from cluster.scheduling.stalls import DEFAULTS, MIN_INTERVALS, StallTimeout
from cluster.scheduling.workers import Event, Progress, WorkerView
from tests.support.worker_events import taken

TIMEOUT = StallTimeout(boot_seconds=900.0, stall_seconds=60.0, stall_steps=20.0)


def beating(*times: float, total: int = 1000) -> WorkerView:
    """A worker that has started an item at time 0 and has sent a heartbeat at each of these times."""
    beats = [(now, Event("progress", "generate", 0, "cube", Progress(n, total))) for n, now in enumerate(times, 1)]
    return taken([(0.0, Event("started", "generate", 0, "cube")), *beats])[1][-1]


def every(seconds: float, beats: int = 10) -> list[float]:
    return [seconds * n for n in range(1, beats + 1)]


@pytest.mark.parametrize(("step", "limit"), [(0.01, 60.0), (3.0, 60.0), (10.0, 200.0)])
def test_the_timeout_is_twenty_steps_and_at_least_a_minute(step, limit):
    assert TIMEOUT.limit_seconds(beating(*every(step))) == pytest.approx(limit)


def test_one_slow_step_does_not_change_the_pace():
    assert TIMEOUT.limit_seconds(beating(*every(10.0), 290.0)) == 200.0


@pytest.mark.parametrize("beats", range(MIN_INTERVALS + 1))
def test_the_boot_timeout_applies_until_the_pace_is_known(beats):
    view = beating(*every(1.0, beats))
    assert TIMEOUT.limit_seconds(view) == 900.0
    assert view.heard_at == float(beats)


def test_the_boot_timeout_applies_after_the_last_step():
    assert TIMEOUT.limit_seconds(beating(*every(1.0), total=11)) == 60.0
    assert TIMEOUT.limit_seconds(beating(*every(1.0), total=10)) == 900.0


def test_compilation_before_the_first_steps_does_not_shorten_their_timeout():
    notes = [(n / 10, Event("preparing", "generate", 0, "cube", Progress(0, 1000))) for n in range(1, 8)]
    views = taken([(0.0, Event("started", "generate", 0, "cube")), *notes])[1]
    assert DEFAULTS.limit_seconds(views[-1]) == DEFAULTS.boot_seconds
    assert views[-1].heard_at == 0.7
