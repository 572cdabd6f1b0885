"""Classifier-free guidance (Eq. 7) and view-dependent prompts.

Guidance is a denoiser wrapped around a denoiser. Perp-Neg is in `sctd.diffusion.perp_neg`.
"""

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

    `scale` follows diffusers' convention: 1 is the plain conditional prediction, and the paper's w is `scale` − 1.
    `null` is the embedding of the empty prompt or of a negative prompt. `text=None` gives the unguided prediction for
    the empty prompt.
    """

    def guided(z_t: Latents, t: int, text: Text | None) -> Latents:
        if text is None:
            return denoise(z_t, t, None)
        both = torch.cat([null.expand_as(text), text])
        eps_null, eps_text = denoise(torch.cat([z_t, z_t]), t, both).chunk(2)
        return eps_null + scale * (eps_text - eps_null)

    return guided


class ViewText(NamedTuple):
    """One embedding per entry of `VIEW_WORDS`, in that order: `ViewText(*prior.embed(view_prompts(prompt)))`."""

    front: Embedding
    side: Embedding
    back: Embedding
    overhead: Embedding


def view_prompts(prompt: str) -> list[str]:
    """The prompt followed by a comma and each entry of `VIEW_WORDS`, as in LucidDreamer, GCS and the released code."""
    return [f"{prompt}, {word}" for word in VIEW_WORDS]


def nearest(
    views: ViewText, azimuth_degrees: Angles, elevation_degrees: Angles, *, overhead_above_degrees: float = 58.0
) -> Text:
    """The embedding of the view nearest to each direction. The thresholds are those of the synthetic world's captions.

    Overhead above 58° of elevation, else front within 50° of azimuth 0, back within 50° of azimuth 180, else side.
    """
    from_front = degrees_from_front(azimuth_degrees)
    index = torch.full_like(from_front, VIEW_WORDS.index("side view"), dtype=torch.long)
    index[from_front < 50] = VIEW_WORDS.index("front view")
    index[from_front > 130] = VIEW_WORDS.index("back view")
    index[elevation_degrees > overhead_above_degrees] = VIEW_WORDS.index("overhead view")
    return torch.stack(views)[index.to(views.front.device)]


def interpolated(
    views: ViewText, azimuth_degrees: Angles, elevation_degrees: Angles, *, overhead_above_degrees: float = 90.0
) -> Text:
    """r front + (1 − r) side with r = 1 − |azimuth|/90 in the front half, r side + (1 − r) back in the back half.

    This is the rule of LucidDreamer, GCS and the paper's released code, with or without Perp-Neg. They have no overhead
    view, which corresponds to the default of 90°.
    """
    quarter_turns = (degrees_from_front(azimuth_degrees) / 90).to(views.front)[:, None, None]
    towards_front, towards_back = (1 - quarter_turns).clamp(min=0), (quarter_turns - 1).clamp(min=0)
    towards_side = 1 - towards_front - towards_back
    around = towards_front * views.front + towards_side * views.side + towards_back * views.back
    overhead = (elevation_degrees > overhead_above_degrees).to(views.front.device)
    return torch.where(overhead[:, None, None], views.overhead, around)


VIEW_TEXT: dict[str, Callable[..., Text]] = {"nearest": nearest, "interpolated": interpolated}


def degrees_from_front(azimuth_degrees: Angles) -> Angles:
    """|azimuth| after wrapping into [−180°, 180°): 0 in front, 180 behind."""
    return ((azimuth_degrees + 180) % 360 - 180).abs()
