"""Classifier Score Distillation, CSD (Yu et al. 2024, arXiv:2310.19415)."""

from jaxtyping import Float
from torch import Tensor

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.types import Denoiser, Latents, Text


def csd(
    z_0: Latents,
    *,
    denoise: Denoiser,
    unguided: Denoiser,
    text: Text,
    negative: Float[Tensor, "1 tokens features"],
    noise: Latents,
    times: Times,
    schedule: NoiseSchedule,
    progress: float,
    negative_weight: tuple[float, float] = (0.0, 0.0),
) -> Latents:
    """ε_φ(z_t, t, y) − (1 − ω) ε_φ(z_t, t, ∅) − ω ε_φ(z_t, t, y_neg) before its weight w(t).

    The score of the prior's implicit classifier, without guidance. ω moves linearly between the ends of
    `negative_weight`. A prediction of weight 0 is not computed.
    """
    z_t, t = schedule.noised(z_0, noise, times.t), times.t
    start, end = negative_weight
    omega = start + (end - start) * progress
    residual = unguided(z_t, t, text)
    if omega != 1:
        residual = residual - (1 - omega) * denoise(z_t, t, None)
    if omega != 0:
        residual = residual - omega * unguided(z_t, t, negative.expand_as(text))
    return residual
