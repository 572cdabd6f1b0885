"""Score Distillation via Inversion, SDI (Lukoianov et al. 2024, arXiv:2405.15891)."""

from itertools import pairwise

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.types import Denoiser, Latents, Text


def sdi(
    z_0: Latents,
    *,
    denoise: Denoiser,
    text: Text,
    noise: Latents,
    times: Times,
    schedule: NoiseSchedule,
    inversion_step: int = 200,
    inversion_guidance: float = -1.0,
) -> Latents:
    """ε̂_φ(z_t, t, y) − κ before its weight w(t), where κ is the noise that the inversion of z_0 to t finds.

    SDS with κ in place of a random ε. The inversion starts at the least noisy index with ε, goes to t in steps of
    `inversion_step` and predicts with ε_∅ + ρ (ε̂ − ε_∅), where ρ is `inversion_guidance`: −1 mirrors the guidance. In
    z/α its steps are displacements (k_b − k_a) ε_a, so κ is the mean of ε and the predictions weighted by their lengths
    in k. ⌈t/step⌉ + 1 guided predictions per sample, and ⌈t/step⌉ with the empty prompt.
    """
    k, t = schedule.k, times.t
    shift = k[0] * noise  # z_a/α_a − z_0
    for a, b in pairwise([*range(0, t, inversion_step), t]):
        z_a = schedule.alpha[a] * (z_0 + shift)
        eps_null = denoise(z_a, a, None)
        shift = shift + (k[b] - k[a]) * (eps_null + inversion_guidance * (denoise(z_a, a, text) - eps_null))
    kappa = shift / k[t]
    return denoise(schedule.noised(z_0, kappa, t), t, text) - kappa
