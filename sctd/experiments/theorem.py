"""SegmentDreamer, Theorem 1, as an experiment with exact flows: sup ‖z_0 − z_data‖ = O(Δt) (s_{m+1} − s_m).

`python -m sctd.experiments.theorem` prints the tables of docs/testbed.md. Data are N(μ, spread² I), so the probability
flow has a closed form and the remaining distance is the solver's error. Two kinds of assets are measured:

- *distilled along a data trajectory* (`trajectory_error`), the case of the theorem: z_t is exactly on the trajectory of
  a data point z_data, the target is the solver's result from z_t at s_m, and the asset has converged when
  α_{s_m} z_0 + σ_{s_m} ε* equals the target;
- *distilled along its own inversion* (`inversion_error`), as in training: z̃_t is the inversion of the asset's z_{s_m}
  with the empty prompt. The distance is measured to the asset that exact flows give, which is no data point either.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.segments import equal
from sctd.diffusion.solver import jump
from sctd.errors import SctdError
from sctd.experiments.testbed import STABLE_DIFFUSION
from sctd.types import Latents

SCHEDULE = NoiseSchedule.from_config(STABLE_DIFFUSION)
LOW, HIGH = 20, 980  # range of t; its 960 steps are divisible into many equal segments
STEPS = (3, 5, 10, 15)
SEGMENTS = (1, 2, 4, 8, 16, 32)
LENGTHS = (30, 60, 120, 240)
STARTS = (20, 260, 500, 740)


@dataclass(frozen=True)
class GaussianData:
    """Data N(mean, spread² I), with the exact denoiser."""

    mean: float
    spread: float

    def noise(self, z_t: Latents, t: int) -> Latents:
        """ε = −σ_t ∇ log p_t(z_t)."""
        return SCHEDULE.sigma[t] * (z_t - SCHEDULE.alpha[t] * self.mean) / self.deviation(t) ** 2

    def deviation(self, t: int) -> Float[Tensor, ""]:
        """Standard deviation of each feature of z_t."""
        return (SCHEDULE.alpha[t] ** 2 * self.spread**2 + SCHEDULE.sigma[t] ** 2).sqrt()


Flow = Callable[[GaussianData, Latents, int, int], Latents]  # (data, z_t, t, s) → z_s, exact or by a solver


def exact_flow(data: GaussianData, z_t: Latents, t: int, s: int) -> Latents:
    """The exact flow, along which (z − α μ)/deviation is constant."""
    away = (z_t - SCHEDULE.alpha[t] * data.mean) / data.deviation(t)
    return SCHEDULE.alpha[s] * data.mean + data.deviation(s) * away


def one_jump(data: GaussianData, z_t: Latents, t: int, s: int) -> Latents:
    """G(z_t, t, s) of Eq. 5 as in the objectives: Δt is the whole interval."""
    return jump(SCHEDULE, z_t, data.noise(z_t, t), t, s)


def steps_of(length: int) -> Flow:
    """The first-order solver with Δt = `length`. Raises SctdError if that does not divide the interval."""

    def flow(data: GaussianData, z_t: Latents, t: int, s: int) -> Latents:
        if (t - s) % length:
            raise SctdError(f"steps of {length} do not divide {t} to {s}: use a divisor of {abs(t - s)}")
        stride = length if t < s else -length
        for a in range(t, s, stride):
            z_t = one_jump(data, z_t, a, a + stride)
        return z_t

    return flow


def trajectory_error(flow: Flow, start: int, end: int, *, spread: float = 1.0) -> float:
    """Largest |z_0 − z_data| of an asset distilled along a data trajectory from `end` to `start` = s_m with `flow`.

    Over trajectories within 3 deviations of the mean, in units of `z_0`; the data have the deviation `spread`.
    """
    data = GaussianData(mean=0.5, spread=spread)
    out = torch.linspace(-3, 3, 13, dtype=torch.float64).view(-1, 1, 1, 1)
    z_start = SCHEDULE.alpha[start] * data.mean + data.deviation(start) * out
    target = flow(data, exact_flow(data, z_start, start, end), end, start)
    # At convergence α z_0 + σ ε* = target, and α z_data + σ ε* = z_start with the same ε*.
    return float((target - z_start).abs().max() / SCHEDULE.alpha[start])


def largest_trajectory_error(flow: Flow, segments: int, *, spread: float = 1.0) -> float:
    """The supremum over all segments, each from its end to its start."""
    edges = equal(segments, HIGH, start=LOW)
    return max(trajectory_error(flow, a, b, spread=spread) for a, b in pairwise(edges))


TEXT, NULL = GaussianData(mean=1.0, spread=0.5), GaussianData(mean=0.0, spread=1.0)


def inversion_residual(
    flow: Flow, z_0: Latents, noise: Latents, start: int, end: int, outer_weight: float = 8.5
) -> Latents:
    """SCTD's residual at t = `end`, s half-way and s_m = `start`; with `one_jump` it equals `objectives.sctd`."""
    z_sm = SCHEDULE.noised(z_0, noise, start)
    z_t, s = flow(NULL, z_sm, start, end), (start + end) // 2
    z_s = flow(TEXT, z_t, end, s)
    self_consistency = z_sm - flow(NULL, z_s, s, start)
    cross_consistency = z_sm - flow(TEXT, z_t, end, start)
    return self_consistency + outer_weight * cross_consistency


def inversion_asset(flow: Flow, start: int, end: int) -> float:
    """The fixed point of descent along `inversion_residual`, with ε* = 0.

    Flow, solver and residual are affine, so two values of the residual give its zero.
    """
    zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1, 1)
    at_zero, at_one = (float(inversion_residual(flow, z_0, zero, start, end)) for z_0 in (zero, one))
    return at_zero / (at_zero - at_one)


def inversion_error(flow: Flow, start: int, end: int) -> float:
    """|z_0 − z_0*| of an asset distilled along its own inversion, where z_0* is the one with exact flows."""
    return abs(inversion_asset(flow, start, end) - inversion_asset(exact_flow, start, end))


def slope(across: Iterable[int] | Iterable[float], errors: Iterable[float]) -> float:
    """The order of convergence: slope of the least-squares line through the logarithms."""
    x, y = (torch.tensor(list(values), dtype=torch.float64).log() for values in (across, errors))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def _trajectories() -> Iterator[str]:
    errors = {n: [largest_trajectory_error(steps_of(step), n) for step in STEPS] for n in SEGMENTS}
    jumps = [largest_trajectory_error(one_jump, n) for n in SEGMENTS]
    lengths = [(HIGH - LOW) // n for n in SEGMENTS]
    yield _row("segments", "length", *(f"Δt = {step}" for step in STEPS), "slope in Δt", "one jump, Δt = length")
    yield _row(*["---"] * (len(STEPS) + 4))
    for n, length, jump_error in zip(SEGMENTS, lengths, jumps, strict=True):
        order = slope(STEPS, errors[n])
        yield _row(n, length, *(f"{error:.2g}" for error in errors[n]), f"{order:.2f}", f"{jump_error:.2g}")
    columns = [*zip(*errors.values(), strict=True), jumps]
    fits = [f"{slope(lengths, column):.2f}" for column in columns]
    yield _row("", "slope in length", *fits[:-1], "", fits[-1])


def _lengths() -> Iterator[str]:
    yield _row("segment start", "data deviation", *(f"length {length}" for length in LENGTHS), "slope in length")
    yield _row(*["---"] * (len(LENGTHS) + 3))
    for start in STARTS:
        for spread in (1.0, 0.35):
            errors = [trajectory_error(steps_of(15), start, start + length, spread=spread) for length in LENGTHS]
            yield _row(start, spread, *(f"{error:.2g}" for error in errors), f"{slope(LENGTHS, errors):.2f}")


def bounds(step: int = 3) -> dict[str, tuple[str, int, float]]:
    """Table 1 of the paper: objective → (bound, longest interval in it, error with Δt = `step`)."""
    flow = steps_of(step)
    return {
        "`cds`": ("O(Δt) T", HIGH - LOW, trajectory_error(flow, LOW, HIGH)),
        "`gcs`, t = 500": ("O(Δt) t", 500 - LOW, trajectory_error(flow, LOW, 500)),
        "`sctd`, N_s = 5": ("O(Δt) (s_{m+1} − s_m)", (HIGH - LOW) // 5, largest_trajectory_error(flow, 5)),
    }


def _bounds() -> Iterator[str]:
    yield _row("objective", "bound", "length", "error, Δt = 3", "relative to SCTD", "bound relative to SCTD")
    yield _row(*["---"] * 6)
    table = bounds()
    *_, (_, sctd_length, sctd_error) = table.values()
    for name, (bound, length, error) in table.items():
        yield _row(name, bound, length, f"{error:.2g}", f"{error / sctd_error:.1f} ×", f"{length / sctd_length:.1f} ×")


def _inversions() -> Iterator[str]:
    yield _row(
        "segment start", *(f"length {n}, Δt = 15" for n in LENGTHS), "slope in length", "slope in Δt, length 240",
        "slope in length, one jump", "z_0* with exact flows",
    )  # fmt: skip
    yield _row(*["---"] * (len(LENGTHS) + 5))
    for start in STARTS:
        ends = [start + length for length in LENGTHS]
        errors = [inversion_error(steps_of(15), start, end) for end in ends]
        across = slope(STEPS, [inversion_error(steps_of(step), start, start + 240) for step in STEPS])
        jump_order = slope(LENGTHS, [inversion_error(one_jump, start, end) for end in ends])
        yield _row(
            start, *(f"{error:.2g}" for error in errors), f"{slope(LENGTHS, errors):.2f}", f"{across:.2f}",
            f"{jump_order:.2f}", f"{inversion_asset(exact_flow, start, start + 240):.2f}",
        )  # fmt: skip


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def tables() -> dict[str, str]:
    """The tables of docs/testbed.md in Markdown, by name."""
    rows = {"trajectory": _trajectories, "length": _lengths, "bounds": _bounds, "inversion": _inversions}
    return {name: "\n".join(of()) + "\n" for name, of in rows.items()}


if __name__ == "__main__":
    print(*tables().values(), sep="\n", end="")
