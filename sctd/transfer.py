"""What is drawn on the CPU goes to a GPU without waiting for it; names mark where the parts of an iteration end."""

from collections.abc import Callable

import torch
from torch import Tensor

TimingMark = Callable[[str], None]
"""Called with a name where that part of an iteration ends, in the order of the work: for whoever takes the time."""


def no_timing(name: str) -> None:
    """Takes no time."""


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. A plain `.to` would first let the GPU finish all that it was given."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
