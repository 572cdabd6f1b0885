"""Guided Consistency Sampling, GCS (Connect3D): compact consistency, conditional guidance and pixel constraint."""

from collections.abc import Callable

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.solver import jump
from sctd.diffusion.times import Times
from sctd.types import Denoiser, Images, Latents, ResidualPair, Text


def gcs(
    z_0: Latents,
    *,
    denoise: Denoiser,
    text: Text,
    noise: Latents,
    times: Times,
    schedule: NoiseSchedule,
    decode: Callable[[Latents], Images] | None = None,
    compact_consistency: float = 1.0,
    conditional_guidance: float = 0.5,
    pixel_constraint: float = 0.5,
) -> Latents | ResidualPair:
    """The gradients of the three losses on z_0 and, if there is a decoder, on the rendered images.

    With e = s_m < s < t and F(z, ·) the predicted x̂_0, and a stop-gradient on the second term of each difference:

        L_CC = ‖Φ(z̃_t, t, e, ∅) − Φ(ẑ_s, s, e, ∅)‖²    L_CG = ‖F(z_e, ∅) − F(ẑ_e, y)‖²
        L_CP = ‖x − (x + Dec F(ẑ_e, y) − Dec F(z_e, ∅))‖²

    Six predictions per sample, two of them guided. L_CP bypasses the encoder.
    """
    t, s, e = times
    z_e = schedule.noised(z_0, noise, e)
    eps_e = denoise(z_e, e, None)
    z_s = jump(schedule, z_e, eps_e, e, s)
    z_t = jump(schedule, z_s, denoise(z_s, s, None), s, t)  # z̃_t

    eps_t = denoise(z_t, t, text)
    from_t = jump(schedule, z_t, denoise(z_t, t, None), t, e)
    z_s = jump(schedule, z_t, eps_t, t, s)  # ẑ_s
    from_s = jump(schedule, z_s, denoise(z_s, s, None), s, e)
    z_e_hat = jump(schedule, z_t, eps_t, t, e)  # ẑ_e

    x_null = schedule.clean(z_e, eps_e, e)
    x_text = schedule.clean(z_e_hat, denoise(z_e_hat, e, text), e)
    residual = 2 * compact_consistency * schedule.alpha[e] * (from_t - from_s)
    residual = residual + 2 * conditional_guidance * (x_null - x_text)
    if decode is None or pixel_constraint == 0:
        return residual
    return ResidualPair(residual, 2 * pixel_constraint * (decode(x_null) - decode(x_text)))
