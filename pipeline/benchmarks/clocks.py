"""When the parts of an iteration end: by events of the GPU, or by the wall clock where all runs in this thread."""

import time
from typing import Any, NamedTuple, Protocol

import torch


class Lap(NamedTuple):
    """A part of one iteration and how long it took."""

    iteration: int
    part: str
    ms: float


class Clock(Protocol):
    """A `Mark` that remembers, and what it remembers."""

    def __call__(self, name: str) -> None: ...
    def laps(self) -> list[Lap]: ...


def clock_for(device: torch.device) -> Clock:
    return GpuClock() if device.type == "cuda" else WallClock()


class WallClock:
    def __init__(self) -> None:
        self.marks: list[tuple[str, float]] = []

    def __call__(self, name: str) -> None:
        self.marks.append((name, time.perf_counter()))

    def laps(self) -> list[Lap]:
        return _laps([name for name, _ in self.marks], [1000 * at for _, at in self.marks])


class GpuClock:
    """Events in the stream: the device's own time. Nothing is waited for before the end."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, Any]] = []

    def __call__(self, name: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append((name, event))

    def laps(self) -> list[Lap]:
        torch.cuda.synchronize()
        first = self.marks[0][1]
        return _laps([name for name, _ in self.marks], [first.elapsed_time(event) for _, event in self.marks])


def _laps(names: list[str], at: list[float]) -> list[Lap]:
    """Each part from the mark before; "begin" ends what lies between two iterations."""
    laps, iteration = [], 0
    for name, before, after in zip(names[1:], at[:-1], at[1:], strict=True):
        iteration += name == "begin"
        laps.append(Lap(iteration, "between" if name == "begin" else name, after - before))
    return laps
