"""Perp-Neg guidance (Armandpour et al. 2023): classifier-free guidance with perpendicular negative prompts."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.diffusion.guidance import Angles, ViewText, degrees_from_front
from sctd.types import Denoiser, Latents, Text


class Negatives(NamedTuple):
    """Per view, two negative prompts and their weights ≤ 0; a weight of 0 switches one off."""

    text: Float[Tensor, "batch 2 tokens features"]
    weights: Float[Tensor, "batch 2"]


def perp_neg(
    denoise: Denoiser, scale: float, null: Float[Tensor, "1 tokens features"], negatives: Negatives
) -> Denoiser:
    """`cfg` that also moves away from the part of each negative prompt that is perpendicular to the positive one.

    eps_null + scale (Δ_text + Σ_i w_i Δ_i⊥) with Δ = eps − eps_null, and Δ_i⊥ the part of Δ_i perpendicular to Δ_text,
    in one batch of four times the size: [null, text, first negatives, second negatives]. `negatives` are in the order
    of the views of `text`. With all weights 0 this is `cfg`. `scale`, `null` and `text=None` mean the same as in `cfg`.
    Weights are cast to the dtype of the predictions.
    """

    def guided(z_t: Latents, t: int, text: Text | None) -> Latents:
        if text is None:
            return denoise(z_t, t, None)
        texts = torch.cat([null.expand_as(text), text, *negatives.text.to(text).unbind(1)])
        eps_null, *eps = denoise(torch.cat([z_t] * 4), t, texts).chunk(4)
        towards, *away = (each - eps_null for each in eps)
        weights = negatives.weights.to(towards)[..., None, None, None].unbind(1)
        pairs = zip(weights, away, strict=True)
        return eps_null + scale * (towards + sum(weight * _perpendicular(delta, towards) for weight, delta in pairs))

    return guided


def _perpendicular(delta: Latents, towards: Latents) -> Latents:
    """Each sample of `delta` without its component along `towards`, whose squared norm is clamped to at least 1e-6."""
    each = (1, 2, 3)
    along = (delta * towards).sum(each, keepdim=True) / towards.square().sum(each, keepdim=True).clamp(min=1e-6)
    return delta - along * towards


def negatives(
    views: ViewText,
    azimuth_degrees: Angles,
    *,
    weight: float = -2.0,
    front_decay: float = 2.0,
    side_decay: float = 10.0,
    min_weight: float = 1e-4,
) -> Negatives:
    """Negative prompts of each view when `interpolated` is the positive one; rule and numbers of the released code.

    With r as in `interpolated`, the front half has [front, side] with weights [w e^(−front_decay r) if r ≤ 0.8,
    w e^(−side_decay (1 − r)) if r ≥ 0.2]. The back half, |azimuth| ≥ 90, has [side, front] with weights
    [w/2 e^(−side_decay r) if r ≤ 0.8, w]. Weights of |w| ≤ `min_weight` are 0. Left and right are not distinguished,
    and there is no overhead view. Weights have the dtype of the angles.
    """
    quarter_turns = (degrees_from_front(azimuth_degrees) / 90).to(views.front.device)
    is_front = quarter_turns < 1
    r = torch.where(is_front, 1 - quarter_turns, 2 - quarter_turns)
    not_front = torch.where(r <= 0.8, weight * torch.exp(-front_decay * r), 0)
    not_side = torch.where(r >= 0.2, weight * torch.exp(-side_decay * (1 - r)), 0)
    not_side_from_behind = torch.where(r <= 0.8, weight / 2 * torch.exp(-side_decay * r), 0)
    front_half = torch.stack([not_front, not_side], dim=1)
    back_half = torch.stack([not_side_from_behind, torch.full_like(r, weight)], dim=1)
    weights = torch.where(is_front[:, None], front_half, back_half)
    front_side = torch.stack([views.front, views.side])
    text = torch.where(is_front[:, None, None, None], front_side, front_side.flip(0))
    return Negatives(text, torch.where(weights.abs() > min_weight, weights, 0))
