"""Each rule of the verdict, on records written by hand."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from evaluation.fid import Moments, frechet
from evaluation.references import Reference
from evaluation.statistics import Mean, holm
from pipeline.nightly import gates as gates_of
from pipeline.nightly.gates import Gate, Gates
from pipeline.nightly.verdict import DRIFT_LIMIT, FAIL, INCONCLUSIVE, PASS, Made, Night, compare, decide, judge

PROMPTS = [f"a cube of side {side}" for side in range(8)]
NOISE = np.array([0.1, -0.1, 0.05, -0.05, 0.02, -0.02, 0.08, -0.08])  # mean 0
CLIP = Gates(0.95, {"clip": Gate(delta=0.3)})


def night(clip=0.0, *, method="sctd", **changes) -> Night:
    """Eight prompts; `clip` is added to their scores."""
    scores = 30 + np.arange(8.0) + clip
    objects = tuple(Made(method, prompt, 0, {"clip": float(x)}) for prompt, x in zip(PROMPTS, scores, strict=True))
    base = Night("run", "2026-01-02", "c0ffee", "a CPU, 2 cores", {"protocol": "paper12"}, {method: {}}, objects)
    return replace(base, **changes)


def with_values(values: dict[str, np.ndarray], base: Night | None = None) -> Night:
    base = base or night()
    objects = tuple(
        replace(made, values={name: float(array[i]) for name, array in values.items()})
        for i, made in enumerate(base.objects)
    )
    return replace(base, objects=objects)


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [
        (NOISE, PASS),  # no difference
        (NOISE + 2, PASS),  # better
        (NOISE - 0.2, PASS),  # surely worse, by less than matters
        (NOISE - 0.5, FAIL),  # surely worse, by more
        (10 * NOISE, INCONCLUSIVE),  # no difference, and too noisy to say so
        (10 * NOISE - 0.5, INCONCLUSIVE),  # worse by more than matters, which may be chance
        (10 * NOISE - 0.95, FAIL),  # by 3 δ outright
    ],
)
def test_the_rules(shift, verdict):
    (found,) = compare(night(), night(shift), CLIP, {})
    assert found.verdict == verdict, found.reason
    assert judge(night(), night(shift), CLIP, {}).verdict == verdict
    assert found.difference == pytest.approx(np.mean(shift))
    expected = ttest_1samp(shift, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_lower_is_better_turns_every_rule_round():
    held = Gates(0.95, {"time": Gate(delta=5.0)})
    base = with_values({"time": np.full(8, 100.0)})
    for percent, verdict in [(0, PASS), (-30, PASS), (4.8, PASS), (6, FAIL), (30, FAIL)]:
        (found,) = compare(base, with_values({"time": 100 + percent + NOISE}), held, {})
        assert (found.verdict, found.difference) == (verdict, pytest.approx(percent))


def test_a_loss_may_go_neither_up_nor_down():
    held = Gates(0.95, {"loss": Gate(delta=5.0)})
    base = with_values({"loss": np.full(8, 100.0)})
    for percent, verdict, reason in [
        (0, PASS, "the same within δ"),
        (-4.8, PASS, "the same within δ"),
        (4.8, PASS, "the same within δ"),
        (-36, FAIL, "more than δ = 5 away"),
        (36, FAIL, "more than δ = 5 away"),
    ]:
        (found,) = compare(base, with_values({"loss": 100 + percent + NOISE}), held, {})
        assert (found.verdict, found.difference) == (verdict, pytest.approx(percent, abs=1e-9))
        assert found.reason.startswith(f"{found.difference:+.3g} (")
        assert found.reason.endswith(reason)
        (found,) = compare(base, with_values({"loss": 100 + percent / 2 + 200 * NOISE}), held, {})
        assert found.verdict == INCONCLUSIVE or abs(percent) > 30, found.reason
    verdict = judge(base, with_values({"loss": 64 + NOISE}), held, {})
    assert verdict.reason == "the generation changed: loss (sctd) off"


def test_a_cost_is_not_red_by_one_slow_asset():
    """4 δ outright, but by one of eight: asv's rule asks for significance and a factor."""
    held = Gates(0.95, {"time": Gate(delta=5.0)})
    seconds = np.full(8, 100.0)
    seconds[3] = 260
    (found,) = compare(with_values({"time": np.full(8, 100.0)}), with_values({"time": seconds}), held, {})
    assert (found.difference, found.verdict) == (pytest.approx(20), INCONCLUSIVE)


def test_the_sentences_of_the_rules():
    assert decide(Mean(-1.0, 0.9, -3.1, 1.1, 8), 0.3)[1] == "worse by 1 (-3.1 to +1.1), more than 3 δ = 0.9 outright"
    assert decide(Mean(-0.5, 0.1, -0.7, -0.3, 8), 0.3)[1] == (
        "worse by 0.5 (-0.7 to -0.3): the 95% interval is below 0, the mean beyond δ"
    )
    assert decide(Mean(0.1, 0.1, -0.1, 0.3, 8), 0.3)[1] == "a gain of +0.1 (-0.1 to +0.3): worse by less than δ"
    assert decide(Mean(0.0, 0.3, -0.7, 0.7, 8), 0.3) == (
        INCONCLUSIVE, "a gain of +0 (-0.7 to +0.7): 8 prompts cannot rule out a loss of δ",
    )  # fmt: skip
    assert decide(Mean(0.0, None, None, None, 1), 0.3) == (INCONCLUSIVE, "a gain of +0 on 1 prompt has no interval")


def test_a_run_beside_itself_passes_with_p_1():
    verdict = judge(night(), night(), CLIP, {})
    assert (verdict.verdict, verdict.reason) == (PASS, "no gate is worse by more than matters")
    (found,) = verdict.gates
    assert (found.difference, found.low, found.high, found.p, found.p_holm) == (0, 0, 0, 1, 1)


@pytest.mark.parametrize(
    ("baseline", "tonight", "reason"),
    [
        (night(), night(keys={"protocol": "paper24"}), "protocol is paper24, the baseline's paper12"),
        (night(keys={"protocol": "paper12", "scorer": "a"}), night(), "scorer is None, the baseline's a"),
        (night(), night(objects=night().objects[:7]),
         "1 jobs only in the baseline, first 'a cube of side 7' by sctd with seed 0"),
        (night(), night(objects=(*night().objects, Made("sctd", "a cat", 0, None))),
         "1 jobs only in tonight's run, first 'a cat' by sctd with seed 0"),
        (night(), night(objects=tuple(replace(made, seed=1) for made in night().objects)),
         "8 jobs only in the baseline, first 'a cube of side 0' by sctd with seed 0"),
    ],
)  # fmt: skip
def test_runs_that_do_not_compare_fail_and_the_first_difference_is_named(baseline, tonight, reason):
    verdict = judge(baseline, tonight, CLIP, {})
    assert (verdict.verdict, verdict.reason) == (FAIL, f"the runs do not compare: {reason}")
    assert verdict.gates == []


def failed(base: Night, *numbers: int) -> Night:
    objects = tuple(
        replace(made, values=None, error="NaN") if i in numbers else made for i, made in enumerate(base.objects)
    )
    return replace(base, objects=objects)


def test_more_failures_fail_and_as_many_do_not():
    verdict = judge(failed(night(), 1), failed(night(), 1, 4), CLIP, {})
    assert (verdict.verdict, verdict.reason) == (
        FAIL, "the generation changed: 2 jobs failed, 1 of the baseline: 'a cube of side 4': NaN",
    )  # fmt: skip
    same = judge(failed(night(), 1), failed(night(), 2), CLIP, {})
    assert (same.verdict, same.gates[0].prompts) == (PASS, 6), "over what both finished"


def test_a_changed_metric_is_told_from_a_changed_generation():
    assert judge(night(), night(-2), CLIP, {}).reason == "the generation changed: clip (sctd) worse"
    moved = judge(night(), night(-2), CLIP, {}, moved=["clip is 1, was 2"])
    assert (moved.verdict, moved.reason) == (FAIL, "the metric changed: clip is 1, was 2")
    assert judge(night(), night(), CLIP, {}, moved=["x"]).verdict == FAIL, "whatever else is equal"


def cloud(seed, shift=0.0):
    random = np.random.default_rng(seed)
    places = np.random.default_rng(0).normal(size=(8, 1, 3))
    return places + shift + random.normal(0, 0.3, (8, 30, 3))


def seen(features) -> Night:
    base = night()
    return replace(
        base, objects=tuple(replace(m, features={"fd": f}) for m, f in zip(base.objects, features, strict=True))
    )


def test_distances_are_paired_by_prompt_and_lower_is_better():
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
    assert compare(seen(cloud(2)), seen(cloud(3)), held, {}) == [], "without a reference nothing is measured"


def test_holm_goes_over_all_metrics_but_costs():
    random = np.random.default_rng(4)
    held = gates_of.Gates(0.95, {name: Gate(delta=1.0) for name in ("clip", "ir", "clip_rprec", "time")})
    values = {name: random.normal(100, 1, 8) for name in held.gates}
    found = compare(
        with_values(values), with_values({k: v + random.normal(0.5, 1, 8) for k, v in values.items()}), held, {}
    )
    assert [gate.p_holm for gate in found] == [*holm([gate.p for gate in found[:3]]), None]


def test_costs_are_compared_on_one_machine_only():
    held = Gates(0.95, {"clip": Gate(delta=0.3), "time": Gate(delta=5.0)})
    values = {"clip": np.full(8, 30.0), "time": np.full(8, 100.0)}
    slow = with_values(values | {"time": np.full(8, 200.0)}, night(machine="a slow CPU, 1 cores"))
    verdict = judge(with_values(values), slow, held, {})
    assert [gate.metric for gate in verdict.gates] == ["clip"]
    assert verdict.notes == ["time and memory are not compared: a CPU, 2 cores then, a slow CPU, 1 cores now"]


def test_seeds_of_a_prompt_are_averaged_for_the_prompt_is_the_unit():
    def twice(*shifts):
        seeds = (
            replace(made, seed=seed, values={"clip": made.values["clip"] + float(shift[i])})
            for seed, shift in enumerate(shifts)
            for i, made in enumerate(night().objects)
        )
        return night(objects=tuple(seeds))

    (found,) = compare(twice(0 * NOISE, 0 * NOISE), twice(0.1 + NOISE, 0.3 - NOISE), CLIP, {})
    assert (found.prompts, found.difference) == (8, pytest.approx(0.2))
    assert found.standard_error == pytest.approx(0, abs=1e-9)


def test_a_changed_recipe_is_compared_and_told():
    before, now = (
        night(recipes={"sctd": {"guidance": {"scale": 7.5}}}),
        night(recipes={"sctd": {"guidance": {"scale": 6.0}}}),
    )
    verdict = judge(before, replace(now, commit="decade"), CLIP, {})
    assert verdict.verdict == PASS
    assert verdict.notes == ["recipe of sctd: guidance.scale was 7.5, is 6.0", "commit: was c0ffee, is decade"]


def line(loss, number=0):
    gate = {"method": "sctd", "metric": "clip", "loss": loss}
    return {"run": f"night {number}", "gates": [gate]}


def test_a_slow_drift_is_told_though_no_night_fails():
    """0.9 δ a night: every night passes, and after eleven of them the sum of 0.4 each is over the limit."""
    tonight = night(NOISE / 10 - 0.27)
    nights = int(DRIFT_LIMIT / 0.4)
    before = judge(night(), tonight, CLIP, {}, past=[line(0.9)] * (nights - 2))
    assert (before.verdict, before.notes) == (PASS, [])
    after = judge(night(), tonight, CLIP, {}, past=[line(0.9)] * (nights + 1))
    assert (after.verdict, after.reason) == (INCONCLUSIVE, "within the gates tonight, but drifting")
    assert after.notes == ["clip (sctd) drifts: CUSUM 4.8 over 12 nights, more than 4"]


def test_drift_forgets_after_fourteen_nights_and_counts_gains_for_nothing():
    assert judge(night(), night(), CLIP, {}, past=[*[line(2.0)] * 20, *[line(0.0)] * 14]).verdict == PASS
    assert judge(night(), night(), CLIP, {}, past=[line(-5.0)] * 14).verdict == PASS


def test_without_a_number_there_is_no_verdict():
    verdict = judge(night(), night(), Gates(0.95, {"fid": Gate(delta=1)}), {})
    assert (verdict.verdict, verdict.reason) == (INCONCLUSIVE, "no gate could be measured")
    one = night(objects=night().objects[:1])
    assert judge(one, one, CLIP, {}).verdict == INCONCLUSIVE


def test_an_a_a_night_is_rarely_red():
    """Two seeds of one program, at the deviation that was measured: eight prompts differ by 3 δ by chance."""
    random, packaged = np.random.default_rng(5), gates_of.read(None)
    nights = [compare(night(), night(random.normal(0, 2.8, 8)), packaged, {})[0] for _ in range(400)]
    outright = [gate for gate in nights if gate.difference < -3 * packaged.gates["clip"].delta]
    assert len(outright) / 400 > 0.1, "so δ is at least a standard error"
    assert sum(gate.verdict == FAIL for gate in nights) / 400 < 0.05
