"""Float16 inside a differentiable network with float32 inputs and outputs, without gradient underflow."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

TARGET_MAX = 2.0**4  # largest absolute value of a scaled gradient; leaves headroom for growth inside the network
MIN_MAX = 2.0**-100  # smaller gradients count as this, so that the scale is finite


def in_dtype(function: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """`function` of x computed in `dtype`, the result in x's dtype; float16 gradients are scaled by a power of two.

    A gradient below 6e-8 is 0 in float16, and one below 6e-5 loses bits. The scale is computed on the device from the
    gradient itself, so it needs no synchronization, and a power of two adds no rounding error.
    """
    if dtype != torch.float16 or x.dtype == dtype:
        return function(x.to(dtype)).to(x.dtype)
    scale: list[Tensor] = []
    return _ToFloat32.apply(function(_ToFloat16.apply(x, scale)), scale)


class _ToFloat16(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.scale, ctx.dtype = scale, x.dtype
        return x.to(torch.float16)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0].to(ctx.dtype) / ctx.scale[-1], None


class _ToFloat32(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: list[Tensor]) -> Tensor:
        ctx.scale, ctx.dtype = scale, y.dtype
        return y.float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        largest = gradients[0].abs().amax().clamp(min=MIN_MAX)
        ctx.scale.append(torch.exp2((TARGET_MAX / largest).log2().floor()))
        return (gradients[0] * ctx.scale[-1]).to(ctx.dtype), None
