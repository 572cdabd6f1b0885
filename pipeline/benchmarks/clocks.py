"""Timed spans of an iteration, from CUDA events on a GPU or from the wall clock on a CPU."""

import time
from typing import Any, NamedTuple, Protocol

import torch


class TimedSpan(NamedTuple):
    """The time of one part of an iteration."""

    iteration: int
    part: str
    ms: float


class Clock(Protocol):
    """A `TimingMark` that records its calls, and the spans between them."""

    def __call__(self, name: str) -> None: ...
    def spans(self) -> list[TimedSpan]: ...


def clock_for(device: torch.device) -> Clock:
    return GpuClock() if device.type == "cuda" else WallClock()


class WallClock:
    def __init__(self) -> None:
        self.marks: list[tuple[str, float]] = []

    def __call__(self, name: str) -> None:
        self.marks.append((name, time.perf_counter()))

    def spans(self) -> list[TimedSpan]:
        return _spans([name for name, _ in self.marks], [1000 * at for _, at in self.marks])


class GpuClock:
    """CUDA events in the stream: the time on the device. It synchronises only in `spans`."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, Any]] = []

    def __call__(self, name: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append((name, event))

    def spans(self) -> list[TimedSpan]:
        torch.cuda.synchronize()
        first = self.marks[0][1]
        return _spans([name for name, _ in self.marks], [first.elapsed_time(event) for _, event in self.marks])


def _spans(names: list[str], at: list[float]) -> list[TimedSpan]:
    """Each part lasts from the previous mark; the part that ends with "begin" is between two iterations."""
    spans, iteration = [], 0
    for name, before, after in zip(names[1:], at[:-1], at[1:], strict=True):
        iteration += name == "begin"
        spans.append(TimedSpan(iteration, "between" if name == "begin" else name, after - before))
    return spans
