"""Noise-Free Score Distillation, NFSD (Katzir et al. 2024, arXiv:2310.17590)."""

from jaxtyping import Float
from torch import Tensor

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.types import Denoiser, Latents, Text

SMALL_T = 200
"""Below it the prediction is taken to contain no noise that δ_D would have to be separated from."""


def nfsd(
    z_0: Latents,
    *,
    denoise: Denoiser,
    unguided: Denoiser,
    text: Text,
    negative: Float[Tensor, "1 tokens features"],
    noise: Latents,
    times: Times,
    schedule: NoiseSchedule,
) -> Latents:
    """δ_D + s δ_C before its weight w(t), with δ_C = ε_y − ε_∅; δ_D = ε_∅ for t < 200, else ε_∅ − ε_neg.

    The guided prediction is ε̂ = ε_∅ + s δ_C, so this is ε̂, from t = 200 on without ε_neg: SDS with the prediction for
    a negative prompt in place of its noise. The guidance's own ∅ should be the empty prompt.
    """
    z_t, t = schedule.noised(z_0, noise, times.t), times.t
    guided = denoise(z_t, t, text)
    return guided if t < SMALL_T else guided - unguided(z_t, t, negative.expand_as(text))
