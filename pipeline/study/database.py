"""Stores the volunteers, drafts and votes of a study in SQLite. Only this module imports SQLAlchemy.

A vote is a row that is written once, with the key (voter, group, question). SQLite's write-ahead log (WAL, synchronous
FULL) keeps committed votes even if the server is killed. No name, address or time is stored, and only the digest of an
invitation.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, Integer, MetaData, String, Table, create_engine, event, insert, select
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DatabaseError, IntegrityError

from pipeline.errors import UserError
from sctd.errors import one_line

Shown = list[tuple[int, list[int]]]
BUSY_SECONDS = 30

METADATA = MetaData()
VOTERS = Table(
    "voters",
    METADATA,
    Column("id", String, primary_key=True),
    Column("token_sha", String, nullable=False, unique=True),
    Column("shown", JSON, nullable=False),
)


def _answers(name: str) -> Table:
    return Table(
        name,
        METADATA,
        Column("voter", String, primary_key=True),
        Column("group", Integer, primary_key=True),
        Column("question", Integer, primary_key=True),
        Column("ranks", JSON, nullable=False),
    )


BALLOTS, DRAFTS = _answers("ballots"), _answers("drafts")


@dataclass(frozen=True)
class Voter:
    """`shown`: the groups in this volunteer's order, each with its competitors in the order of their letters."""

    id: str
    shown: Shown


@dataclass(frozen=True)
class Ballot:
    """`ranks[competitor]`, 1 is best."""

    voter: str
    group: int
    question: int
    ranks: list[int]


class Database:
    """The database of a study, safe to use from several threads and processes at once."""

    def __init__(self, path: Path):
        self.engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS})
        event.listen(self.engine, "connect", _durable)
        try:
            METADATA.create_all(self.engine)
        except DatabaseError as error:
            self.engine.dispose()
            reason = one_line(getattr(error, "orig", error))
            raise UserError(f"{path} is not the database of a study ({reason}); restore it from a copy.") from error

    def close(self) -> None:
        self.engine.dispose()

    def invite(self, shown: Sequence[Shown]) -> list[str]:
        """Add a voter for each order; returns their invitation tokens, which are not stored."""
        tokens = [secrets.token_urlsafe(32) for _ in shown]
        rows = [
            {"id": secrets.token_hex(8), "token_sha": _digest(token), "shown": order}
            for token, order in zip(tokens, shown, strict=True)
        ]
        with self.engine.begin() as connection:
            connection.execute(insert(VOTERS), rows)
        return tokens

    def voter(self, token: str) -> Voter | None:
        with self.engine.connect() as connection:
            row = connection.execute(select(VOTERS).where(VOTERS.c.token_sha == _digest(token))).one_or_none()
        return Voter(row.id, row.shown) if row else None

    def voters(self) -> int:
        with self.engine.connect() as connection:
            return len(connection.execute(select(VOTERS.c.id)).all())

    def answered(self, voter: str) -> set[tuple[int, int]]:
        """The (group, question) that this voter has ranked."""
        found = select(BALLOTS.c.group, BALLOTS.c.question).where(BALLOTS.c.voter == voter)
        with self.engine.connect() as connection:
            return {(row.group, row.question) for row in connection.execute(found)}

    def cast(self, ballot: Ballot) -> bool:
        """Store a vote permanently; False if this voter has already answered the question."""
        try:
            with self.engine.begin() as connection:
                connection.execute(insert(BALLOTS).values(**vars(ballot)))
        except IntegrityError:
            return False
        return True

    def ballots(self) -> list[Ballot]:
        """All votes, in an order that does not reveal when they were cast."""
        order = BALLOTS.c.voter, BALLOTS.c.group, BALLOTS.c.question
        with self.engine.connect() as connection:
            return [Ballot(**row) for row in connection.execute(select(BALLOTS).order_by(*order)).mappings()]

    def save_draft(self, draft: Ballot) -> None:
        """Store an unsubmitted ranking, replacing the previous draft."""
        new = sqlite_insert(DRAFTS).values(**vars(draft))
        with self.engine.begin() as connection:
            connection.execute(new.on_conflict_do_update(set_={"ranks": new.excluded.ranks}))

    def draft(self, voter: str, group: int, question: int) -> list[int] | None:
        one = DRAFTS.c.voter == voter, DRAFTS.c.group == group, DRAFTS.c.question == question
        with self.engine.connect() as connection:
            return connection.execute(select(DRAFTS.c.ranks).where(*one)).scalar_one_or_none()


def _digest(token: str) -> str:
    """A plain digest suffices: the token has 256 random bits, so it cannot be found by search."""
    return hashlib.sha256(token.encode()).hexdigest()


def _durable(connection: Any, _record: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_SECONDS * 1000}"):
        connection.execute(f"PRAGMA {pragma}").close()
