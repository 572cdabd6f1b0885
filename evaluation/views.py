"""One array of bytes for every metric: RGB on white, rounded half up, lossless."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

Views = UInt8[np.ndarray, "views height width 3"]
"""The pictures of one object, as every metric sees them."""


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
