"""Detection of stalled workers: a stall timeout that adapts to the interval between a worker's heartbeats."""

from collections import deque
from dataclasses import dataclass
from statistics import median

MIN_INTERVALS = 3  # intervals between heartbeats before a worker's pace is known
REMEMBERED_INTERVALS = 21


@dataclass(frozen=True)
class StallTimeout:
    """The longest time without a heartbeat.

    Once a worker's pace is known: `stall_steps` of its steps, and at least `stall_seconds`. `boot_seconds` applies to
    loading models, to the first steps (kernels are compiled, the initialization is made) and to the time from the last
    step to the result (views are rendered). In between, a worker that runs out of memory rebuilds its networks for
    fewer views, which has taken up to 71 seconds on a GPU.
    """

    boot_seconds: float = 900.0
    stall_seconds: float = 180.0
    stall_steps: float = 20.0


DEFAULTS = StallTimeout()


class Heartbeat:
    """The heartbeats of one boot or one attempt."""

    def __init__(self, timeout: StallTimeout, now: float):
        self.timeout, self.last_beat = timeout, now
        self.intervals: deque[float] = deque(maxlen=REMEMBERED_INTERVALS)
        self.beats, self.is_last_step = 0, False

    def beat(self, now: float, *, is_last_step: bool = False) -> None:
        if self.beats:
            self.intervals.append(now - self.last_beat)
        self.beats, self.last_beat, self.is_last_step = self.beats + 1, now, is_last_step

    @property
    def limit_seconds(self) -> float:
        timeout = self.timeout
        if len(self.intervals) < MIN_INTERVALS or self.is_last_step:
            return timeout.boot_seconds
        return max(timeout.stall_seconds, timeout.stall_steps * median(self.intervals))

    def is_stalled(self, now: float) -> bool:
        return now - self.last_beat > self.limit_seconds
