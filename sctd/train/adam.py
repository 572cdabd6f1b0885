"""Adam (Kingma & Ba 2015, Algorithm 1) as a pure function, with one learning rate per tensor of the asset.

The moments have the structure of the asset, so that densification can index them in the same way.
"""

from collections.abc import Mapping
from typing import Any

import torch

from sctd.recipe.scene import OptimizerConfig
from sctd.transfer import to_device


def position(iteration: int, iterations: int) -> float:
    """Where an iteration (from 1) is in the schedules of the rates: 0 in the first one, 1 in the last.

    The other schedules of a recipe use the share of iterations, `iteration / iterations`, called progress.
    """
    return (iteration - 1) / max(iterations - 1, 1)


def rates_at(optimizer: OptimizerConfig, position: float, num_basis: int) -> dict[str, torch.Tensor | float]:
    """The learning rate of every attribute at `position` in [0, 1]; for `sh` one per basis function, [basis, 1]."""
    names = "means", "log_scales", "quats", "logit_opacities"
    sh = [optimizer.sh_constant.at(position), *[optimizer.sh_rest.at(position)] * (num_basis - 1)]
    return {name: getattr(optimizer, name).at(position) for name in names} | {"sh": torch.tensor(sh)[:, None]}


def clipped(gradients: Any, optimizer: OptimizerConfig, position: float) -> Any:
    """Clip the gradient norm of each tensor to the limit at `position`; a limit of 0 disables clipping."""
    first, last = optimizer.clip_norm
    done = min(position / optimizer.clip_share, 1) if optimizer.clip_share else 1
    limit = first + (last - first) * done
    if limit == 0:
        return gradients
    return gradients.map(lambda gradient: gradient * (limit / gradient.norm().clamp(min=limit)))


def update(
    asset: Any,
    gradients: Any,
    first_moment: Any,
    second_moment: Any,
    *,
    rates: Mapping[str, torch.Tensor | float],
    count: int,
    optimizer: OptimizerConfig,
) -> tuple[Any, Any, Any]:
    """The `count`-th step (from 1): new asset, first and second moments, of one type. Nothing is modified."""
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    moved, firsts, seconds = {}, {}, {}
    before, first_before, second_before = (each.tensors() for each in (asset, first_moment, second_moment))
    for name, gradient in gradients.tensors().items():
        first = beta1 * first_before[name] + (1 - beta1) * gradient
        second = beta2 * second_before[name] + (1 - beta2) * gradient**2
        direction = first / (1 - beta1**count) / ((second / (1 - beta2**count)).sqrt() + optimizer.eps)
        rate = rates[name]
        moved[name] = (
            before[name] - (to_device(rate, first.device) if isinstance(rate, torch.Tensor) else rate) * direction
        )
        firsts[name], seconds[name] = first, second
    return asset.with_tensors(moved), first_moment.with_tensors(firsts), second_moment.with_tensors(seconds)
