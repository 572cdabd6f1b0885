"""SegmentDreamer, Eq. 10: Segmented Consistency Trajectory Distillation, SCTD (the inversion is Eq. 11)."""

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.solver import inversion_noise, joined, jump
from sctd.diffusion.times import Times
from sctd.types import Denoiser, Latents, Text


def sctd(
    z_0: Latents,
    *,
    denoise: Denoiser,
    text: Text,
    noise: Latents,
    times: Times,
    schedule: NoiseSchedule,
    outer_weight: float = 8.5,
    threshold: int = 150,
    self_sign: int = 1,
    approximation: bool = True,
) -> Latents:
    """Eq. 10 before its weight b(t): no U-Net Jacobian.

    `denoise` is the guided prediction (CFG inside) and `noise` the ε* that is fixed for the whole training.
    `outer_weight` is the weight of the second term relative to the first, by default the scale 7.5 + 1 as in the
    released code. `approximation` replaces G(z_t, t, ∅) by z_sm (Sec. 4.4); without it G is computed, at one more
    prediction per sample. `self_sign` = −1 flips the first term, as in the released code. Choices, evidence and
    deviations: docs/objectives/sctd.md.
    """
    t, s, s_m = times
    z_sm = schedule.noised(z_0, noise, s_m)
    eps_inversion = inversion_noise(schedule, denoise, z_sm, times, threshold=threshold)
    z_t = jump(schedule, z_sm, eps_inversion, s_m, t)  # z̃_t, Eq. 11
    eps_t = denoise(z_t, t, text)
    z_s = jump(schedule, z_t, eps_t, t, s)  # ẑ_s = Φ(z̃_t, t, s, y)
    eps_return = joined(schedule, eps_t, denoise(z_s, s, None), (t, s, s_m))
    eps_null = eps_inversion if approximation else denoise(z_t, t, None)

    # G(z̃_t, t, ∅) or z_sm, G(ẑ_s, s, ∅) and G(z̃_t, t, y) are each one jump from z̃_t to s_m, so their differences are
    # proportional to those of their noises. Subtracting noises, not nearly equal latents, has less rounding error.
    length = schedule.alpha[s_m] * (schedule.k[t] - schedule.k[s_m])
    self_consistency = length * (eps_return - eps_null)  # G(z̃_t, t, ∅) − G(ẑ_s, s, ∅)
    cross_consistency = length * (eps_t - eps_null)  # G(z̃_t, t, ∅) − G(z̃_t, t, y)
    return self_sign * self_consistency + outer_weight * cross_consistency
