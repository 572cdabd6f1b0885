"""Results of ballots written by hand, so that every expected number is known."""

import csv
import io

import numpy as np
import pytest

from evaluation.ranking import summarise
from pipeline.errors import UserError
from pipeline.store.run_folder import Store
from pipeline.study import results
from pipeline.study.database import Ballot
from pipeline.study.plan import Competitor, StudyPlan

PLAN = StudyPlan(
    id="s1",
    competitors=tuple(Competitor("/runs/one", "one", name) for name in ("a", "b", "c")),
    prompts=("a red cube", "a blue ball"),
    turntables=((), ()),
)


def ballots(voters=4):
    """All volunteers rank a, b, c; for details, every second one ranks c, b, a."""
    return [
        Ballot(f"v{v}", g, q, [3, 2, 1] if q == 2 and v % 2 else [1, 2, 3])
        for v in range(voters)
        for g in range(2)
        for q in range(3)
    ]


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_tables(tmp_path):
    given = ballots()
    results.write(Store(tmp_path), PLAN, results.found(PLAN, given, 0), given)
    ranks = {(row["question"], row["method"]): row for row in rows(tmp_path / "results.csv")}
    assert [float(ranks["q1", m]["mean_rank"]) for m in "abc"] == [1, 2, 3]
    assert [float(ranks["q3", m]["mean_rank"]) for m in "abc"] == [2, 2, 2]
    assert (ranks["q1", "a"]["lo"], ranks["q1", "a"]["hi"]) == ("1.0", "1.0")
    assert (ranks["q1", "a"]["rankings"], ranks["q1", "a"]["voters"]) == ("8", "4")
    tests = {row["question"]: row for row in rows(tmp_path / "tests.csv")}
    assert float(tests["q1"]["kendall_w"]) == pytest.approx(1)
    assert float(tests["q1"]["friedman_chi2"]) == pytest.approx(8)  # n (k - 1), the maximum
    assert float(tests["q3"]["kendall_w"]) == pytest.approx(0)
    pairs = [row for row in rows(tmp_path / "pairs.csv") if row["question"] == "q1"]
    assert [(row["method"], row["other"], row["differs"]) for row in pairs] == [
        ("a", "b", "False"), ("a", "c", "True"), ("b", "c", "False"),
    ]  # fmt: skip


def test_votes_reproduce_the_results(tmp_path):
    given = ballots()
    found = results.found(PLAN, given, 0)
    results.write(Store(tmp_path), PLAN, found, given)
    votes = rows(tmp_path / "votes.csv")
    assert len(votes) == 4 * 2 * 3 * 3
    assert votes[0] == {
        "voter": "v0", "group": "0", "prompt": "a red cube", "question": "q1", "method": "a", "rank": "1",
    }  # fmt: skip
    third = [row for row in votes if row["question"] == "q3"]
    ranks = np.array([int(row["rank"]) for row in third]).reshape(-1, 3)
    again = summarise(ranks, [row["voter"] for row in third[::3]], np.random.default_rng(0))
    assert again == found[2]


def test_markdown():
    text = results.markdown(PLAN, results.found(PLAN, ballots(), 0), invited=9)
    assert "| a      | 1.00 [1.00, 1.00] |" in text
    assert "4 of 9 invited volunteers have voted." in text
    assert "text alignment: W = 1.00, p = 0.018; ranks closer than 1.66 do not differ significantly (Nemenyi)." in text
    assert "no test" in results.markdown(PLAN, results.found(PLAN, ballots(voters=1), 0), invited=1)


def test_unanswered_questions_are_an_error():
    for given in ([], [Ballot("v", 0, 0, [1, 2, 3])]):
        with pytest.raises(UserError, match="Some questions have no votes yet"):
            results.found(PLAN, given, 0)
