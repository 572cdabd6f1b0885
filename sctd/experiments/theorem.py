"""Theorem 1 as an experiment: sup ‖z_0 − z_data‖ = O(Δt) (s_{m+1} − s_m), where flow and score are known exactly.

`python -m sctd.experiments.theorem` prints the tables of docs/testbed.md. Data are N(μ, spread² I), so the probability flow has a
closed form, and whatever distance is left is the solver's. Two assets are measured:

- *taught by the data's own trajectory* (`taught_error`), which is what the theorem speaks of: z_t lies exactly on the
  trajectory of a datum z_data, the target is what the solver makes of z_t at s_m, and the asset has converged when
  α_{s_m} z_0 + σ_{s_m} ε* is that target;
- *closing its own loop* (`loop_error`), as in training: z̃_t is the inversion of the asset's own z_{s_m} by the empty
  prompt. Its distance is that to the asset which exact flows would make, for with exact flows, too, it is no datum.
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
from sctd.experiments.testbed import STABLE_DIFFUSION
from sctd.types import Latents

SCHEDULE = NoiseSchedule.from_config(STABLE_DIFFUSION)
LOW, HIGH = 20, 980  # t is drawn between; 960 steps divide into many equal segments
STEPS = (3, 5, 10, 15)
SEGMENTS = (1, 2, 4, 8, 16, 32)
LENGTHS = (30, 60, 120, 240)
STARTS = (20, 260, 500, 740)


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, spread² I): a denoiser, and its flow."""

    mean: float
    spread: float

    def noise(self, z_t: Latents, t: int) -> Latents:
        """ε = −σ_t ∇ log p_t(z_t)."""
        return SCHEDULE.sigma[t] * (z_t - SCHEDULE.alpha[t] * self.mean) / self.deviation(t) ** 2

    def deviation(self, t: int) -> Float[Tensor, ""]:
        """Of each feature of z_t."""
        return (SCHEDULE.alpha[t] ** 2 * self.spread**2 + SCHEDULE.sigma[t] ** 2).sqrt()


Flow = Callable[[Gaussian, Latents, int, int], Latents]  # (data, z_t, t, s) → z_s, exactly or nearly


def exact_flow(data: Gaussian, z_t: Latents, t: int, s: int) -> Latents:
    """The flow itself: (z − α μ)/deviation stays."""
    away = (z_t - SCHEDULE.alpha[t] * data.mean) / data.deviation(t)
    return SCHEDULE.alpha[s] * data.mean + data.deviation(s) * away


def one_jump(data: Gaussian, z_t: Latents, t: int, s: int) -> Latents:
    """G(z_t, t, s) of Eq. 5, as the objectives take it: Δt is the whole interval."""
    return jump(SCHEDULE, z_t, data.noise(z_t, t), t, s)


def steps_of(length: int) -> Flow:
    """The first-order solver with Δt = `length`; ValueError where that does not divide the way."""

    def way(data: Gaussian, z_t: Latents, t: int, s: int) -> Latents:
        if (t - s) % length:
            raise ValueError(f"steps of {length} do not lead from {t} to {s}: use a divisor of {abs(t - s)}")
        stride = length if t < s else -length
        for a in range(t, s, stride):
            z_t = one_jump(data, z_t, a, a + stride)
        return z_t

    return way


def trajectory_error(way: Flow, start: int, end: int, *, spread: float = 1.0) -> float:
    """Largest |z_0 − z_data| of an asset taught along the segment from `end` to `start` = s_m, by way of `way`.

    Over trajectories within 3 deviations of the mean; in units of `z_0`, whose data have the deviation `spread`.
    """
    data = Gaussian(mean=0.5, spread=spread)
    out = torch.linspace(-3, 3, 13, dtype=torch.float64).view(-1, 1, 1, 1)
    z_start = SCHEDULE.alpha[start] * data.mean + data.deviation(start) * out
    target = way(data, exact_flow(data, z_start, start, end), end, start)
    # Converged: α z_0 + σ ε* = target, while α z_data + σ ε* = z_start with the same ε*.
    return float((target - z_start).abs().max() / SCHEDULE.alpha[start])


def largest_trajectory_error(way: Flow, segments: int, *, spread: float = 1.0) -> float:
    """The supremum over all segments, each of them from its end to its start."""
    edges = equal(segments, HIGH, start=LOW)
    return max(trajectory_error(way, a, b, spread=spread) for a, b in pairwise(edges))


TEXT, NULL = Gaussian(mean=1.0, spread=0.5), Gaussian(mean=0.0, spread=1.0)


def inversion_residual(
    way: Flow, z_0: Latents, noise: Latents, start: int, end: int, outer_weight: float = 8.5
) -> Latents:
    """SCTD's residual at t = `end`, s half-way and s_m = `start`; with `in_one_jump` it is `objectives.sctd`'s."""
    z_sm = SCHEDULE.noised(z_0, noise, start)
    z_t, s = way(NULL, z_sm, start, end), (start + end) // 2
    z_s = way(TEXT, z_t, end, s)
    self_consistency = z_sm - way(NULL, z_s, s, start)
    cross_consistency = z_sm - way(TEXT, z_t, end, start)
    return self_consistency + outer_weight * cross_consistency


def inversion_asset(way: Flow, start: int, end: int) -> float:
    """Where descent along `loop_residual` ends, with ε* = 0.

    Flow and solver are affine here, so is the residual, and two of its values say where it is 0.
    """
    zero, one = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1, 1)
    at_zero, at_one = (float(inversion_residual(way, z_0, zero, start, end)) for z_0 in (zero, one))
    return at_zero / (at_zero - at_one)


def inversion_error(way: Flow, start: int, end: int) -> float:
    """|z_0 − z_0*| of the asset that closes its own loop, z_0* being the one that exact flows make."""
    return abs(inversion_asset(way, start, end) - inversion_asset(exact_flow, start, end))


def slope(across: Iterable[int] | Iterable[float], errors: Iterable[float]) -> float:
    """The order: the slope of a straight line through the logarithms, by least squares."""
    x, y = (torch.tensor(list(values), dtype=torch.float64).log() for values in (across, errors))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


def _taught() -> Iterator[str]:
    errors = {n: [largest_trajectory_error(steps_of(step), n) for step in STEPS] for n in SEGMENTS}
    jumps = [largest_trajectory_error(one_jump, n) for n in SEGMENTS]
    lengths = [(HIGH - LOW) // n for n in SEGMENTS]
    yield _row("segments", "length", *(f"Δt = {step}" for step in STEPS), "slope in Δt", "one jump, Δt = length")
    yield _row(*["---"] * (len(STEPS) + 4))
    for n, length, jumped in zip(SEGMENTS, lengths, jumps, strict=True):
        fitted = slope(STEPS, errors[n])
        yield _row(n, length, *(f"{error:.2g}" for error in errors[n]), f"{fitted:.2f}", f"{jumped:.2g}")
    columns = [*zip(*errors.values(), strict=True), jumps]
    fits = [f"{slope(lengths, column):.2f}" for column in columns]
    yield _row("", "slope in length", *fits[:-1], "", fits[-1])


def _lengths() -> Iterator[str]:
    yield _row("segment begins at", "data's deviation", *(f"length {length}" for length in LENGTHS), "slope in length")
    yield _row(*["---"] * (len(LENGTHS) + 3))
    for start in STARTS:
        for spread in (1.0, 0.35):
            errors = [trajectory_error(steps_of(15), start, start + length, spread=spread) for length in LENGTHS]
            yield _row(start, spread, *(f"{error:.2g}" for error in errors), f"{slope(LENGTHS, errors):.2f}")


def bounds(step: int = 3) -> dict[str, tuple[str, int, float]]:
    """Table 1 of the paper: objective → (bound, longest way in it, error with Δt = `step`)."""
    way = steps_of(step)
    return {
        "`cds`": ("O(Δt) T", HIGH - LOW, trajectory_error(way, LOW, HIGH)),
        "`gcs`, t = 500": ("O(Δt) t", 500 - LOW, trajectory_error(way, LOW, 500)),
        "`sctd`, N_s = 5": ("O(Δt) (s_{m+1} − s_m)", (HIGH - LOW) // 5, largest_trajectory_error(way, 5)),
    }


def _bounds() -> Iterator[str]:
    yield _row("objective", "bound", "length", "error, Δt = 3", "of SCTD's", "of SCTD's by the bound")
    yield _row(*["---"] * 6)
    table = bounds()
    *_, (_, shortest, least) = table.values()
    for name, (bound, length, error) in table.items():
        yield _row(name, bound, length, f"{error:.2g}", f"{error / least:.1f} ×", f"{length / shortest:.1f} ×")


def _loop() -> Iterator[str]:
    yield _row(
        "segment begins at", *(f"length {n}, Δt = 15" for n in LENGTHS), "slope in length", "slope in Δt, length 240",
        "slope in length, one jump", "z_0* by exact flows",
    )  # fmt: skip
    yield _row(*["---"] * (len(LENGTHS) + 5))
    for start in STARTS:
        ends = [start + length for length in LENGTHS]
        errors = [inversion_error(steps_of(15), start, end) for end in ends]
        across = slope(STEPS, [inversion_error(steps_of(step), start, start + 240) for step in STEPS])
        jumped = slope(LENGTHS, [inversion_error(one_jump, start, end) for end in ends])
        yield _row(
            start, *(f"{error:.2g}" for error in errors), f"{slope(LENGTHS, errors):.2f}", f"{across:.2f}",
            f"{jumped:.2f}", f"{inversion_asset(exact_flow, start, start + 240):.2f}",
        )  # fmt: skip


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def tables() -> dict[str, str]:
    """Those of docs/testbed.md, in Markdown, by name."""
    rows = {"taught": _taught, "length": _lengths, "bounds": _bounds, "loop": _loop}
    return {name: "\n".join(of()) + "\n" for name, of in rows.items()}


if __name__ == "__main__":
    print(*tables().values(), sep="\n", end="")
