"""Rendered views as every metric receives them: 8-bit RGB on white, rounded half up."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from evaluation.errors import EvaluationError

Views = UInt8[np.ndarray, "views height width 3"]
"""The rendered views of one object."""

MAX_THREADS = 8

Item, Result = TypeVar("Item"), TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply `function` to every item in order, in threads. For PIL, which releases the GIL while it resizes.

    One core would need 5 s to resize 120 views of 512² for three networks, longer than a GPU needs to score them.
    """
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def in_batches(function: Callable[[Views], np.ndarray], views: Views, batch_size: int) -> np.ndarray:
    """The results of `function` for batches of views, of a fixed size for reproducibility, as one array."""
    batches = np.split(views, range(batch_size, len(views), batch_size))
    return np.concatenate([function(batch) for batch in batches])


def checked(views: Any) -> Views:
    """Views as a NumPy array. Raises EvaluationError unless they are uint8 [views, height, width, 3] and not empty."""
    if not isinstance(views, np.ndarray | Tensor):
        raise EvaluationError(f"views are a {type(views).__name__}: expected a NumPy array or a torch tensor")
    if (dtype := str(views.dtype).removeprefix("torch.")) != "uint8":
        raise EvaluationError(
            f"views are {dtype}: expected uint8; evaluation.views.to_bytes converts colours in [0, 1]"
        )
    if views.ndim != 4 or views.shape[3] != 3 or 0 in views.shape:
        raise EvaluationError(
            f"views have the shape {list(views.shape)}: expected [views, height, width, 3] with at least one view"
        )
    return views.detach().cpu().numpy() if isinstance(views, Tensor) else views


def to_bytes(images: Float[Tensor, "views 3 height width"]) -> Views:
    """floor(255 x + 0.5) of colours clamped to [0, 1]: the bytes that torchvision's `save_image` writes.

    Product and sum are rounded to float32, as in torchvision. Raises ValueError on NaN or infinity.
    """
    if not torch.isfinite(images).all():
        raise ValueError(
            f"{int((~torch.isfinite(images)).sum())} colour values are not finite: this asset cannot be scored"
        )
    return (images * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
