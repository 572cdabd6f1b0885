"""Consistent Flow Distillation, CFD (Yan et al. 2025, arXiv:2501.05445)."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.transfer import to_device
from sctd.types import Denoiser, Latents, ObjectiveState, Text

VISIBLE = 0.1
"""The least opacity of a surface, the authors'."""
CELLS = 64
"""Vectors W_i for each latent pixel. A view sees at most about five."""

Positions = Float[Tensor, "batch 3 image_height image_width"]
Opacity = Float[Tensor, "batch image_height image_width"]
Cells = Int[Tensor, "batch image_height image_width"]


def cfd(
    z_0: Latents,
    *,
    denoise: Denoiser,
    text: Text,
    noise: Latents,
    times: Times,
    schedule: NoiseSchedule,
    positions: Positions | None,
    alpha: Opacity | None,
    state: ObjectiveState,
) -> Latents:
    """ε̂_φ(α_t z_0 + σ_t ε̃, t, y) − ε̃ before its weight w(t), where ε̃(θ, c) is a noise fixed to the surface.

    SDS with ε̃ in place of a random ε, and with a falling t: z_0 moves as the clean variable (z_t − σ_t ε̃)/α_t of the
    flow of ε̂_φ. Where camera c sees no surface, ε̃ is `noise`.
    """
    if positions is not None and alpha is not None:
        W = state["surface"].to(z_0)
        noise = seen(W, cells_of(positions, z_0.shape[-1], len(W)), alpha > VISIBLE, noise)
    return denoise(schedule.noised(z_0, noise, times.t), times.t, text) - noise


def init(*, prior: Any, generator: torch.Generator) -> ObjectiveState:
    """W_i ~ N(0, I), the noise of every cell of space."""
    channels, height, width = prior.latent_shape
    return {"surface": torch.randn(CELLS * height * width, channels, generator=generator)}


def update(
    z_0: Latents, *, state: ObjectiveState, generator: torch.Generator, noise_injection: float = 1e-4
) -> ObjectiveState:
    """W ← √(1 − γ) W + √γ ξ with ξ ~ N(0, I): for γ = 0 the flow is an ODE, for γ = 1 the noise is fresh."""
    W, gamma = state["surface"], noise_injection
    xi = to_device(torch.randn(W.shape, generator=generator), W.device).to(W)
    return {"surface": (1 - gamma) ** 0.5 * W + gamma**0.5 * xi}


def cells_of(positions: Positions, resolution: int, number: int) -> Cells:
    """The cell of each render pixel: cubes of edge 1/resolution, whose numbers repeat only far away."""
    x, y, z = (resolution * positions).floor().long().unbind(1)
    return (73856093 * x + 19349663 * y + 83492791 * z) % number


def seen(
    W: Float[Tensor, "cells channels"],
    cells: Cells,
    is_surface: Bool[Tensor, "batch image_height image_width"],
    background: Latents,
) -> Latents:
    """ε̃(p) = |Ω_p|^(−1/2) Σ_{i∈Ω_p} W_i for every latent pixel p, and the background where Ω_p is empty.

    Ω_p are the cells whose first render pixel in a view is inside p. No two latent pixels of a view have a cell in
    common, so they are independent and exactly N(0, 1); two views have the cells in common that both see.
    """
    i, order = cells.flatten(1), torch.arange(cells[0].numel(), device=cells.device)
    order = torch.where(is_surface.flatten(1), order, len(order))
    first = torch.full((len(i), len(W)), order.shape[1], device=i.device).scatter_reduce(1, i, order, "amin")
    is_first = (is_surface.flatten(1) & (first.gather(1, i) == order)).view_as(cells)[:, None].to(W)
    over_p = partial(avg_pool2d, kernel_size=cells.shape[-1] // background.shape[-1], divisor_override=1)
    total, count = over_p(is_first * W[cells].movedim(-1, 1)), over_p(is_first)
    return torch.where(count > 0, total / count.clamp(min=1).sqrt(), background)
