"""Guidance (Eq. 7): a denoiser wrapped around a denoiser, and the text for a view."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.types import Denoiser, Latents, Text

Angles = Float[Tensor, " batch"]
Embedding = Float[Tensor, "tokens features"]

VIEW_WORDS = ("front view", "side view", "back view", "overhead view")


def cfg(denoise: Denoiser, scale: float, null: Float[Tensor, "1 tokens features"]) -> Denoiser:
    """Classifier-free guidance, eps_null + scale (eps_text − eps_null), in one batch of twice the size.

    `scale` is diffusers' convention: 1 is the plain conditional prediction; the paper's w is `scale` − 1. `null` is the
    embedding of the empty prompt or of a negative prompt. `text=None` stays the plain prediction for the empty prompt.
    """

    def guided(z_t: Latents, t: int, text: Text | None) -> Latents:
        if text is None:
            return denoise(z_t, t, None)
        both = torch.cat([null.expand_as(text), text])
        eps_null, eps_text = denoise(torch.cat([z_t, z_t]), t, both).chunk(2)
        return eps_null + scale * (eps_text - eps_null)

    return guided


class Negatives(NamedTuple):
    """For each view two directions that it must not show, and how much: weights ≤ 0, 0 where one does not count."""

    text: Float[Tensor, "batch 2 tokens features"]
    weights: Float[Tensor, "batch 2"]


def perp_neg(
    denoise: Denoiser, scale: float, null: Float[Tensor, "1 tokens features"], negatives: Negatives
) -> Denoiser:
    """Perp-Neg (Armandpour et al. 2023): `cfg`, and away from what in each negative is not already in the positive.

    eps_null + scale (Δ_text + Σ_i w_i Δ_i⊥) with Δ = eps − eps_null, and Δ_i⊥ the part of Δ_i perpendicular to Δ_text,
    in one batch of four times the size: [null, text, first negatives, second negatives]. `negatives` are those of the
    views of `text`, in its order. With all weights 0 this is `cfg`. `scale`, `null` and `text=None` mean the same as
    there; the arithmetic is that of the predictions' dtype.
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
    """Each sample of `delta` without its component along `towards`, whose square counts as at least 1e-6."""
    each = (1, 2, 3)
    along = (delta * towards).sum(each, keepdim=True) / towards.square().sum(each, keepdim=True).clamp(min=1e-6)
    return delta - along * towards


class ViewText(NamedTuple):
    """One embedding per view word of `VIEW_WORDS`, in its order: `ViewText(*prior.embed(view_prompts(prompt)))`."""

    front: Embedding
    side: Embedding
    back: Embedding
    overhead: Embedding


def view_prompts(prompt: str) -> list[str]:
    """The prompt with each view word behind a comma, as in the paper's peers."""
    return [f"{prompt}, {word}" for word in VIEW_WORDS]


def nearest(
    views: ViewText, azimuth_degrees: Angles, elevation_degrees: Angles, *, overhead_above_degrees: float = 58.0
) -> Text:
    """The embedding of the view word that names the direction; thresholds are those of the embedded world's captions.

    Overhead above 58° of elevation, else front within 50° of azimuth 0, back within 50° of azimuth 180, else side.
    """
    from_front = _from_front(azimuth_degrees)
    index = torch.full_like(from_front, VIEW_WORDS.index("side view"), dtype=torch.long)
    index[from_front < 50] = VIEW_WORDS.index("front view")
    index[from_front > 130] = VIEW_WORDS.index("back view")
    index[elevation_degrees > overhead_above_degrees] = VIEW_WORDS.index("overhead view")
    return torch.stack(views)[index.to(views.front.device)]


def interpolated(
    views: ViewText, azimuth_degrees: Angles, elevation_degrees: Angles, *, overhead_above_degrees: float = 90.0
) -> Text:
    """r front + (1 − r) side with r = 1 − |azimuth|/90 in the front half, r side + (1 − r) back in the back half.

    The rule of LucidDreamer, GCS and the paper's released code, also without Perp-Neg. Theirs knows no overhead view,
    as here with 90°.
    """
    quarter_turns = (_from_front(azimuth_degrees) / 90).to(views.front)[:, None, None]
    towards_front, towards_back = (1 - quarter_turns).clamp(min=0), (quarter_turns - 1).clamp(min=0)
    towards_side = 1 - towards_front - towards_back
    around = towards_front * views.front + towards_side * views.side + towards_back * views.back
    overhead = (elevation_degrees > overhead_above_degrees).to(views.front.device)
    return torch.where(overhead[:, None, None], views.overhead, around)


def negatives(
    views: ViewText,
    azimuth_degrees: Angles,
    *,
    weight: float = -2.0,
    front_decay: float = 2.0,
    side_decay: float = 10.0,
    least: float = 1e-4,
) -> Negatives:
    """What each view must not show, with `interpolated` as the positive text; the rule and numbers of the release.

    With r as there: [front, side] at [w e^(−front_decay r) if r ≤ 0.8, w e^(−side_decay (1 − r)) if r ≥ 0.2] in the
    front half; [side, front] at [w/2 e^(−side_decay r) if r ≤ 0.8, w] in the back half, |azimuth| ≥ 90. Weights of
    |w| ≤ `least` are 0. Neither side is told from the other, and there is no overhead view. Weights have the dtype of
    the angles.
    """
    quarter_turns = (_from_front(azimuth_degrees) / 90).to(views.front.device)
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
    return Negatives(text, torch.where(weights.abs() > least, weights, 0))


VIEW_TEXT: dict[str, Callable[..., Text]] = {"nearest": nearest, "interpolated": interpolated}


def _from_front(azimuth_degrees: Angles) -> Angles:
    """|azimuth| after wrapping into [−180°, 180°): 0 in front, 180 behind."""
    return ((azimuth_degrees + 180) % 360 - 180).abs()
