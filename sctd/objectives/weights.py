"""Time weights w(t), which scale a residual to the gradient on z_0; b(t) is SegmentDreamer's (Eq. 8)."""

from collections.abc import Callable

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times, TimesError

TimeWeight = Callable[[NoiseSchedule, Times], float]


def one(schedule: NoiseSchedule, times: Times) -> float:
    """1 at all times: best in the synthetic world, where with other weights large t dominate Adam's second moment."""
    return 1.0


def sigma_over_alpha(schedule: NoiseSchedule, times: Times) -> float:
    """σ_t/α_t, as in LucidDreamer and the paper's released code."""
    return float(schedule.k[times.t])


def b_t(schedule: NoiseSchedule, times: Times) -> float:
    """b(t) = 1 / (α_{s_m} (k_t − k_{s_m}))², as defined after Eq. 8 with w(t) = 1. Raises TimesError if t = s_m."""
    if times.t == times.s_m:
        raise TimesError(
            f"t and s_m are both {times.t}, but b(t) divides by their distance: choose another time weight, or a "
            "times.rule that draws t and s_m apart"
        )
    return float(schedule.alpha[times.s_m] * (schedule.k[times.t] - schedule.k[times.s_m])) ** -2


def one_minus_alpha_bar(schedule: NoiseSchedule, times: Times) -> float:
    """1 − ᾱ_t = σ_t², as in DreamFusion's SDS."""
    return float(schedule.sigma[times.t] ** 2)


WEIGHTS: dict[str, TimeWeight] = {
    "one": one,
    "sigma_over_alpha": sigma_over_alpha,
    "b_t": b_t,
    "one_minus_alpha_bar": one_minus_alpha_bar,
}
