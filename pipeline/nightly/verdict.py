"""Tonight's run beside a pinned baseline, paired by prompt: is it worse by more than matters? Values in, a verdict out.

FAIL: the interval of a difference lies on the bad side of 0 and its mean beyond δ, or its mean beyond 3 δ (but for
costs: a busy neighbour does that); more jobs failed; or the two do not compare. PASS: every interval ends within δ
(non-inferiority). Else INCONCLUSIVE. The loss is no quality, so it may move neither way: a changed gradient shows in
it long before it shows in a picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.fid import Estimate, frechet_difference, kernel_difference
from evaluation.references import Reference
from evaluation.statistics import Mean, cusum, holm, is_non_inferior, mean_over_prompts, sign_flip_p, t_p, with_interval
from pipeline.errors import shortened
from pipeline.nightly.gates import BETTER, COSTS, IN_PERCENT, Gate, Gates
from pipeline.weights.networks import DISTANCES

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"
METRIC_CHANGED = "the metric changed"
OUTRIGHT = 3  # times δ: worse by so much is red whatever the interval says
DRIFT_NIGHTS, DRIFT_SLACK, DRIFT_LIMIT = 14, 0.5, 4.0  # of the CUSUM, in units of max(δ, standard error) a night
FROM_FEATURES = {distance.metric: (distance.metric, "frechet") for distance in DISTANCES.values()} | {
    distance.kernel: (distance.metric, "kernel") for distance in DISTANCES.values() if distance.kernel
}


@dataclass(frozen=True)
class Made:
    """A job as it ended: its numbers (None: it failed, `error` says why), and the features of its views by distance."""

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
class Night:
    """All that a comparison needs of a run. `keys` must be equal on both sides; `recipes` may differ, and are told."""

    run_id: str
    date_utc: str
    commit: str | None
    machine: str
    keys: Mapping[str, Any]
    recipes: Mapping[str, Any]
    objects: Sequence[Made]


@dataclass(frozen=True)
class Found:
    """One gate. `difference` is tonight minus baseline, in the metric's unit; None where only one side has a number."""

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
        """How much worse, in units of what matters or of what can be seen, whichever is more; the CUSUM adds these."""
        return _worse(self.better) * self.difference / max(self.delta, self.standard_error or 0)


@dataclass(frozen=True)
class Verdict:
    """What the night is worth, and why in one sentence."""

    verdict: str
    reason: str
    gates: Sequence[Found]
    notes: Sequence[str]


def judge(
    baseline: Night,
    tonight: Night,
    gates: Gates,
    references: Mapping[str, Reference],
    *,
    moved: Sequence[str] = (),
    past: Sequence[Mapping[str, Any]] = (),
) -> Verdict:
    """The verdict. `references` by distance; `moved`: what the metric check found; `past`: lines of the history."""
    mismatch = _mismatch(baseline, tonight)
    found = [] if mismatch else compare(baseline, tonight, gates, references)
    notes = [*_notes(baseline, tonight, gates, found), *(drift for gate in found if (drift := _drift(gate, past)))]
    if moved:
        return Verdict(FAIL, f"{METRIC_CHANGED}: {'; '.join(moved)}", found, notes)
    if mismatch:
        return Verdict(FAIL, f"the runs do not compare: {mismatch}", found, notes)
    if more := _more_failures(baseline, tonight):
        return Verdict(FAIL, f"the generation changed: {more}", found, notes)
    by_verdict = {word: [_name(gate) for gate in found if gate.verdict == word] for word in (FAIL, INCONCLUSIVE)}
    if by_verdict[FAIL]:
        return Verdict(FAIL, f"the generation changed: {_changes(found)}", found, notes)
    if not found:
        return Verdict(INCONCLUSIVE, "no gate could be measured", found, notes)
    if by_verdict[INCONCLUSIVE]:
        return Verdict(INCONCLUSIVE, f"too few prompts to tell: {', '.join(by_verdict[INCONCLUSIVE])}", found, notes)
    if any(_drift(gate, past) for gate in found):
        return Verdict(INCONCLUSIVE, "within the gates tonight, but drifting", found, notes)
    return Verdict(PASS, "no gate is worse by more than matters", found, notes)


def compare(baseline: Night, tonight: Night, gates: Gates, references: Mapping[str, Reference]) -> list[Found]:
    """Every gate that both sides have numbers for, by method; Holm's p over all but costs."""
    measured = [
        (method, metric, gate, *outcome)
        for method in tonight.recipes
        for metric, gate in gates.gates.items()
        if (outcome := _difference(metric, *_pairs(baseline, tonight, method), references, gates.confidence))
        and (metric not in COSTS or baseline.machine == tonight.machine)
    ]
    family = [(i, p) for i, (_, metric, _, _, p) in enumerate(measured) if metric not in COSTS and p is not None]
    adjusted = dict(zip((i for i, _ in family), holm([p for _, p in family]), strict=True))
    return [
        _found(method, metric, gate, mean, p, adjusted.get(i), gates.confidence)
        for i, (method, metric, gate, mean, p) in enumerate(measured)
    ]


def decide(gain: Mean, delta: float, confidence: float = 0.95, *, outright: bool = True) -> tuple[str, str]:
    """A verdict and its sentence. Of a gain more is better, whatever the metric. `outright`: whether 3 δ suffice."""
    told = "" if gain.low is None or gain.high is None else f" ({gain.low:+.3g} to {gain.high:+.3g})"
    if outright and gain.value < -OUTRIGHT * delta:
        return FAIL, f"worse by {-gain.value:.3g}{told}, more than {OUTRIGHT} δ = {OUTRIGHT * delta:.3g} outright"
    if gain.high is not None and gain.high < 0 and gain.value < -delta:
        return FAIL, f"worse by {-gain.value:.3g}{told}: the {confidence:.0%} interval is below 0, the mean beyond δ"
    if is_non_inferior(gain, delta):
        return PASS, f"a gain of {gain.value:+.3g}{told}: worse by less than δ"
    if gain.low is None:
        return INCONCLUSIVE, f"a gain of {gain.value:+.3g} on {gain.prompts} prompt has no interval"
    return INCONCLUSIVE, f"a gain of {gain.value:+.3g}{told}: {gain.prompts} prompts cannot rule out a loss of δ"


def decide_same(difference: Mean, delta: float, confidence: float = 0.95) -> tuple[str, str]:
    """The same for what may go neither up nor down: PASS where the whole interval lies within δ of 0."""
    verdict, _ = decide(_gain(difference, "lower" if difference.value > 0 else "higher"), delta, confidence)
    told = "" if difference.low is None else f" ({difference.low:+.3g} to {difference.high:+.3g})"
    ends = {FAIL: f"more than δ = {delta:.3g} away", PASS: "the same within δ", INCONCLUSIVE: "a change of δ may be"}
    return verdict, f"{difference.value:+.3g}{told}: {ends[verdict]}"


def drift_of(losses: Sequence[float]) -> list[float]:
    """The CUSUM over the last nights, of the losses of one gate against one baseline."""
    return cusum(losses[-DRIFT_NIGHTS:], DRIFT_SLACK)


def losses_of(past: Sequence[Mapping[str, Any]], method: str, metric: str) -> list[float]:
    """Of one gate, night by night."""
    gates = (gate for night in past for gate in night["gates"])
    return [gate["loss"] for gate in gates if (gate["method"], gate["metric"]) == (method, metric)]


def _found(
    method: str, metric: str, gate: Gate, mean: Mean, p: float | None, p_holm: float | None, confidence: float
) -> Found:
    better, delta = BETTER[metric], gate.margin(mean.standard_error)
    if better == "same":
        verdict, reason = decide_same(mean, delta, confidence)
    else:
        verdict, reason = decide(_gain(mean, better), delta, confidence, outright=metric not in COSTS)
    numbers = mean.value, mean.standard_error, mean.low, mean.high, p, p_holm
    return Found(method, metric, better, mean.prompts, *numbers, delta, verdict, reason)


def _gain(difference: Mean, better: str) -> Mean:
    if better == "higher":
        return difference
    low, high = (None if end is None else -end for end in (difference.high, difference.low))
    return Mean(-difference.value, difference.standard_error, low, high, difference.prompts)


def _worse(better: str) -> int:
    return -1 if better == "higher" else 1


def _pairs(baseline: Night, tonight: Night, method: str) -> tuple[list[Made], list[Made]]:
    """What both finished, in one order."""
    theirs = {made.key: made for made in baseline.objects if made.values is not None}
    ours = [
        made for made in tonight.objects if made.method == method and made.values is not None and made.key in theirs
    ]
    return ours, [theirs[made.key] for made in ours]


def _difference(
    metric: str, ours: list[Made], theirs: list[Made], references: Mapping[str, Reference], confidence: float
) -> tuple[Mean, float | None] | None:
    """The mean difference with its interval, and p; None where a side has no numbers."""
    if metric in FROM_FEATURES:
        source, kind = FROM_FEATURES[metric]
        estimate = _of_features(kind, source, ours, theirs, references.get(source))
        if estimate is None:
            return None
        mean = with_interval(estimate.value, estimate.standard_error, _prompts(ours), confidence)
        return mean, t_p(mean)
    by_prompt: dict[str, list[float]] = {}
    for mine, other in zip(ours, theirs, strict=True):
        a, b = (made.values.get(metric) if made.values else None for made in (mine, other))
        if a is not None and b is not None and not (metric in IN_PERCENT and b <= 0):
            by_prompt.setdefault(mine.prompt, []).append(100 * (a / b - 1) if metric in IN_PERCENT else a - b)
    if not by_prompt:
        return None
    differences = np.array([float(np.mean(seeds)) for seeds in by_prompt.values()])
    return mean_over_prompts(differences, confidence), sign_flip_p(differences, np.random.default_rng(0))


def _of_features(
    kind: str, source: str, ours: list[Made], theirs: list[Made], reference: Reference | None
) -> Estimate | None:
    a, b = ([made.features[source] for made in side if source in made.features] for side in (ours, theirs))
    if reference is None or not len(a) == len(b) == len(ours) or sum(map(len, a)) < 2:
        return None
    if kind == "frechet":
        return frechet_difference(a, b, reference.moments)
    return None if reference.features is None or len(ours) < 2 else kernel_difference(a, b, reference.features)


def _prompts(made: list[Made]) -> int:
    return len({one.prompt for one in made})


def _mismatch(baseline: Night, tonight: Night) -> str | None:
    """Why the two do not compare, if they do not."""
    for name in dict.fromkeys([*baseline.keys, *tonight.keys]):
        before, now = baseline.keys.get(name), tonight.keys.get(name)
        if before != now:
            return f"{name} is {shortened(str(now), 16)}, the baseline's {shortened(str(before), 16)}"
    before_keys, now_keys = ({made.key for made in night.objects} for night in (baseline, tonight))
    for only, where in ((before_keys - now_keys, "the baseline"), (now_keys - before_keys, "tonight's run")):
        if only:
            method, prompt, seed = min(only)
            return f"{len(only)} jobs only in {where}, first {shortened(prompt)!r} by {method} with seed {seed}"
    return None


def _changes(found: Sequence[Found]) -> str:
    """The gates that failed: `clip (sctd) worse, loss (sctd) off`."""
    failed = {
        end: [_name(gate) for gate in found if gate.verdict == FAIL and (gate.better == "same") == same]
        for end, same in (("worse", False), ("off", True))
    }
    return ", ".join(f"{', '.join(names)} {end}" for end, names in failed.items() if names)


def _more_failures(baseline: Night, tonight: Night) -> str | None:
    before, now = ([made for made in night.objects if made.values is None] for night in (baseline, tonight))
    if len(now) <= len(before):
        return None
    known = {made.key for made in before}
    first = next(made for made in now if made.key not in known)
    return f"{len(now)} jobs failed, {len(before)} of the baseline: {shortened(first.prompt)!r}: {first.error}"


def _notes(baseline: Night, tonight: Night, gates: Gates, found: Sequence[Found]) -> list[str]:
    notes = [
        f"recipe of {method}: {key} was {before!r}, is {now!r}"
        for method in tonight.recipes
        for key, before, now in _changed(baseline.recipes.get(method, {}), tonight.recipes[method])
    ]
    if baseline.commit != tonight.commit:
        notes.append(f"commit: was {baseline.commit or 'unknown'}, is {tonight.commit or 'unknown'}")
    if baseline.machine != tonight.machine and any(cost in gates.gates for cost in COSTS):
        notes.append(f"time and memory are not compared: {baseline.machine} then, {tonight.machine} now")
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


def _drift(gate: Found, past: Sequence[Mapping[str, Any]]) -> str | None:
    losses = [*losses_of(past, gate.method, gate.metric), gate.loss]
    sums = drift_of(losses)
    if sums[-1] <= DRIFT_LIMIT:
        return None
    nights = next((i for i, value in enumerate(reversed(sums)) if value == 0), len(sums))
    return f"{_name(gate)} drifts: CUSUM {sums[-1]:.1f} over {nights} nights, more than {DRIFT_LIMIT:g}"


def _name(gate: Found) -> str:
    return f"{gate.metric} ({gate.method})"
