"""Products of a fused U-Net that are computed together instead of layer by layer, for the CUDA-graph path.

- Keys and values of all cross-attentions depend only on the text, so they are one matrix product.
- What the blocks add for the time depends only on the time, which all samples share: one product with one row.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from sctd.prior.fused import FusedBlock


def share(unet: Any, predict: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`predict(unet, …)` for equal times: (z_t, times, text, *residuals) → prediction.

    Changes the U-Net, whose attentions have fused projections, in place.
    """
    project = _joined_projections(unet)
    _join_times(unet)
    return lambda z_t, times, text, *residuals: predict(unet, z_t, times, project(text), *residuals)


class Slice(nn.Module):
    """`length` features from `start`."""

    def __init__(self, start: int, length: int):
        super().__init__()
        self.start, self.length = start, length

    def forward(self, x: Tensor) -> Tensor:
        return x.narrow(-1, self.start, self.length)


def _joined_projections(unet: Any) -> nn.Linear:
    """The keys and values of all cross-attentions as one layer; their own layers become slices of its result."""
    attentions = [module for module in unet.modules() if getattr(module, "to_kv", None) is not None]
    weights = [attention.to_kv.weight for attention in attentions]
    joined = nn.Linear(weights[0].shape[1], sum(map(len, weights)), bias=False, device="meta")
    joined.weight = nn.Parameter(torch.cat(weights), requires_grad=False)
    start = 0
    for attention, weight in zip(attentions, weights, strict=True):
        attention.to_kv = Slice(start, len(weight))
        start += len(weight)
    return joined


class TimeOffsets(nn.Module):
    """A time embedding followed by the projections of all blocks, for the first of its samples."""

    def __init__(self, embedding: nn.Module, blocks: list[FusedBlock]):
        super().__init__()
        self.embedding = embedding
        self.weight = torch.cat([block.time_emb_proj.weight for block in blocks])
        self.bias = torch.cat([block.time_emb_proj.bias + block.conv1.bias for block in blocks])

    def forward(self, features: Tensor, condition: None = None) -> Tensor:
        return linear(silu(self.embedding(features[:1], condition)), self.weight, self.bias)


def _join_times(unet: Any) -> None:
    """Compute the offsets of all blocks together, unless one of the blocks is not fused."""
    blocks = [module for module in unet.modules() if isinstance(module, FusedBlock)]
    if any(type(module).__name__ == "ResnetBlock2D" for module in unet.modules()):
        return
    unet.time_embedding = TimeOffsets(unet.time_embedding, blocks)
    start = 0
    for block in blocks:
        block.offsets = slice(start, start + len(block.conv1.bias))
        start = block.offsets.stop
