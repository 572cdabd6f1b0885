"""Silence, judged by a clock that the test holds."""

import pytest

from cluster.scheduling.stalls import GAPS, Patience, Pulse

PATIENCE = Patience(boot_seconds=900.0, stall_seconds=60.0, stall_steps=20.0)


def beating(seconds: float, beats: int = 10) -> tuple[Pulse, float]:
    pulse, now = Pulse(PATIENCE, 0.0), 0.0
    for _ in range(beats):
        now += seconds
        pulse.beat(now)
    return pulse, now


@pytest.mark.parametrize(("step", "limit"), [(0.01, 60.0), (3.0, 60.0), (10.0, 200.0)])
def test_a_worker_may_be_silent_for_twenty_steps_and_for_a_minute_at_least(step, limit):
    pulse, now = beating(step)
    assert not pulse.is_stalled(now + limit - 0.1)
    assert pulse.is_stalled(now + limit + 0.1)


def test_one_slow_step_does_not_change_the_pace():
    pulse, now = beating(10.0)
    pulse.beat(now + 190.0)
    assert pulse.limit_seconds == 200.0


@pytest.mark.parametrize("beats", range(GAPS + 1))
def test_before_its_pace_is_known_it_may_take_as_long_as_a_boot(beats):
    pulse, now = beating(1.0, beats)
    assert not pulse.is_stalled(now + 899.0)
    assert pulse.is_stalled(now + 901.0)


def test_after_its_last_step_it_may_take_as_long_as_a_boot():
    pulse, now = beating(1.0)
    pulse.beat(now, is_last_step=True)
    assert not pulse.is_stalled(now + 899.0)
