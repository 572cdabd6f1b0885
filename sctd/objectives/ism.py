"""Interval Score Matching, ISM (LucidDreamer)."""

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.solver import jump
from sctd.diffusion.times import Times
from sctd.types import Denoiser, Latents, Text


def ism(
    z_0: Latents,
    *,
    denoise: Denoiser,
    text: Text,
    noise: Latents,
    times: Times,
    schedule: NoiseSchedule,
    inversion_step: int = 200,
) -> Latents:
    """ε̂_φ(z_t, t, y) − ε_φ(z_s, s, ∅) before its weight, with z_s and z_t by inversion with ∅ from the low noise s_m.

    The inversion goes from s_m to s in steps of `inversion_step`, then to t in one step: ⌈(s − s_m)/step⌉ + 3
    predictions per sample.
    """
    t, s, s_m = times
    z_s = schedule.noised(z_0, noise, s_m)
    for a in range(s_m, s, inversion_step):
        z_s = jump(schedule, z_s, denoise(z_s, a, None), a, min(a + inversion_step, s))
    eps_s = denoise(z_s, s, None)
    z_t = jump(schedule, z_s, eps_s, s, t)
    return denoise(z_t, t, text) - eps_s
