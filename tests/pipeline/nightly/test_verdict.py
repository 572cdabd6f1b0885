"""Every rule of the verdict, on results written by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from evaluation.fid import Moments
from evaluation.jackknife import frechet
from evaluation.references import Reference
from evaluation.statistics import Mean, holm
from pipeline.nightly import gates as gates_of
from pipeline.nightly.gates import Gate, Gates
from pipeline.nightly.verdict import (
    DRIFT_LIMIT,
    FAIL,
    INCONCLUSIVE,
    PASS,
    JobResult,
    NightlyRun,
    compare,
    decide,
    overall_verdict,
)

PROMPTS = [f"a cube of side {side}" for side in range(8)]
NOISE = np.array([0.1, -0.1, 0.05, -0.05, 0.02, -0.02, 0.08, -0.08])  # mean 0
CLIP = Gates(0.95, {"clip": Gate(delta=0.3)})


def run(clip=0.0, *, method="sctd", **changes) -> NightlyRun:
    """Eight prompts; `clip` is added to their scores."""
    scores = 30 + np.arange(8.0) + clip
    objects = tuple(JobResult(method, prompt, 0, {"clip": float(x)}) for prompt, x in zip(PROMPTS, scores, strict=True))
    base = NightlyRun("run", "2026-01-02", "c0ffee", "a CPU, 2 cores", {"protocol": "paper12"}, {method: {}}, objects)
    return replace(base, **changes)


def with_values(values: dict[str, np.ndarray], base: NightlyRun | None = None) -> NightlyRun:
    base = base or run()
    objects = tuple(
        replace(result, values={name: float(array[i]) for name, array in values.items()})
        for i, result in enumerate(base.objects)
    )
    return replace(base, objects=objects)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [
        (NOISE, PASS),  # no difference
        (NOISE + 2, PASS),  # better
        (NOISE - 0.2, PASS),  # significantly worse, by less than δ
        (NOISE - 0.5, FAIL),  # significantly worse, by more than δ
        (10 * NOISE, INCONCLUSIVE),  # no difference, but too noisy to rule out δ
        (10 * NOISE - 0.5, INCONCLUSIVE),  # worse by more than δ, which may be chance
        (10 * NOISE - 0.95, FAIL),  # worse by more than 3 δ
    ],
)
def test_rules_of_a_gate(shift, verdict):
    (found,) = compare(run(), run(shift), CLIP, {})
    assert found.verdict == verdict, found.reason
    assert overall_verdict(run(), run(shift), CLIP, {}).verdict == verdict
    assert found.difference == pytest.approx(np.mean(shift))
    expected = ttest_1samp(shift, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_rules_are_mirrored_if_lower_is_better():
    held = Gates(0.95, {"time": Gate(delta=5.0)})
    base = with_values({"time": np.full(8, 100.0)})
    for percent, verdict in [(0, PASS), (-30, PASS), (4.8, PASS), (6, FAIL), (30, FAIL)]:
        (found,) = compare(base, with_values({"time": 100 + percent + NOISE}), held, {})
        assert (found.verdict, found.difference) == (verdict, pytest.approx(percent))


def test_gate_of_the_loss_is_two_sided():
    held = Gates(0.95, {"loss": Gate(delta=5.0)})
    base = with_values({"loss": np.full(8, 100.0)})
    for percent, verdict, reason in [
        (0, PASS, "equal within δ"),
        (-4.8, PASS, "equal within δ"),
        (4.8, PASS, "equal within δ"),
        (-36, FAIL, "differs by more than δ = 5"),
        (36, FAIL, "differs by more than δ = 5"),
    ]:
        (found,) = compare(base, with_values({"loss": 100 + percent + NOISE}), held, {})
        assert (found.verdict, found.difference) == (verdict, pytest.approx(percent, abs=1e-9))
        assert found.reason.startswith(f"{found.difference:+.3g} (")
        assert found.reason.endswith(reason)
        (found,) = compare(base, with_values({"loss": 100 + percent / 2 + 200 * NOISE}), held, {})
        assert found.verdict == INCONCLUSIVE or abs(percent) > 30, found.reason
    verdict = overall_verdict(base, with_values({"loss": 64 + NOISE}), held, {})
    assert verdict.reason == "the generation changed: loss (sctd) different"


def test_one_slow_asset_does_not_fail_a_cost():
    """The mean is 4 δ, but from one asset of eight: as in asv, a cost must also differ significantly."""
    held = Gates(0.95, {"time": Gate(delta=5.0)})
    seconds = np.full(8, 100.0)
    seconds[3] = 260
    (found,) = compare(with_values({"time": np.full(8, 100.0)}), with_values({"time": seconds}), held, {})
    assert (found.difference, found.verdict) == (pytest.approx(20), INCONCLUSIVE)


def test_reasons_of_a_gate():
    assert decide(Mean(-1.0, 0.9, -3.1, 1.1, 8), 0.3)[1] == "worse by 1 (-3.1 to +1.1), more than 3 δ = 0.9"
    assert decide(Mean(-0.5, 0.1, -0.7, -0.3, 8), 0.3)[1] == (
        "worse by 0.5 (-0.7 to -0.3): the 95% interval is below 0 and the mean loss above δ"
    )
    assert decide(Mean(0.1, 0.1, -0.1, 0.3, 8), 0.3)[1] == "gain +0.1 (-0.1 to +0.3): a loss of δ is ruled out"
    assert decide(Mean(0.0, 0.3, -0.7, 0.7, 8), 0.3) == (
        INCONCLUSIVE, "gain +0 (-0.7 to +0.7): 8 prompts cannot rule out a loss of δ",
    )  # fmt: skip
    assert decide(Mean(0.0, None, None, None, 1), 0.3) == (INCONCLUSIVE, "gain +0: no interval from 1 prompt")


def test_run_compared_with_itself_passes_with_p_1():
    verdict = overall_verdict(run(), run(), CLIP, {})
    assert (verdict.verdict, verdict.reason) == (PASS, "no gate is worse by more than δ")
    (found,) = verdict.gates
    assert (found.difference, found.low, found.high, found.p, found.p_holm) == (0, 0, 0, 1, 1)


@pytest.mark.parametrize(
    ("baseline", "candidate", "reason"),
    [
        (run(), run(keys={"protocol": "paper24"}), "protocol is paper24, in the baseline paper12"),
        (run(keys={"protocol": "paper12", "scorer": "a"}), run(), "scorer is None, in the baseline a"),
        (run(), run(objects=run().objects[:7]),
         "1 jobs only in the baseline, first 'a cube of side 7' by sctd with seed 0"),
        (run(), run(objects=(*run().objects, JobResult("sctd", "a cat", 0, None))),
         "1 jobs only in this run, first 'a cat' by sctd with seed 0"),
        (run(), run(objects=tuple(replace(result, seed=1) for result in run().objects)),
         "8 jobs only in the baseline, first 'a cube of side 0' by sctd with seed 0"),
    ],
)  # fmt: skip
def test_runs_that_are_not_comparable_fail_with_the_first_difference(baseline, candidate, reason):
    verdict = overall_verdict(baseline, candidate, CLIP, {})
    assert (verdict.verdict, verdict.reason) == (FAIL, f"the runs are not comparable: {reason}")
    assert verdict.gates == []


def failed(base: NightlyRun, *numbers: int) -> NightlyRun:
    objects = tuple(
        replace(result, values=None, error="NaN") if i in numbers else result for i, result in enumerate(base.objects)
    )
    return replace(base, objects=objects)


def test_more_failed_jobs_than_in_the_baseline_fail():
    verdict = overall_verdict(failed(run(), 1), failed(run(), 1, 4), CLIP, {})
    assert (verdict.verdict, verdict.reason) == (
        FAIL, "the generation changed: 2 jobs failed, 1 in the baseline; 'a cube of side 4': NaN",
    )  # fmt: skip
    same = overall_verdict(failed(run(), 1), failed(run(), 2), CLIP, {})
    assert (same.verdict, same.gates[0].prompts) == (PASS, 6), "over prompts that both finished"


def test_changed_metric_takes_precedence_over_changed_generation():
    assert overall_verdict(run(), run(-2), CLIP, {}).reason == "the generation changed: clip (sctd) worse"
    metric_changes = overall_verdict(run(), run(-2), CLIP, {}, metric_changes=["clip is 1, was 2"])
    assert (metric_changes.verdict, metric_changes.reason) == (FAIL, "the metric changed: clip is 1, was 2")
    assert overall_verdict(run(), run(), CLIP, {}, metric_changes=["x"]).verdict == FAIL, "even if all scores are equal"


def cloud(seed, shift=0.0):
    random = np.random.default_rng(seed)
    places = np.random.default_rng(0).normal(size=(8, 1, 3))
    return places + shift + random.normal(0, 0.3, (8, 30, 3))


def seen(features) -> NightlyRun:
    base = run()
    return replace(
        base, objects=tuple(replace(m, features={"fd": f}) for m, f in zip(base.objects, features, strict=True))
    )


def test_distances_are_paired_by_prompt():
    points = np.random.default_rng(1).normal(0, 1.2, (500, 3)).astype(np.float32)
    references = {"fd": Reference(Moments.of(points), points, {})}
    held = Gates(0.95, {"fd": Gate(delta=0.5, standard_errors=2), "kid_cl": Gate(delta=1000.0)})
    same, far = (compare(seen(cloud(2)), seen(cloud(3, shift)), held, references) for shift in (0.0, 5.0))
    assert [(gate.metric, gate.verdict) for gate in same] == [("fd", PASS), ("kid_cl", PASS)]
    assert [gate.verdict for gate in far] == [FAIL, FAIL]
    moments = references["fd"].moments
    expected = frechet(list(cloud(3, 5.0)), moments).value - frechet(list(cloud(2)), moments).value
    assert far[0].difference == pytest.approx(expected)
    assert far[0].delta == pytest.approx(max(0.5, 2 * far[0].standard_error))
    assert compare(seen(cloud(2)), seen(cloud(3)), held, {}) == [], "no gate without a reference"


def test_holm_correction_covers_all_metrics_but_costs():
    random = np.random.default_rng(4)
    held = gates_of.Gates(0.95, {name: Gate(delta=1.0) for name in ("clip", "ir", "clip_rprec", "time")})
    values = {name: random.normal(100, 1, 8) for name in held.gates}
    found = compare(
        with_values(values), with_values({k: v + random.normal(0.5, 1, 8) for k, v in values.items()}), held, {}
    )
    assert [gate.p_holm for gate in found] == [*holm([gate.p for gate in found[:3]]), None]


def test_costs_are_compared_only_on_the_same_machine():
    held = Gates(0.95, {"clip": Gate(delta=0.3), "time": Gate(delta=5.0)})
    values = {"clip": np.full(8, 30.0), "time": np.full(8, 100.0)}
    slow = with_values(values | {"time": np.full(8, 200.0)}, run(machine="a slow CPU, 1 cores"))
    verdict = overall_verdict(with_values(values), slow, held, {})
    assert [gate.metric for gate in verdict.gates] == ["clip"]
    assert verdict.notes == [
        "time and memory are not compared: the baseline ran on a CPU, 2 cores, this run on a slow CPU, 1 cores"
    ]


def test_seeds_of_a_prompt_are_averaged():
    def twice(*shifts):
        seeds = (
            replace(result, seed=seed, values={"clip": result.values["clip"] + float(shift[i])})
            for seed, shift in enumerate(shifts)
            for i, result in enumerate(run().objects)
        )
        return run(objects=tuple(seeds))

    (found,) = compare(twice(0 * NOISE, 0 * NOISE), twice(0.1 + NOISE, 0.3 - NOISE), CLIP, {})
    assert (found.prompts, found.difference) == (8, pytest.approx(0.2))
    assert found.standard_error == pytest.approx(0, abs=1e-9)


def test_changed_recipe_is_compared_and_noted():
    before, now = (
        run(recipes={"sctd": {"guidance": {"scale": 7.5}}}),
        run(recipes={"sctd": {"guidance": {"scale": 6.0}}}),
    )
    verdict = overall_verdict(before, replace(now, commit="decade"), CLIP, {})
    assert verdict.verdict == PASS
    assert verdict.notes == [
        "recipe of sctd: guidance.scale changed from 7.5 to 6.0",
        "commit changed from c0ffee to decade",
    ]


def line(loss, number=0):
    gate = {"method": "sctd", "metric": "clip", "loss": loss}
    return {"run": f"night {number}", "gates": [gate]}


def test_slow_drift_is_inconclusive_although_every_run_passes():
    """A loss of 0.9 δ per run: every run passes, and after eleven runs the sum of 0.4 each is over the limit."""
    candidate = run(NOISE / 10 - 0.27)
    runs = int(DRIFT_LIMIT / 0.4)
    before = overall_verdict(run(), candidate, CLIP, {}, history=[line(0.9)] * (runs - 2))
    assert (before.verdict, before.notes) == (PASS, [])
    after = overall_verdict(run(), candidate, CLIP, {}, history=[line(0.9)] * (runs + 1))
    assert (after.verdict, after.reason) == (INCONCLUSIVE, "within the gates, but drifting")
    assert after.notes == ["clip (sctd) drifts: its CUSUM is 4.8 over 12 nightly runs, above 4"]


def test_drift_covers_fourteen_runs_and_ignores_gains():
    assert overall_verdict(run(), run(), CLIP, {}, history=[*[line(2.0)] * 20, *[line(0.0)] * 14]).verdict == PASS
    assert overall_verdict(run(), run(), CLIP, {}, history=[line(-5.0)] * 14).verdict == PASS


def test_verdict_is_inconclusive_without_values():
    verdict = overall_verdict(run(), run(), Gates(0.95, {"fid": Gate(delta=1)}), {})
    assert (verdict.verdict, verdict.reason) == (INCONCLUSIVE, "no gate could be measured")
    one = run(objects=run().objects[:1])
    assert overall_verdict(one, one, CLIP, {}).verdict == INCONCLUSIVE


def test_aa_comparison_rarely_fails():
    """Two seeds of one program with the measured deviation: the mean of eight prompts exceeds 3 δ by chance."""
    random, bundled = np.random.default_rng(5), gates_of.read(None)
    gates = [compare(run(), run(random.normal(0, 2.8, 8)), bundled, {})[0] for _ in range(400)]
    outright = [gate for gate in gates if gate.difference < -3 * bundled.gates["clip"].delta]
    assert len(outright) / 400 > 0.1, "which is why δ is at least a standard error"
    assert sum(gate.verdict == FAIL for gate in gates) / 400 < 0.05
