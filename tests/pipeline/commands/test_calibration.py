"""The table of A/A runs, from hand-written pairs."""

from pipeline.commands import calibration
from pipeline.nightly.verdict import INCONCLUSIVE, PASS, GateResult


def found(metric, difference, error, verdict=PASS):
    return GateResult("sctd", metric, "higher", 4, difference, error, -1.0, 1.0, 0.5, 0.5, 0.3, verdict, "")


def test_deviations_are_pooled_over_the_pairs():
    pairs = [
        [found("clip", 0.1, 0.3), found("fd", 1.0, 2.0)],
        [found("clip", -0.2, 0.4, INCONCLUSIVE), found("fd", 2.0, 2.0)],
    ]
    _, _, clip, fd = calibration.table(pairs).splitlines()
    assert clip == "| clip | 2 | +0.1, -0.2 | 0.71 | 0.35 | 0.3 | 1 PASS, 1 INCONCLUSIVE |", "√(mean(0.09, 0.16)) × √4"
    assert fd == "| fd | 2 | +1, +2 |  | 2 | 0.3 | 2 PASS |"
