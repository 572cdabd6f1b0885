"""Weights over time: what an objective's residual is multiplied by to become the gradient on z_0."""

from collections.abc import Callable

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times, TimesError

TimeWeight = Callable[[NoiseSchedule, Times], float]


def one(schedule: NoiseSchedule, times: Times) -> float:
    """1 at all times: best on the embedded world, where other weights let large t rule Adam's second moment."""
    return 1.0


def sigma_over_alpha(schedule: NoiseSchedule, times: Times) -> float:
    """σ_t/α_t, of LucidDreamer and of the paper's released code."""
    return float(schedule.k[times.t])


def b_t(schedule: NoiseSchedule, times: Times) -> float:
    """b(t) = 1 / (α_{s_m} (k_t − k_{s_m}))², as defined after Eq. 8 with w(t) = 1; TimesError without a segment."""
    if times.t == times.s_m:
        raise TimesError(
            f"t and s_m are both {times.t}, and b(t) divides by their distance: choose another time weight for an "
            "objective that draws t alone, or let it draw from segments"
        )
    return float(schedule.alpha[times.s_m] * (schedule.k[times.t] - schedule.k[times.s_m])) ** -2


def one_minus_alpha_bar(schedule: NoiseSchedule, times: Times) -> float:
    """1 − ᾱ_t = σ_t², of DreamFusion's SDS."""
    return float(schedule.sigma[times.t] ** 2)


WEIGHTS: dict[str, TimeWeight] = {
    "one": one,
    "sigma_over_alpha": sigma_over_alpha,
    "b_t": b_t,
    "one_minus_alpha_bar": one_minus_alpha_bar,
}
