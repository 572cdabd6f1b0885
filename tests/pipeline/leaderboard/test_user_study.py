"""Average ranks of a user study on a leaderboard, and published ones (evaluation.md 5.5, test 16)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.ranking import critical_distance
from pipeline.errors import UserError
from pipeline.leaderboard import user_study
from pipeline.leaderboard.columns import definitions
from pipeline.leaderboard.table import leaderboard, markdown
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from pipeline.study import results
from pipeline.study.database import Ballot
from pipeline.study.plan import Competitor, StudyPlan
from tests.support.scored_run import write_reference, write_run


@pytest.fixture
def run(tmp_path):
    write_reference(tmp_path / "weights")
    return write_run(tmp_path / "run", tmp_path / "weights", objectives=("sctd", "sds"))


def plan_of(*stores, id="s1"):
    competitors = tuple(Competitor(str(s.root), s.root.name, m) for s in stores for m in ("sctd", "sds"))
    return StudyPlan(id, competitors, ("a red cube",), ((),))


def voted(plan, order):
    return results.found(plan, [Ballot(f"v{v}", 0, q, order) for v in range(5) for q in range(3)], 0)


def test_ranks_are_columns_of_the_leaderboard(run):
    plan = plan_of(run)
    assert results.to_leaderboards(plan, voted(plan, [2, 1])) == [run.root / "leaderboard.csv"]
    table = leaderboard([RunResults.read(run)])
    assert list(table["q1_rank"]) == [2, 1]
    assert list(table["n_voters"]) == [5, 5]
    columns = definitions(table.columns)
    assert [columns[name]["direction"] for name in user_study.RANKS] == ["lower"] * 3
    assert "q1_rank ↓" in markdown(table)
    assert "**1**" in markdown(table).splitlines()[3]
    assert "q3_rank" in json.loads((run.root / "columns.json").read_text())
    assert "2.0,2.0,2.0,5," in (run.root / "leaderboard.csv").read_text()


def test_run_without_a_user_study_has_empty_ranks(run):
    row = leaderboard([RunResults.read(run)]).iloc[0]
    assert [row[name] for name in user_study.COLUMNS] == [None] * 4


def test_ranks_of_different_studies_are_not_comparable(run, tmp_path):
    other = write_run(tmp_path / "other", tmp_path / "weights", objectives=("sctd", "sds"))
    both = plan_of(run, other)
    results.to_leaderboards(both, voted(both, [1, 2, 3, 4]))
    assert list(leaderboard([RunResults.read(run), RunResults.read(other)])["q2_rank"]) == [1, 2, 3, 4]
    alone = replace(plan_of(other), id="s2")
    results.to_leaderboards(alone, voted(alone, [1, 2]))
    with pytest.raises(UserError, match="were ranked in different user studies, whose ranks are not comparable"):
        leaderboard([RunResults.read(run), RunResults.read(other)])


TABLE_2 = Path(user_study.__file__).with_name("paper_table.csv")


def test_published_ranks_with_a_wrong_digit_are_refused(tmp_path):
    """The sums are 15 (15.02 by rounding). With 40 volunteers the best two methods differ in no question (Nemenyi)."""
    rows = user_study.published(TABLE_2)
    assert rows[-1] == {"method": "SegmentDreamer", "q1_rank": 1.57, "q2_rank": 1.47, "q3_rank": 1.33}
    sums = [sum(row[name] for row in rows) for name in user_study.RANKS]
    assert sums == pytest.approx([15, 15, 15.02])
    apart = [rows[-2][name] - rows[-1][name] for name in user_study.RANKS]
    assert apart == pytest.approx([0.06, 0.33, 0.60])
    assert max(apart) < critical_distance(5, 40) == pytest.approx(0.964, abs=5e-4)
    path = tmp_path / "ranks.csv"
    path.write_text(TABLE_2.read_text().replace("3.93", "4.03"))
    with pytest.raises(UserError, match=r"average ranks of 5 methods sum to 15\.12: expected 15 within 0\.03"):
        user_study.published(path)
    path.write_text("method,q1_rank\na,1\nb,x\n")
    with pytest.raises(
        UserError, match=r"ranks\.csv: could not convert string to float: 'x'; compare it with the published table"
    ):
        user_study.published(path)


@pytest.mark.parametrize("text", ["", "method\na\n", "name,q1_rank\na,1\n"])
def test_file_without_ranks_is_refused(tmp_path, text):
    (tmp_path / "ranks.csv").write_text(text)
    with pytest.raises(UserError, match="contains no average ranks; pass a CSV with columns method, q1_rank"):
        user_study.published(tmp_path / "ranks.csv")


def test_store_without_a_study_has_empty_cells(tmp_path):
    assert user_study.columns(Store(tmp_path), "sctd") == dict.fromkeys(user_study.COLUMNS)
    user_study.require_one([Store(tmp_path)])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"method,q1_rank\n\xe9,1\n", r"is not a CSV in UTF-8 \(.*\); export it again"),
        (b"method,q1_rank\nsds,1\nsctd\n", "average rank nan of 2 methods"),
    ],
)
def test_published_ranks_that_cannot_be_read(tmp_path, content, sentence):
    (tmp_path / "ranks.csv").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        user_study.published(tmp_path / "ranks.csv")
