"""Consistency Distillation Sampling, CDS (Consistent3D)."""

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.solver import jump
from sctd.diffusion.times import Times
from sctd.types import Denoiser, Latents, Text


def cds(
    z_0: Latents, *, denoise: Denoiser, text: Text, noise: Latents, times: Times, schedule: NoiseSchedule
) -> Latents:
    """ε̂_φ(z_t, t, y) − ε̂_φ(ẑ_s, s, y), where ẑ_s is one guided solver step from z_t; both predictions use the text.

    The sign is that of the authors' code. The stop-gradient of their equation taken literally flips it and diverges
    (docs/objectives/cds.md). `noise` is one fixed ε, shared by all views.
    """
    t, s, _ = times
    z_t = schedule.noised(z_0, noise, t)
    eps_t = denoise(z_t, t, text)
    z_s = jump(schedule, z_t, eps_t, t, s)
    return eps_t - denoise(z_s, s, text)
