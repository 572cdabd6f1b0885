"""Regression verdict: compares a run with a pinned baseline, paired by prompt. Values in, a verdict out.

FAIL: a difference's interval is below 0 and its mean worse than δ; its mean is worse than 3 δ (except for costs, which
other load on the machine can raise); more jobs failed; or the runs are not comparable. PASS: every interval ends within
δ (non-inferiority). Otherwise INCONCLUSIVE. The loss does not measure quality, so its gate is two-sided: a changed
gradient shows in the loss long before it shows in an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.jackknife import Estimate, frechet_difference
from evaluation.kid import kernel_difference
from evaluation.references import Reference
from evaluation.statistics import Mean, cusum, holm, is_non_inferior, mean_over_prompts, sign_flip_p, t_p, with_interval
from pipeline.errors import shortened
from pipeline.nightly.gates import Gate, Gates
from pipeline.plan.metrics import GATED, PERCENT
from pipeline.weights.networks import DISTANCES

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"
METRIC_CHANGED = "the metric changed"
OUTRIGHT = 3  # a mean worse than this many δ fails regardless of the interval
DRIFT_RUNS, DRIFT_SLACK, DRIFT_LIMIT = 14, 0.5, 4.0  # of the CUSUM, in units of max(δ, standard error) per run
FROM_FEATURES = {distance.metric: (distance.metric, "frechet") for distance in DISTANCES.values()} | {
    distance.kernel: (distance.metric, "kernel") for distance in DISTANCES.values() if distance.kernel
}


@dataclass(frozen=True)
class JobResult:
    """The outcome of a job: its metrics (None: it failed with `error`), and the features of its views by distance."""

    method: str
    prompt: str
    seed: int
    values: Mapping[str, float] | None
    error: str = ""
    features: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.method, self.prompt, self.seed


@dataclass(frozen=True)
class NightlyRun:
    """What a comparison needs of a run. `keys` must be equal in both runs; differing `recipes` are noted."""

    run_id: str
    date_utc: str
    commit: str | None
    machine: str
    keys: Mapping[str, Any]
    recipes: Mapping[str, Any]
    objects: Sequence[JobResult]


@dataclass(frozen=True)
class GateResult:
    """The result of a gate. `difference` is candidate minus baseline, in the metric's unit."""

    method: str
    metric: str
    better: str
    prompts: int
    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    delta: float
    verdict: str
    reason: str

    @property
    def loss(self) -> float:
        """How much worse, in units of δ or of the standard error, whichever is larger. The CUSUM sums these."""
        return _worse(self.better) * self.difference / max(self.delta, self.standard_error or 0)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a nightly run, with its reason in one sentence."""

    verdict: str
    reason: str
    gates: Sequence[GateResult]
    notes: Sequence[str]


def overall_verdict(
    baseline: NightlyRun,
    candidate: NightlyRun,
    gates: Gates,
    references: Mapping[str, Reference],
    *,
    metric_changes: Sequence[str] = (),
    history: Sequence[Mapping[str, Any]] = (),
) -> Verdict:
    """The verdict. `references`: by distance; `metric_changes`: found by the metric check; `history`: lines of it."""
    mismatch = _mismatch(baseline, candidate)
    found = [] if mismatch else compare(baseline, candidate, gates, references)
    notes = [*_notes(baseline, candidate, gates, found), *(drift for gate in found if (drift := _drift(gate, history)))]
    if metric_changes:
        return Verdict(FAIL, f"{METRIC_CHANGED}: {'; '.join(metric_changes)}", found, notes)
    if mismatch:
        return Verdict(FAIL, f"the runs are not comparable: {mismatch}", found, notes)
    if more := _more_failures(baseline, candidate):
        return Verdict(FAIL, f"the generation changed: {more}", found, notes)
    by_verdict = {word: [_name(gate) for gate in found if gate.verdict == word] for word in (FAIL, INCONCLUSIVE)}
    if by_verdict[FAIL]:
        return Verdict(FAIL, f"the generation changed: {_changes(found)}", found, notes)
    if not found:
        return Verdict(INCONCLUSIVE, "no gate could be measured", found, notes)
    if by_verdict[INCONCLUSIVE]:
        return Verdict(INCONCLUSIVE, f"too few prompts to decide: {', '.join(by_verdict[INCONCLUSIVE])}", found, notes)
    if any(_drift(gate, history) for gate in found):
        return Verdict(INCONCLUSIVE, "within the gates, but drifting", found, notes)
    return Verdict(PASS, "no gate is worse by more than δ", found, notes)


def compare(
    baseline: NightlyRun, candidate: NightlyRun, gates: Gates, references: Mapping[str, Reference]
) -> list[GateResult]:
    """The gates that both runs have values for, by method. Holm's correction covers all metrics but costs."""
    measured = [
        (method, metric, gate, *outcome)
        for method in candidate.recipes
        for metric, gate in gates.gates.items()
        if (outcome := _difference(metric, *_pairs(baseline, candidate, method), references, gates.confidence))
        and (not GATED[metric].is_cost or baseline.machine == candidate.machine)
    ]
    family = [(i, p) for i, (_, metric, _, _, p) in enumerate(measured) if not GATED[metric].is_cost and p is not None]
    adjusted = dict(zip((i for i, _ in family), holm([p for _, p in family]), strict=True))
    return [
        _found(method, metric, gate, mean, p, adjusted.get(i), gates.confidence)
        for i, (method, metric, gate, mean, p) in enumerate(measured)
    ]


def decide(gain: Mean, delta: float, confidence: float = 0.95, *, outright: bool = True) -> tuple[str, str]:
    """A verdict and its reason for a gain (positive is better). `outright`: whether a loss above 3 δ alone fails."""
    interval = "" if gain.low is None or gain.high is None else f" ({gain.low:+.3g} to {gain.high:+.3g})"
    if outright and gain.value < -OUTRIGHT * delta:
        return FAIL, f"worse by {-gain.value:.3g}{interval}, more than {OUTRIGHT} δ = {OUTRIGHT * delta:.3g}"
    if gain.high is not None and gain.high < 0 and gain.value < -delta:
        worse = f"worse by {-gain.value:.3g}{interval}"
        return FAIL, f"{worse}: the {confidence:.0%} interval is below 0 and the mean loss above δ"
    if is_non_inferior(gain, delta):
        return PASS, f"gain {gain.value:+.3g}{interval}: a loss of δ is ruled out"
    if gain.low is None:
        return INCONCLUSIVE, f"gain {gain.value:+.3g}: no interval from {gain.prompts} prompt"
    return INCONCLUSIVE, f"gain {gain.value:+.3g}{interval}: {gain.prompts} prompts cannot rule out a loss of δ"


def decide_same(difference: Mean, delta: float, confidence: float = 0.95) -> tuple[str, str]:
    """The two-sided gate: PASS if the whole interval is within δ of 0."""
    verdict, _ = decide(_gain(difference, "lower" if difference.value > 0 else "higher"), delta, confidence)
    interval = "" if difference.low is None else f" ({difference.low:+.3g} to {difference.high:+.3g})"
    reasons = {
        FAIL: f"differs by more than δ = {delta:.3g}",
        PASS: "equal within δ",
        INCONCLUSIVE: "a change of δ cannot be ruled out",
    }
    return verdict, f"{difference.value:+.3g}{interval}: {reasons[verdict]}"


def drift_of(losses: Sequence[float]) -> list[float]:
    """The CUSUM of one gate's losses against one baseline, over the last `DRIFT_RUNS` nightly runs."""
    return cusum(losses[-DRIFT_RUNS:], DRIFT_SLACK)


def losses_of(history: Sequence[Mapping[str, Any]], method: str, metric: str) -> list[float]:
    """The losses of one gate, run by run."""
    gates = (gate for nightly_run in history for gate in nightly_run["gates"])
    return [gate["loss"] for gate in gates if (gate["method"], gate["metric"]) == (method, metric)]


def _found(
    method: str, metric: str, gate: Gate, mean: Mean, p: float | None, p_holm: float | None, confidence: float
) -> GateResult:
    better, delta = GATED[metric].better, gate.margin(mean.standard_error)
    if better == "same":
        verdict, reason = decide_same(mean, delta, confidence)
    else:
        verdict, reason = decide(_gain(mean, better), delta, confidence, outright=not GATED[metric].is_cost)
    numbers = mean.value, mean.standard_error, mean.low, mean.high, p, p_holm
    return GateResult(method, metric, better, mean.prompts, *numbers, delta, verdict, reason)


def _gain(difference: Mean, better: str) -> Mean:
    if better == "higher":
        return difference
    low, high = (None if end is None else -end for end in (difference.high, difference.low))
    return Mean(-difference.value, difference.standard_error, low, high, difference.prompts)


def _worse(better: str) -> int:
    return -1 if better == "higher" else 1


def _pairs(baseline: NightlyRun, candidate: NightlyRun, method: str) -> tuple[list[JobResult], list[JobResult]]:
    """The jobs that both runs finished, in the same order."""
    pinned = {result.key: result for result in baseline.objects if result.values is not None}
    matched = [
        result
        for result in candidate.objects
        if result.method == method and result.values is not None and result.key in pinned
    ]
    return matched, [pinned[result.key] for result in matched]


def _difference(
    metric: str, ours: list[JobResult], theirs: list[JobResult], references: Mapping[str, Reference], confidence: float
) -> tuple[Mean, float | None] | None:
    """The mean difference with its interval, and p; None if a run has no values."""
    if metric in FROM_FEATURES:
        source, kind = FROM_FEATURES[metric]
        estimate = _of_features(kind, source, ours, theirs, references.get(source))
        if estimate is None:
            return None
        mean = with_interval(estimate.value, estimate.standard_error, _prompts(ours), confidence)
        return mean, t_p(mean)
    in_percent = GATED[metric].unit == PERCENT
    by_prompt: dict[str, list[float]] = {}
    for mine, other in zip(ours, theirs, strict=True):
        a, b = (result.values.get(metric) if result.values else None for result in (mine, other))
        if a is not None and b is not None and not (in_percent and b <= 0):
            by_prompt.setdefault(mine.prompt, []).append(100 * (a / b - 1) if in_percent else a - b)
    if not by_prompt:
        return None
    differences = np.array([float(np.mean(seeds)) for seeds in by_prompt.values()])
    return mean_over_prompts(differences, confidence), sign_flip_p(differences, np.random.default_rng(0))


def _of_features(
    kind: str, source: str, ours: list[JobResult], theirs: list[JobResult], reference: Reference | None
) -> Estimate | None:
    a, b = ([result.features[source] for result in side if source in result.features] for side in (ours, theirs))
    if reference is None or not len(a) == len(b) == len(ours) or sum(map(len, a)) < 2:
        return None
    if kind == "frechet":
        return frechet_difference(a, b, reference.moments)
    return None if reference.features is None or len(ours) < 2 else kernel_difference(a, b, reference.features)


def _prompts(result: list[JobResult]) -> int:
    return len({one.prompt for one in result})


def _mismatch(baseline: NightlyRun, candidate: NightlyRun) -> str | None:
    """Why the runs are not comparable; None if they are."""
    for name in dict.fromkeys([*baseline.keys, *candidate.keys]):
        before, now = baseline.keys.get(name), candidate.keys.get(name)
        if before != now:
            return f"{name} is {shortened(str(now), 16)}, in the baseline {shortened(str(before), 16)}"
    before_keys, now_keys = ({result.key for result in nightly_run.objects} for nightly_run in (baseline, candidate))
    for only, where in ((before_keys - now_keys, "the baseline"), (now_keys - before_keys, "this run")):
        if only:
            method, prompt, seed = min(only)
            return f"{len(only)} jobs only in {where}, first {shortened(prompt)!r} by {method} with seed {seed}"
    return None


def _changes(found: Sequence[GateResult]) -> str:
    """The gates that failed: `clip (sctd) worse, loss (sctd) different`."""
    failed = {
        end: [_name(gate) for gate in found if gate.verdict == FAIL and (gate.better == "same") == same]
        for end, same in (("worse", False), ("different", True))
    }
    return ", ".join(f"{', '.join(names)} {end}" for end, names in failed.items() if names)


def _more_failures(baseline: NightlyRun, candidate: NightlyRun) -> str | None:
    before, now = (
        [result for result in nightly_run.objects if result.values is None] for nightly_run in (baseline, candidate)
    )
    if len(now) <= len(before):
        return None
    known = {result.key for result in before}
    first = next(result for result in now if result.key not in known)
    return f"{len(now)} jobs failed, {len(before)} in the baseline; {shortened(first.prompt)!r}: {first.error}"


def _notes(baseline: NightlyRun, candidate: NightlyRun, gates: Gates, found: Sequence[GateResult]) -> list[str]:
    notes = [
        f"recipe of {method}: {key} changed from {before!r} to {now!r}"
        for method in candidate.recipes
        for key, before, now in _changed(baseline.recipes.get(method, {}), candidate.recipes[method])
    ]
    if baseline.commit != candidate.commit:
        notes.append(f"commit changed from {baseline.commit or 'unknown'} to {candidate.commit or 'unknown'}")
    if baseline.machine != candidate.machine and any(GATED[metric].is_cost for metric in gates.gates):
        notes.append(
            f"time and memory are not compared: the baseline ran on {baseline.machine}, this run on {candidate.machine}"
        )
    return notes


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    changes = []
    for key in dict.fromkeys([*before, *now]):
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changes += _changed(a, b, f"{prefix}{key}.")
        elif a != b:
            changes.append((prefix + key, a, b))
    return changes


def _drift(gate: GateResult, history: Sequence[Mapping[str, Any]]) -> str | None:
    losses = [*losses_of(history, gate.method, gate.metric), gate.loss]
    sums = drift_of(losses)
    if sums[-1] <= DRIFT_LIMIT:
        return None
    runs = next((i for i, value in enumerate(reversed(sums)) if value == 0), len(sums))
    return f"{_name(gate)} drifts: its CUSUM is {sums[-1]:.1f} over {runs} nightly runs, above {DRIFT_LIMIT:g}"


def _name(gate: GateResult) -> str:
    return f"{gate.metric} ({gate.method})"
