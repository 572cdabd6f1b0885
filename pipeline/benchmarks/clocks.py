"""Timed spans of an iteration, from CUDA events on a GPU or from the wall clock on a CPU."""

import time
from itertools import pairwise
from typing import Any, NamedTuple

import torch


class TimedSpan(NamedTuple):
    """The time of one part of an iteration."""

    iteration: int
    part: str
    samples: int
    ms: float


class Clock:
    """A `TimingMark` that records its calls: on a GPU as CUDA events in the stream, for the time on the device."""

    def __init__(self, device: torch.device):
        self.device, self.marks = device, list[tuple[str, int, Any]]()

    def __call__(self, part: str, samples: int = 0) -> None:
        self.marks.append((part, samples, self._now()))

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return 1000 * time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def spans(self) -> list[TimedSpan]:
        """The spans between the marks. Waits for the device."""
        if self.device.type != "cuda":
            return _spans(self.marks)
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
