"""When a worker that says nothing has hung: the silence that its own pace makes incredible."""

from collections import deque
from dataclasses import dataclass
from statistics import median

GAPS = 3  # signs of life, less one, before a worker's pace is known
REMEMBERED = 21


@dataclass(frozen=True)
class Patience:
    """How long a worker may be silent: once its pace is known, `stall_steps` of its steps, at least `stall_seconds`.

    Loading models, the way to the first steps (kernels are built, a first shape is made) and the way from the last step
    to the result (views are rendered) may take `boot_seconds`. In between, a worker that runs out of memory builds its
    networks anew for fewer views, which has taken up to 71 seconds on a GPU.
    """

    boot_seconds: float = 900.0
    stall_seconds: float = 180.0
    stall_steps: float = 20.0


DEFAULTS = Patience()


class Pulse:
    """The signs of life of one boot or one attempt."""

    def __init__(self, patience: Patience, now: float):
        self.patience, self.heard_at = patience, now
        self.gaps: deque[float] = deque(maxlen=REMEMBERED)
        self.beats, self.is_last_step = 0, False

    def beat(self, now: float, *, is_last_step: bool = False) -> None:
        if self.beats:
            self.gaps.append(now - self.heard_at)
        self.beats, self.heard_at, self.is_last_step = self.beats + 1, now, is_last_step

    @property
    def limit_seconds(self) -> float:
        patience = self.patience
        if len(self.gaps) < GAPS or self.is_last_step:
            return patience.boot_seconds
        return max(patience.stall_seconds, patience.stall_steps * median(self.gaps))

    def is_stalled(self, now: float) -> bool:
        return now - self.heard_at > self.limit_seconds
