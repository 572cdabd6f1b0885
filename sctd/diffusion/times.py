"""The times t > s > s_m of one iteration: annealed window and draw, for SegmentDreamer (Eq. 10) and each baseline."""

from typing import NamedTuple

import torch

from sctd.diffusion.segments import start_of
from sctd.errors import SctdError


class TimesError(SctdError):
    """Raised for settings from which no times can be drawn."""


class Times(NamedTuple):
    """t, the noisiest; s, in between; s_m ≤ s, the start of the segment. Shared by all cameras of a batch."""

    t: int
    s: int
    s_m: int


class Window(NamedTuple):
    """The range of t: lower ≤ t ≤ upper."""

    lower: int
    upper: int


def annealed_window(
    iteration: int,
    *,
    lower: int = 20,
    upper: int = 500,
    warm_up: int = 480,
    warm_up_iterations: int = 1500,
    shift_lower_bound: bool = False,
) -> Window:
    """The paper's U(20, 500 + t_warm), t_warm falling linearly from 480 to 0; iterations count from 1.

    The released code also adds t_warm to the lower bound (`shift_lower_bound`). The paper's window did slightly better
    on exact scores, see docs/objectives/sctd.md. Raises TimesError if the window is empty.
    """
    if not 0 <= lower < upper or warm_up < 0:
        raise TimesError(
            f"t would be drawn from {lower} to {upper} with a warm-up of {warm_up}: "
            "expected 0 ≤ lower < upper and a warm-up of at least 0"
        )
    # Integer arithmetic, so that 500 + 480/2 is 740 on every machine.
    t_warm = warm_up * max(0, warm_up_iterations - iteration) // max(1, warm_up_iterations)
    return Window(lower + t_warm if shift_lower_bound else lower, upper + t_warm)


def draw(
    window: Window, edges: tuple[int, ...], generator: torch.Generator, *, min_interval: int = 80, margin: int = 10
) -> Times:
    """t ~ U(window); s_m = start of its segment; t ← max(t, s_m + min_interval); s ~ U{s_m + margin … t − margin − 1}.

    The paper does not state the minimum interval and the margins; they are those of its released code. With five equal
    segments the minimum interval applies to almost every second draw. Raises TimesError if it leaves no value for s, or
    extends past the last edge.
    """
    if min_interval < 2 * margin + 1:
        raise TimesError(
            f"a minimum interval of {min_interval} has no time {margin} steps from both ends: "
            f"use at least {2 * margin + 1}"
        )
    if edges[-2] + min_interval >= edges[-1]:
        raise TimesError(
            f"the last segment, {edges[-2]} to {edges[-1]}, must be longer than the minimum interval of "
            f"{min_interval}: use fewer segments or a smaller minimum interval"
        )
    t = _uniform(window.lower, window.upper, generator)
    s_m = start_of(edges, t)
    t = max(t, s_m + min_interval)
    return Times(t=t, s=_uniform(s_m + margin, t - margin - 1, generator), s_m=s_m)


def interval_at(iteration: int, *, interval: int, extra: int, warm_up_iterations: int) -> int:
    """Δ = interval + ⌈extra · r⌉, where r falls linearly from 1 to 0 during warm-up (LucidDreamer, Connect3D)."""
    left = max(0, warm_up_iterations - iteration)
    return interval - (-extra * left // max(1, warm_up_iterations))


def draw_interval(window: Window, interval: int, generator: torch.Generator) -> Times:
    """ISM: t ~ U(window), s = max(t − Δ, 0), and s_m = 0, where the inversion to s starts."""
    t = max(1, _uniform(window.lower, window.upper, generator))
    return Times(t=t, s=max(t - interval, 0), s_m=0)


def draw_two_intervals(window: Window, interval: int, generator: torch.Generator, *, margin: int = 10) -> Times:
    """GCS: t ~ U(window) but at least Δ + 1, s = t − Δ, and e = s_m ~ U[t − 2Δ, s − margin), at least 0.

    Raises TimesError if the interval is not longer than the margin.
    """
    if interval <= margin:
        raise TimesError(
            f"an interval of {interval} has no time {margin} steps below its end: use at least {margin + 1}"
        )
    t = max(_uniform(window.lower, window.upper, generator), interval + 1)
    s = t - interval
    return Times(t=t, s=s, s_m=_uniform(max(s - interval, 0), max(s - margin, 1) - 1, generator))


def draw_annealed(
    progress: float, generator: torch.Generator, *, first: int = 700, last: int = 100, gap: tuple[int, int], max_t: int
) -> Times:
    """CDS: s falls from `first` to `last` as √progress, and t = s + U{gap}, at most `max_t`; s_m repeats s.

    If `max_t` leaves less than the smallest gap, s is lowered.
    """
    s = min(round(first + (last - first) * progress**0.5), max_t - gap[0])
    return Times(t=min(s + _uniform(*gap, generator), max_t), s=s, s_m=s)


def draw_single(window: Window, generator: torch.Generator) -> Times:
    """SDS: t ~ U(window); s and s_m repeat it."""
    t = _uniform(window.lower, window.upper, generator)
    return Times(t, t, t)


def draw_linear(progress: float, *, first: int = 980, last: int = 20) -> Times:
    """SDI: t falls linearly from `first` to `last`; s and s_m repeat it."""
    t = max(1, round(first + (last - first) * progress))
    return Times(t, t, t)


def _uniform(lower: int, upper: int, generator: torch.Generator) -> int:
    """A uniform integer, lower ≤ n ≤ upper."""
    return int(torch.randint(lower, upper + 1, (), generator=generator, device=generator.device))
