"""Results of a user study as four columns of a run's leaderboard, and published average ranks."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter

from evaluation import EvaluationError
from pipeline.errors import UserError
from pipeline.store.records import Stored
from pipeline.store.run_folder import Store
from sctd.errors import one_line

FILE = "user_study.json"
RANKS = "q1_rank", "q2_rank", "q3_rank"
COLUMNS = *RANKS, "n_voters"


class Ranks(Stored):
    """`user_study.json`: the id of a study, and the cells of each method."""

    study: str
    methods: dict[str, dict[str, int | FiniteFloat | None]]


RANKS_FILE = TypeAdapter(Ranks)


def write(store: Store, study: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Store the ranks of a run's methods. `study` is the study's id: ranks of different studies are not comparable."""
    store.write_json(store.root / FILE, {"study": study, "methods": dict(rows)})


def columns(store: Store, method: str) -> dict[str, Any]:
    """The cells of a method's row; None without a user study."""
    found = store.read_typed(store.root / FILE, RANKS_FILE)
    row = found.methods.get(method, {}) if found else {}
    return {name: row.get(name) for name in COLUMNS}


def require_one(stores: Sequence[Store]) -> None:
    """Raise UserError if runs of one leaderboard were ranked in different studies."""
    known = {store: found.study for store in stores if (found := store.read_typed(store.root / FILE, RANKS_FILE))}
    first = next(iter(known), None)
    for store, study in known.items():
        if first is not None and study != known[first]:
            raise UserError(
                f"{first.root} and {store.root} were ranked in different user studies, whose ranks are not comparable; "
                f"delete {FILE} in one of them."
            )


def published(path: Path) -> list[dict[str, Any]]:
    """Published average ranks: a CSV with method and at least one of q1_rank, q2_rank, q3_rank.

    Raises UserError if a column is impossible for rankings of k methods: a rank outside 1 to k, or a sum other than
    k (k + 1) / 2.
    """
    from evaluation.ranking import check_means  # imports scipy.stats, which no other leaderboard needs

    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV in UTF-8 ({one_line(error)}); export it again.") from error
    given = [name for name in RANKS if rows and rows[0].get(name)]
    if not given or "method" not in rows[0]:
        raise UserError(f"{path} contains no average ranks; pass a CSV with columns method, {', '.join(RANKS)}.")
    try:
        found: list[dict[str, Any]] = [
            {"method": row["method"], **{name: float(row[name] or "nan") for name in given}} for row in rows
        ]
        for name in given:
            check_means([row[name] for row in found])
    except (EvaluationError, TypeError, ValueError) as error:
        raise UserError(f"{path}: {one_line(error)}; compare it with the published table.") from error
    return found
