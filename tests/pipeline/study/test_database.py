"""Votes are written once, the first one counts, and tokens are not stored."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import UserError
from pipeline.study.database import Ballot, Database


def test_voter_is_found_by_token_only(tmp_path):
    database = Database(tmp_path / "study.sqlite")
    shown = [(1, [2, 0, 1]), (0, [0, 1, 2])]
    tokens = database.invite([shown, shown])
    assert len(set(tokens)) == 2
    assert all(len(token) >= 43 for token in tokens)
    voters = [database.voter(token) for token in tokens]
    assert [dict(voter.shown) for voter in voters] == [dict(shown)] * 2
    assert voters[0].id != voters[1].id
    assert database.voter(voters[0].id) is None
    assert database.voters() == 2
    database.close()


def test_one_of_many_concurrent_votes_is_counted(tmp_path):
    """From two connection pools, as two processes would have."""
    both = [Database(tmp_path / "study.sqlite") for _ in range(2)]
    ballots = [(both[i % 2], Ballot("v", 0, 0, [1 + i, 2, 3])) for i in range(16)]
    with ThreadPoolExecutor(16) as pool:
        counted = list(pool.map(lambda pair: pair[0].cast(pair[1]), ballots))
    assert counted.count(True) == 1
    assert both[0].ballots() == [ballots[counted.index(True)][1]]
    assert both[1].answered("v") == {(0, 0)}
    assert both[1].answered("w") == set()
    for database in both:
        database.close()


def test_last_draft_is_kept_and_is_not_a_vote(tmp_path):
    database = Database(tmp_path / "study.sqlite")
    assert database.draft("v", 0, 1) is None
    for ranks in ([1, 2], [2, 1]):
        database.save_draft(Ballot("v", 0, 1, ranks))
    assert database.draft("v", 0, 1) == [2, 1]
    assert database.ballots() == []
    database.close()


def test_commits_are_durable(tmp_path):
    database = Database(tmp_path / "study.sqlite")
    with database.engine.connect() as connection:
        modes = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert modes == ["wal", 2]
    database.close()


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\0" + bytes(100)])
def test_a_damaged_file_is_no_database(tmp_path, content):
    (tmp_path / "study.sqlite").write_bytes(content)
    with pytest.raises(
        UserError, match=rf"^{tmp_path}/study\.sqlite is not the database of a study \(.*\); restore it"
    ):
        Database(tmp_path / "study.sqlite")
