"""Sampling of point clouds: Point-E's noise process with Heun's method (Karras et al. 2022, Alg. 2).

The network was trained on z_t = √ᾱ_t x + √(1-ᾱ_t) ε; the sampler uses x_σ = x + σ ε. They agree at σ² = (1-ᾱ_t)/ᾱ_t.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sctd.point_e.model import DiffusionConfig, PointDiffusionTransformer, PointEError, PointUpsampler, SamplerConfig

Points = Float[Tensor, "batch channels points"]


class PointClouds(NamedTuple):
    """`coords` in world axes (z up, front +x) and the model's unit of length; `rgb` in [0, 1]."""

    coords: Float[Tensor, "batch points 3"]
    rgb: Float[Tensor, "batch points 3"]


def alphas_cumprod(config: DiffusionConfig) -> np.ndarray:
    """ᾱ_t, float64 [timesteps]: Nichol & Dhariwal's cosine (β ≤ 0.999), or Ho's linear β rescaled to `timesteps`."""
    T = config.timesteps
    if config.schedule == "linear":
        betas = np.linspace(0.1 / T, min(20 / T, 0.999), T)
    else:
        signal = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
    return np.cumprod(1 - betas)


def time_of(sigma: float, alphas: np.ndarray) -> int:
    """The t whose noise level is `sigma`: interpolated linearly in ᾱ and rounded down, as in OpenAI's code."""
    return int(np.interp(1 / (1 + sigma**2), alphas[::-1], np.arange(len(alphas))[::-1]))


def karras_sigmas(config: SamplerConfig) -> list[float]:
    """`steps` noise levels from sigma_max down to sigma_min, evenly spaced in σ^(1/rho), then 0 (Eq. 5)."""
    ramp = np.linspace(0, 1, config.steps)
    low, high = config.sigma_min ** (1 / config.rho), config.sigma_max ** (1 / config.rho)
    return [*((high + ramp * (low - high)) ** config.rho).tolist(), 0.0]


def heun(
    denoise: Callable[[Points, float], Points],
    x: Points,
    sigmas: list[float],
    s_churn: float = 0.0,
    generator: torch.Generator | None = None,
) -> Points:
    """Algorithm 2: from x at noise level sigmas[0] to a sample. `denoise(x, sigma)` predicts the clean x.

    `s_churn` is the total amount of fresh noise added over all steps (0: the ODE, deterministic in x).
    """
    gamma = min(s_churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    for sigma, next_sigma in pairwise(sigmas):
        if gamma > 0:
            churned = sigma * (1 + gamma)
            x = x + math.sqrt(churned**2 - sigma**2) * _randn(x.shape, x, generator)
            sigma = churned
        slope = (x - denoise(x, sigma)) / sigma
        euler = x + (next_sigma - sigma) * slope
        if next_sigma > 0:
            slope = (slope + (euler - denoise(euler, next_sigma)) / next_sigma) / 2
            x = x + (next_sigma - sigma) * slope
        else:
            x = euler
    return x


@torch.no_grad()
def sample_point_clouds(
    model: PointDiffusionTransformer,
    text_vectors: Float[Tensor, "batch clip_width"],
    generator: torch.Generator,
    sampler: SamplerConfig | None = None,
) -> PointClouds:
    """One point cloud per text vector (of any length > 0; it is normalised). `sampler` defaults to the model's."""
    return to_world(model, sample_points(model, text_vectors, generator, sampler))


@torch.no_grad()
def sample_points(
    model: PointDiffusionTransformer,
    text_vectors: Float[Tensor, "batch clip_width"],
    generator: torch.Generator,
    sampler: SamplerConfig | None = None,
) -> Points:
    """As `sample_point_clouds`, in Point-E's axes and units: x y z, R G B in 0..255, not clamped."""
    if text_vectors.shape[1] != model.config.clip_width:
        raise PointEError(
            f"the text vectors have {text_vectors.shape[1]} components, but this Point-E model was trained on "
            f"{model.config.clip_width}: embed the prompt with the CLIP model of its training"
        )
    length = text_vectors.norm(dim=1, keepdim=True)
    if not bool((length > 0).all()):
        raise PointEError("a text vector is zero or NaN; expected the CLIP embedding of a prompt")
    condition = (text_vectors / length).to(next(model.parameters()))
    return _sample(model, condition, torch.zeros_like(condition), generator, sampler or model.config.sampler)


@torch.no_grad()
def upsample_points(
    model: PointUpsampler, low_res: Points, generator: torch.Generator, sampler: SamplerConfig | None = None
) -> Float[Tensor, "batch channels all_points"]:
    """The coarse points, as returned by `sample_points`, followed by the points that the model adds."""
    low_res = low_res.to(next(model.parameters()))
    new = _sample(model, low_res, torch.zeros_like(low_res), generator, sampler or model.config.sampler)
    return torch.cat([low_res, new], dim=-1)


def to_world(model: PointDiffusionTransformer | PointUpsampler, points: Points) -> PointClouds:
    """Point clouds in world axes, from points in Point-E's axes and units."""
    coords, rgb = points.float().transpose(1, 2).split(3, dim=-1)
    if model.config.axes == "point_e":
        x, y, z = coords.unbind(-1)
        coords = torch.stack([-y, x, z], dim=-1)  # a quarter turn: Point-E's front is -y, the world's is +x
    return PointClouds(coords, rgb.clamp(0, 255).round() / 255)


def _sample(
    model: PointDiffusionTransformer | PointUpsampler,
    condition: Tensor,
    null: Tensor,
    generator: torch.Generator,
    sampler: SamplerConfig,
) -> Points:
    """Guided sampling: D_null + w (D_condition - D_null), after clipping each prediction to the data range."""
    alphas = alphas_cumprod(model.config.diffusion)
    w = sampler.guidance_scale
    conditions = condition if w == 1 else torch.cat([condition, null])

    def denoise(x: Points, sigma: float) -> Points:
        t = time_of(sigma, alphas)
        x_t = (x / math.sqrt(1 + sigma**2)).repeat(len(conditions) // len(x), 1, 1)
        eps = model(x_t, torch.full((len(x_t),), t, device=x.device), conditions)[:, : x.shape[1]].to(x.dtype)
        clean = ((x_t - math.sqrt(1 - alphas[t]) * eps) / math.sqrt(alphas[t])).clamp(-1, 1)
        if w == 1:
            return clean
        clean_condition, clean_null = clean.chunk(2)
        return clean_null + w * (clean_condition - clean_null)

    like = next(model.parameters())
    sigmas = karras_sigmas(sampler)
    x = sigmas[0] * _randn((len(condition), model.config.input_channels, model.config.n_ctx), like, generator)
    x = heun(denoise, x, sigmas, sampler.s_churn, generator)
    scales, biases = (
        x.new_tensor(v)[:, None] for v in (model.config.diffusion.channel_scales, model.config.diffusion.channel_biases)
    )
    return (x - biases) / scales


def _randn(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Normal numbers drawn on the generator's device, so that a seed gives the same point cloud on every device."""
    device = generator.device if generator is not None else like.device
    return torch.randn(shape, generator=generator, device=device).to(like.device, like.dtype)
