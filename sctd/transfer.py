"""Copying tensors to a GPU without synchronization, and the callback that times the parts of an iteration."""

from collections.abc import Callable

import torch
from torch import Tensor

TimingMark = Callable[[str], None]
"""Called with the name of a part of an iteration when that part ends. Parts end in the order of execution."""


def no_timing(name: str) -> None:
    """A timing mark that does nothing."""


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. From the CPU to a GPU it copies pinned memory: a plain `.to` waits for all queued work."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
