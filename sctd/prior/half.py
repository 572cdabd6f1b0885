"""Half precision around a differentiable network: what goes in and comes out is float32, and no gradient underflows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

GREATEST = 2.0**4  # where the greatest number of a gradient is put: what it grows to within a network still fits
LEAST = 2.0**-100  # of a gradient's greatest number that is not taken for 0, so that the factor is finite


def in_dtype(function: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """`function` of x in `dtype`, the result in x's; of float16 the gradient travels multiplied by a power of two.

    A gradient below 6e-8 is 0 in float16, and one below 6e-5 loses bits. The factor is taken on the device from the
    gradient itself, so nothing is waited for and nothing is rounded by it.
    """
    if dtype != torch.float16 or x.dtype == dtype:
        return function(x.to(dtype)).to(x.dtype)
    factor: list[Tensor] = []
    return _Raised.apply(function(_Lowered.apply(x, factor)), factor)


class _Lowered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: list[Tensor]) -> Tensor:
        ctx.factor, ctx.dtype = factor, x.dtype
        return x.to(torch.float16)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0].to(ctx.dtype) / ctx.factor[-1], None


class _Raised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, factor: list[Tensor]) -> Tensor:
        ctx.factor, ctx.dtype = factor, y.dtype
        return y.float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        greatest = gradients[0].abs().amax().clamp(min=LEAST)
        ctx.factor.append(torch.exp2((GREATEST / greatest).log2().floor()))
        return (gradients[0] * ctx.factor[-1]).to(ctx.dtype), None
