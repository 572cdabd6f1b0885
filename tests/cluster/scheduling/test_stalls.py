"""Detection of stalled workers, with a clock set by the test."""

import pytest

from cluster.scheduling.stalls import MIN_INTERVALS, Heartbeat, StallTimeout

TIMEOUT = StallTimeout(boot_seconds=900.0, stall_seconds=60.0, stall_steps=20.0)


def beating(seconds: float, beats: int = 10) -> tuple[Heartbeat, float]:
    heartbeat, now = Heartbeat(TIMEOUT, 0.0), 0.0
    for _ in range(beats):
        now += seconds
        heartbeat.beat(now)
    return heartbeat, now


@pytest.mark.parametrize(("step", "limit"), [(0.01, 60.0), (3.0, 60.0), (10.0, 200.0)])
def test_the_timeout_is_twenty_steps_and_at_least_a_minute(step, limit):
    heartbeat, now = beating(step)
    assert not heartbeat.is_stalled(now + limit - 0.1)
    assert heartbeat.is_stalled(now + limit + 0.1)


def test_one_slow_step_does_not_change_the_pace():
    heartbeat, now = beating(10.0)
    heartbeat.beat(now + 190.0)
    assert heartbeat.limit_seconds == 200.0


@pytest.mark.parametrize("beats", range(MIN_INTERVALS + 1))
def test_the_boot_timeout_applies_until_the_pace_is_known(beats):
    heartbeat, now = beating(1.0, beats)
    assert not heartbeat.is_stalled(now + 899.0)
    assert heartbeat.is_stalled(now + 901.0)


def test_the_boot_timeout_applies_after_the_last_step():
    heartbeat, now = beating(1.0)
    heartbeat.beat(now, is_last_step=True)
    assert not heartbeat.is_stalled(now + 899.0)
