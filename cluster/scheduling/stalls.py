"""Detection of stalled workers: a stall timeout that adapts to the interval between a worker's heartbeats."""

from dataclasses import dataclass
from statistics import median

from cluster.scheduling.workers import WorkerView

MIN_INTERVALS = 3  # intervals between heartbeats before a worker's pace is known


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

    def limit_seconds(self, view: WorkerView) -> float:
        """The timeout of a worker that is starting or busy."""
        is_last_step = view.progress.done >= view.progress.total
        if len(view.intervals) < MIN_INTERVALS or is_last_step:
            return self.boot_seconds
        return max(self.stall_seconds, self.stall_steps * median(view.intervals))


DEFAULTS = StallTimeout()
