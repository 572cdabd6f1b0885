"""SegmentDreamer, Eq. 5 (consistency function G, solver Φ) and Eq. 11 (inversion); DPM-Solver++(2M) for sampling."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.types import Denoiser, Latents, Text


def jump(schedule: NoiseSchedule, z_t: Latents, eps: Latents, t: int, s: int) -> Latents:
    """Φ(z_t, t, s) = G(z_t, t, s): one step along the probability flow from t to s, in either direction.

    Eq. 5 is the exact solution of the flow with ε held fixed from t to s,

        G(z_t, t, s, y) = (α_s/α_t) z_t − α_s ε_φ(z_t, t, y) ∫_{λ_t}^{λ_s} e^{−λ} dλ ,

    and since e^{−λ} = k = σ/α, the integral is k_t − k_s. The same expression is one DDIM step,
    α_s (z_t − σ_t ε)/α_t + σ_s ε, so the solver Φ and the consistency function G are the same map. In the variable z/α
    it is an Euler step: z_s/α_s = z_t/α_t + (k_s − k_t) ε.
    """
    alpha, k = schedule.alpha, schedule.k
    return (alpha[s] / alpha[t]) * z_t - alpha[s] * (k[t] - k[s]) * eps


def joined(
    schedule: NoiseSchedule, first: Latents, second: Latents, path: tuple[int, int, int]
) -> Float[Tensor, "batch channels height width"]:
    """The noise whose jump a → c equals the jumps a → b with `first` and b → c with `second`; path = (a, b, c).

    In z/α, jumps are displacements (k_b − k_a) ε that add up, so this is the mean of the noises weighted by the step
    lengths in k. The distance between two points that started from the same latent is then the difference of their
    noises times k_c − k_a, which avoids subtracting nearly equal latents.
    """
    a, b, c = path
    k = schedule.k
    return ((k[b] - k[a]) * first + (k[c] - k[b]) * second) / (k[c] - k[a])


def inversion_noise(
    schedule: NoiseSchedule, denoise: Denoiser, z_sm: Latents, times: Times, *, threshold: int
) -> Float[Tensor, "batch channels height width"]:
    """The noise with which one jump s_m → t is the inversion of Eq. 11: two steps through s if t > t_τ, else one.

    `threshold` is t_τ, compared with the absolute time t. Costs two predictions per sample, or one, all with the empty
    prompt.
    """
    t, s, s_m = times
    eps_sm = denoise(z_sm, s_m, None)
    if t <= threshold:
        return eps_sm
    z_s = jump(schedule, z_sm, eps_sm, s_m, s)
    return joined(schedule, eps_sm, denoise(z_s, s, None), (s_m, s, t))


def invert(schedule: NoiseSchedule, denoise: Denoiser, z_sm: Latents, times: Times, *, threshold: int) -> Latents:
    """z̃_t of Eq. 11: Φ(Φ(z_{s_m}, s_m, s, ∅), s, t, ∅) if t > t_τ, else Φ(z_{s_m}, s_m, t, ∅)."""
    eps = inversion_noise(schedule, denoise, z_sm, times, threshold=threshold)
    return jump(schedule, z_sm, eps, times.s_m, times.t)


def second_order(
    schedule: NoiseSchedule, denoise: Denoiser, z_t: Latents, times: Sequence[int], text: Text | None
) -> Latents:
    """z at the last of `times`, from z at the first: DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, Alg. 2).

    With the data prediction x̂ held fixed from t to s the flow's exact solution is the `jump` again, written

        z_s = (σ_s/σ_t) z_t + α_s (1 − k_s/k_t) x̂ ;

    here x̂ is extrapolated in λ = −log k to the middle of the step, from this prediction and the previous one. The first
    step has no previous prediction and is of first order. One prediction per step.
    """
    alpha, sigma, k = schedule.alpha, schedule.sigma, schedule.k
    log_k = k.log()
    before: tuple[int, Latents] | None = None
    for t, s in pairwise(times):
        x_t = x = schedule.clean(z_t, denoise(z_t, t, text), t)
        if before is not None:
            r, x_r = before
            x = x_t + (log_k[s] - log_k[t]) / (log_k[t] - log_k[r]) / 2 * (x_t - x_r)
        z_t = (sigma[s] / sigma[t]) * z_t + alpha[s] * (1 - k[s] / k[t]) * x
        before = t, x_t
    return z_t
