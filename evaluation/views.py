"""One array of bytes for every metric: RGB on white, rounded half up, lossless."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Views = UInt8[np.ndarray, "views height width 3"]
"""The pictures of one object, as every metric sees them."""


MOST_THREADS = 8

Given, Made = TypeVar("Given"), TypeVar("Made")


def each(function: Callable[[Given], Made], items: Iterable[Given]) -> list[Made]:
    """`function` of every item, in order, on several cores: for PIL, which lets go of the interpreter while it resizes.

    One core would resize 120 views of 512² for three judges in 5 s, longer than a GPU takes to judge them.
    """
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def to_bytes(images: Float[Tensor, "views 3 height width"]) -> Views:
    """floor(255 x + 0.5) of colours clamped to [0, 1], the bytes that torchvision's `save_image` writes.

    The product and the sum are rounded to float32 on the way, as they are there. Raises ValueError on NaN or infinity.
    """
    if not torch.isfinite(images).all():
        raise ValueError(
            f"{int((~torch.isfinite(images)).sum())} colour values are not finite: this asset cannot be judged"
        )
    return (images * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def on_white(
    rgb: Float[Tensor, "views 3 height width"], alpha: Float[Tensor, "views height width"]
) -> Float[Tensor, "views 3 height width"]:
    """Premultiplied colour over white. Alpha is composited, never dropped: a dropped alpha judges hidden colours."""
    return rgb + (1 - alpha[:, None])
