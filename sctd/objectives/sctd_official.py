"""SCTD as in SegmentDreamer's released code, which differs from Eq. 10 (docs/objectives/sctd-official.md)."""

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.objectives.sctd import sctd
from sctd.types import Denoiser, Latents, Text


def sctd_official(
    z_0: Latents,
    *,
    denoise: Denoiser,
    text: Text,
    noise: Latents,
    times: Times,
    schedule: NoiseSchedule,
    outer_weight: float = 8.5,
    threshold: int = 150,
) -> Latents:
    """(G(ẑ_s, s, ∅) − z_sm) + (w + 1)(z_sm − G(z̃_t, t, y)), before the weight λ σ_t/α_t.

    Eq. 10 with its first term flipped, which pushes away from self-consistency, and two inversion steps if t ≥ t_τ.
    The other differences (segments of [20, 980], both bounds of t falling) are settings of its recipe.
    """
    return sctd(
        z_0, denoise=denoise, text=text, noise=noise, times=times, schedule=schedule,
        outer_weight=outer_weight, threshold=threshold - 1, self_sign=-1,
    )  # fmt: skip
