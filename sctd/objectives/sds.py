"""Score Distillation Sampling, SDS (DreamFusion), which SegmentDreamer's Eq. 7–9 reformulate as SCTD."""

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.types import Denoiser, Latents, Text


def sds(
    z_0: Latents, *, denoise: Denoiser, text: Text, noise: Latents, times: Times, schedule: NoiseSchedule
) -> Latents:
    """ε̂_φ(z_t, t, y) − ε before its weight w(t), 1 − ᾱ_t in DreamFusion; `noise` is redrawn every iteration."""
    return denoise(schedule.noised(z_0, noise, times.t), times.t, text) - noise
