"""Copying tensors to a GPU without synchronization, and the callback that times the parts of an iteration."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class TimingMark(Protocol):
    """Called when a part of an iteration ends. Parts end in the order of execution."""

    def __call__(self, part: str, samples: int = 0) -> None:
        """`samples`: the images or latents that a network processed in this part; 0 for parts without a network."""


def no_timing(part: str, samples: int = 0) -> None:
    """A timing mark that does nothing."""


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. From the CPU to a GPU it copies pinned memory: a plain `.to` waits for all queued work."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
