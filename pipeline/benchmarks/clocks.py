"""Timed spans of an iteration, from CUDA events on a GPU or from the wall clock on a CPU."""

import time
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch


class TimedSpan(NamedTuple):
    """The time of one part of an iteration."""

    iteration: int
    part: str
    samples: int
    ms: float


class Clock(Protocol):
    """A `TimingMark` that records its calls, and the spans between them."""

    def __call__(self, part: str, samples: int = 0) -> None: ...
    def spans(self) -> list[TimedSpan]: ...


def clock_for(device: torch.device) -> Clock:
    return GpuClock() if device.type == "cuda" else WallClock()


class WallClock:
    def __init__(self) -> None:
        self.marks: list[tuple[str, int, float]] = []

    def __call__(self, part: str, samples: int = 0) -> None:
        self.marks.append((part, samples, 1000 * time.perf_counter()))

    def spans(self) -> list[TimedSpan]:
        return _spans(self.marks)


class GpuClock:
    """CUDA events in the stream: the time on the device. It synchronises only in `spans`."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, int, Any]] = []

    def __call__(self, part: str, samples: int = 0) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append((part, samples, event))

    def spans(self) -> list[TimedSpan]:
        torch.cuda.synchronize()
        first = self.marks[0][-1]
        return _spans([(part, samples, first.elapsed_time(event)) for part, samples, event in self.marks])


def _spans(marks: list[tuple[str, int, float]]) -> list[TimedSpan]:
    """Each part lasts from the previous mark; the part that ends with "begin" is between two iterations."""
    spans, iteration = [], 0
    for (_, _, before), (part, samples, after) in pairwise(marks):
        iteration += part == "begin"
        spans.append(TimedSpan(iteration, "between" if part == "begin" else part, samples, after - before))
    return spans
