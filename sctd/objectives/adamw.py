"""A step of AdamW as a function, for objectives that learn along: nothing is modified in place."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Moments = Mapping[str, Tensor]


def adamw(
    loss: Callable[[Tensor], Tensor], values: Tensor, moments: Moments, *, rate: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The values after a step down `loss`, and the moments, {} before the first: torch's AdamW and its defaults."""
    leaf = values.detach().clone().requires_grad_()
    optimizer = torch.optim.AdamW([leaf], lr=rate, capturable=leaf.is_cuda)
    if moments:
        optimizer.state[leaf] = {name: each.clone() for name, each in moments.items()}
    (leaf.grad,) = torch.autograd.grad(loss(leaf), leaf)
    optimizer.step()
    return leaf.detach(), dict(optimizer.state[leaf])
