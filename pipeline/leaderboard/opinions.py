"""Reads people's opinions from a CSV: a score, several dimensions as columns, or ranks such as those of a user study.

    method,prompt,score    model,prompt,Alignment,Geometry,…    voter,prompt,question,method,rank

The second is the layout of MATE-3D and T23D-CompBench. A column `rater` allows a row for each rater; the opinion on an
asset is the average over raters.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from pipeline.errors import UserError, nearest, shortened
from pipeline.store import files
from sctd.errors import one_line

METHODS, RATERS = ("method", "model"), ("rater", "voter")
NO_OPINION = {"", "index", "id", "file", "seed", "group", "rank", "question"}  # columns that have other numbers
NOT_APPLICABLE = {"attribute alignment", "interaction alignment"}  # T23D-CompBench: 0 if the prompt has none
COMPBENCH = NOT_APPLICABLE | {"3d authentic"}
VOTES = "votes.csv"  # of a study
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Opinions:
    """The average opinion by dimension and by (method, prompt) as the file writes them; higher is better.

    `is_ranking`: opinions are ranks within a prompt, negative, which cannot be compared between prompts.
    """

    source: str
    dimensions: dict[str, dict[tuple[str, str], float]]
    is_ranking: bool


class _Rating(NamedTuple):
    line: int
    dimension: str
    method: str
    prompt: str
    rater: str
    value: float


class _Table(NamedTuple):
    """A CSV: the column of each name in lower case, the names as written, and the rows by their last line."""

    path: Path
    columns: dict[str, int]
    names: list[str]
    rows: dict[int, list[str]]
    has_decimal_commas: bool

    def column(self, *names: str) -> int | None:
        return next((self.columns[name] for name in names if name in self.columns), None)

    def number(self, line: int, column: int) -> float | None:
        """The number in a cell; None if it is empty. Raises UserError."""
        text = self.rows[line][column]
        try:
            value = float(text.replace(",", ".") if self.has_decimal_commas else text) if text else None
        except ValueError:
            value = math.nan
        if value is not None and not math.isfinite(value):
            raise UserError(
                f"{self.path}, line {line}: {self.names[column]} is {shortened(text)!r}; expected a finite number, or "
                "an empty cell if there is no opinion."
            )
        return value


def read(path: Path, dimensions: Sequence[str] = ()) -> Opinions:
    """The opinions in a CSV or in the folder of a study; `dimensions` selects some. Raises UserError."""
    if path.is_dir() and not (path / VOTES).exists():
        raise UserError(
            f"{path} is a folder without {VOTES}; pass a CSV, or the folder of a study after segmentdreamer study "
            "results."
        )
    table = _table(path / VOTES if path.is_dir() else path)
    if not table.rows:
        raise _empty(table.path)
    ratings = list(_ranks(table) if "rank" in table.columns else _scores(table, dimensions))
    if not ratings:
        raise _empty(table.path)
    known = {rating.dimension.casefold(): rating.dimension for rating in ratings}
    wanted = [_choice(table.path, name, known) for name in dimensions] or list(known.values())
    found: dict[str, dict[tuple[str, str], list[float]]] = {name: {} for name in wanted}
    seen: set[tuple[str, ...]] = set()
    for line, *key, value in ratings:
        dimension, method, prompt, _ = key
        if dimension not in found:
            continue
        if tuple(key) in seen:
            raise UserError(
                f"{table.path}, line {line}: a second opinion on {shortened(prompt)!r} by {method!r}; keep one, or add "
                "a column rater."
            )
        seen.add(tuple(key))
        found[dimension].setdefault((method, prompt), []).append(value)
    averages = {name: {asset: fmean(values) for asset, values in assets.items()} for name, assets in found.items()}
    return Opinions(table.path.name, averages, "rank" in table.columns)


def _scores(table: _Table, dimensions: Sequence[str]) -> Iterator[_Rating]:
    """The ratings in the columns of these dimensions: by default `score`, or else all that have numbers."""
    special = {*METHODS, *RATERS, *NO_OPINION, "prompt"}
    others = {name: column for name, column in table.columns.items() if name not in special}
    if dimensions:
        known = {name: table.names[column] for name, column in others.items()}
        chosen = [_choice(table.path, name, known).casefold() for name in dimensions]
    elif "score" in others:
        chosen = ["score"]
    else:
        chosen = [name for name, column in others.items() if _has_numbers(table, column)]
        if metrics := [table.names[others[name]] for name in chosen if "@" in name]:
            raise UserError(
                f"{table.path} has scores of metrics ({metrics[0]}); name the columns of people's opinions with "
                "--dimension."
            )
    if not chosen:
        raise _missing(table, "score")
    skips_zero = NOT_APPLICABLE if table.columns.keys() >= COMPBENCH else ()
    for line, method, prompt, rater in _assets(table):
        for name in chosen:
            value = table.number(line, column := table.columns[name])
            if value is not None and not (value == 0 and name in skips_zero):
                yield _Rating(line, table.names[column], method, prompt, rater, value)


def _ranks(table: _Table) -> Iterator[_Rating]:
    """The ranks in the column `rank`, negative, with the question as the dimension if there is one."""
    question = table.column("question")
    for line, method, prompt, rater in _assets(table):
        dimension = "rank" if question is None else table.rows[line][question]
        if (rank := table.number(line, table.columns["rank"])) is not None:
            yield _Rating(line, dimension, method, prompt, rater, -rank)


def _assets(table: _Table) -> Iterator[tuple[int, str, str, str]]:
    """Line, method, prompt and rater of each row. Raises UserError."""
    method, prompt, rater = table.column(*METHODS), table.column("prompt"), table.column(*RATERS)
    if method is None or prompt is None:
        raise _missing(table, "prompt" if method is not None else "method")
    for line, row in table.rows.items():
        if not row[method] or not row[prompt]:
            raise UserError(f"{table.path}, line {line} names no method or no prompt; fill in both, or remove the row.")
        yield line, row[method], row[prompt], "" if rater is None else row[rater]


def _table(path: Path) -> _Table:
    try:
        text = files.read(path).decode("utf-8-sig")
        head = next((line for line in text.splitlines() if line.strip()), "")
        delimiter = max(DELIMITERS, key=head.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = dict((reader.line_num, [cell.strip() for cell in row]) for row in reader)  # noqa: C402  a new key each
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or 'file not found'}); pass a CSV of opinions."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV in UTF-8 ({one_line(error)}); export it again.") from error
    rows = {line: row for line, row in rows.items() if any(row)}
    names = rows.pop(next(iter(rows)), []) if rows else []
    plain = [name.casefold() for name in names]
    if twice := [name for name in plain if name and plain.count(name) > 1]:
        raise UserError(f"{path} has two columns {twice[0]!r}; rename or remove one.")
    for line, row in rows.items():
        if len(row) != len(names):
            raise UserError(
                f"{path}, line {line} has {len(row)} cells and the header {len(names)}; quote texts that contain "
                f"{delimiter!r}."
            )
    columns = {name: number for number, name in enumerate(plain)}
    return _Table(path, columns, names, rows, has_decimal_commas=delimiter != ",")


def _has_numbers(table: _Table, column: int) -> bool:
    for line in table.rows:
        with suppress(UserError):
            if table.number(line, column) is not None:
                return True
    return False


def _choice(path: Path, name: str, known: Mapping[str, str]) -> str:
    if (found := known.get(name.strip().casefold())) is None:
        names = list(known.values())
        raise UserError(f"{path} has no dimension {name!r}; choose from {', '.join(names)}{nearest(name, names)}.")
    return found


def _empty(path: Path) -> UserError:
    return UserError(f"{path} contains no opinions; write a header and a row per asset: method,prompt,score.")


def _missing(table: _Table, column: str) -> UserError:
    names = shortened(", ".join(table.names), 120)
    return UserError(
        f"{table.path} has no column {column!r} (columns: {names}); expected method or model, prompt, and score or a "
        "column for each dimension."
    )
