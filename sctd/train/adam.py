"""Adam (Kingma & Ba 2015, Algorithm 1) as a pure function, with one learning rate per attribute of the Gaussians.

The moments have the structure of `Gaussians`, so that densification can index them in the same way.
"""

import torch

from sctd.recipe.scene import OptimizerConfig
from sctd.scene.gaussians import Gaussians
from sctd.transfer import to_device


def rates_at(optimizer: OptimizerConfig, progress: float, num_basis: int) -> dict[str, torch.Tensor | float]:
    """The learning rate of every attribute at `progress` in [0, 1]; for `sh` one per basis function, [basis, 1]."""
    rest = [optimizer.sh_rest.at(progress)] * (num_basis - 1)
    return {
        "means": optimizer.means.at(progress),
        "log_scales": optimizer.log_scales.at(progress),
        "quats": optimizer.quats.at(progress),
        "logit_opacities": optimizer.logit_opacities.at(progress),
        "sh": torch.tensor([optimizer.sh_constant.at(progress), *rest])[:, None],
    }


def clipped(gradients: Gaussians, optimizer: OptimizerConfig, progress: float) -> Gaussians:
    """Clip the gradient norm of each attribute to the limit at `progress`; a limit of 0 disables clipping."""
    first, last = optimizer.clip_norm
    done = min(progress / optimizer.clip_share, 1) if optimizer.clip_share else 1
    limit = first + (last - first) * done
    if limit == 0:
        return gradients
    return gradients.map(lambda gradient: gradient * (limit / gradient.norm().clamp(min=limit)))


def update(
    gaussians: Gaussians,
    gradients: Gaussians,
    first_moment: Gaussians,
    second_moment: Gaussians,
    *,
    rates: dict[str, torch.Tensor | float],
    count: int,
    optimizer: OptimizerConfig,
) -> tuple[Gaussians, Gaussians, Gaussians]:
    """The `count`-th step (from 1): new Gaussians, first and second moments. The arguments are not modified."""
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    moved, firsts, seconds = {}, {}, {}
    for name, gradient in gradients.tensors().items():
        first = beta1 * getattr(first_moment, name) + (1 - beta1) * gradient
        second = beta2 * getattr(second_moment, name) + (1 - beta2) * gradient**2
        direction = first / (1 - beta1**count) / ((second / (1 - beta2**count)).sqrt() + optimizer.eps)
        rate = rates[name]
        moved[name] = (
            getattr(gaussians, name)
            - (to_device(rate, first.device) if isinstance(rate, torch.Tensor) else rate) * direction
        )
        firsts[name], seconds[name] = first, second
    return Gaussians(**moved), Gaussians(**firsts), Gaussians(**seconds)
