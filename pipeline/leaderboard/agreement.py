"""How well the metrics of a run agree with people's opinions: matching, statistics, and their table in Markdown.

agreement.csv has a row for each dimension of the opinions, metric and level; agreement_prompts.csv one for each prompt.
agreement.json has the rows for report.md and the report pages, and a digest of the scores that they were computed from.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter

from evaluation.agreement import Agreement, Interval, Ratings, agreement, by_prompt
from pipeline.digests import digest
from pipeline.errors import UserError, shortened
from pipeline.leaderboard.markdown_report import escaped
from pipeline.leaderboard.opinions import Opinions
from pipeline.leaderboard.table import aligned
from pipeline.plan.metrics import METRICS
from pipeline.store.records import Done, Stored
from pipeline.store.results import RunResults

FILE, TABLE, PROMPT_TABLE = "agreement.json", "agreement.csv", "agreement_prompts.csv"
FEWEST_PROMPTS = 8  # below, intervals of 95 % cover 86 to 93 %
SIGNS = {"higher": 1, "lower": -1}
NAMED = 3  # unmatched names in a message
LEVELS = {
    "prompts": "Within prompts: the mean of the statistics of each prompt",
    "methods": "Methods: averages over prompts",
    "assets": "All assets in one ranking, where an easy prompt counts as much as a good method",
}
PLOTTED = {"prompts": "within prompts", "methods": "methods", "assets": "all assets"}
STATISTICS = {"kendall": "Kendall's τ-b", "spearman": "Spearman's ρ", "accuracy": "pairwise accuracy"}
CHANCE = {"kendall": 0.0, "spearman": 0.0, "accuracy": 0.5}
LEGEND = (
    "In brackets: 95 % bootstrap interval over prompts, of each number for itself; bold if it excludes chance (0, or "
    "1/2 for the accuracy). Accuracy: share of pairs of assets, rated differently by people, of which the metric "
    "prefers the same one; 1/2 for a pair that it ties."
)
DEFINITIONS = {
    "kendall": ("correlation", "rank correlation τ-b of a metric and opinions"),
    "spearman": ("correlation", "rank correlation ρ of a metric and opinions"),
    "accuracy": (
        "share",
        "pairs of assets, rated differently by people, of which the metric prefers the same one; ties 1/2",
    ),
}


class Row(Stored):
    """A row of `agreement.csv`. `count`: prompts, methods or assets that the statistics are computed from."""

    dimension: str
    metric: str
    level: str
    count: int
    n_prompts: int
    n_assets: int
    kendall: float | None = None
    kendall_lo: float | None = None
    kendall_hi: float | None = None
    spearman: float | None = None
    spearman_lo: float | None = None
    spearman_hi: float | None = None
    accuracy: float | None = None
    accuracy_lo: float | None = None
    accuracy_hi: float | None = None

    def interval(self, statistic: str) -> Interval:
        return Interval(*(getattr(self, f"{statistic}{end}") for end in ("", "_lo", "_hi")))

    @property
    def columns(self) -> dict[str, Any]:
        """All columns, with None for what is not defined."""
        return {name: getattr(self, name) for name in Row.model_fields}


class Agreements(Stored):
    """`agreement.json`. `note` is a sentence on what the opinions and the run do not share."""

    opinions: str
    scores: str
    seed: int
    note: str = ""
    rows: tuple[Row, ...]


AGREEMENT_FILE = TypeAdapter(Agreements)


@dataclass(frozen=True)
class _Matched:
    """The assets of a run that people rated: (method, prompt), their opinions by dimension, and their scores."""

    assets: list[tuple[str, str]]
    opinions: dict[str, dict[tuple[str, str], float]]
    scores: dict[tuple[str, str], dict[str, float]]
    left_out: list[str]


class Found(NamedTuple):
    """The value of agreement.json, and the rows of agreement_prompts.csv."""

    agreements: Agreements
    prompts: list[dict[str, Any]]


def found(run: RunResults, opinions: Opinions, seed: int = 0) -> Found:
    """The agreement of each metric with each dimension of the opinions. Raises UserError."""
    matched = _matched(run, opinions)
    rows: list[Row] = []
    prompts: list[dict[str, Any]] = []
    few = [name for name, rated in matched.opinions.items() if len({prompt for _, prompt in rated}) < FEWEST_PROMPTS]
    same = [name for name, rated in matched.opinions.items() if name not in few and len(set(rated.values())) == 1]
    for names, what in (
        (few, f"dimensions with opinions on fewer than {FEWEST_PROMPTS} prompts"),
        (same, "dimensions that rate all assets alike"),
    ):
        if names:
            matched.left_out.append(f"{what} ({', '.join(map(repr, names))})")
    metrics = list(dict.fromkeys(metric for scores in matched.scores.values() for metric in scores))
    for dimension, rated in matched.opinions.items():
        for metric in metrics if dimension not in (*few, *same) else ():
            assets = [asset for asset in matched.assets if asset in rated and metric in matched.scores[asset]]
            names = list(dict.fromkeys(prompt for _, prompt in assets))
            if len(names) < FEWEST_PROMPTS:  # the others were scored before the metric was added
                continue
            ratings = Ratings(
                np.array([matched.scores[asset][metric] for asset in assets]),
                np.array([rated[asset] for asset in assets], float),
                _numbers([prompt for _, prompt in assets]),
                _numbers([method for method, _ in assets]),
            )
            levels = agreement(ratings, np.random.default_rng(seed))
            for level in LEVELS:
                if level == "assets" and opinions.is_ranking:
                    continue
                rows.append(
                    Row(
                        dimension=dimension,
                        metric=metric,
                        level=level,
                        count=levels[level].units,
                        n_prompts=len(names),
                        n_assets=len(assets),
                        **_cells(levels[level]),
                    )
                )
            prompts += [
                {"dimension": dimension, "metric": metric, "prompt": prompt, "n_assets": row.assets}
                | {name: getattr(row, name) for name in STATISTICS}
                for prompt, row in zip(names, by_prompt(ratings), strict=True)
            ]
    if all(row.accuracy is None for row in rows):
        raise UserError(
            f"{opinions.source} has no two different opinions to compare with {run.store.root}; expected assets of "
            f"several methods, rated differently. {_sentence(matched.left_out)}".rstrip()
        )
    return Found(
        Agreements(
            opinions=opinions.source,
            scores=_scores_digest(run),
            seed=seed,
            note=_sentence(matched.left_out),
            rows=tuple(rows),
        ),
        prompts,
    )


def _cells(level: Agreement) -> dict[str, Any]:
    """The columns of the statistics and the ends of their intervals."""
    return {
        f"{name}{end}": value
        for name in STATISTICS
        for end, value in zip(("", "_lo", "_hi"), getattr(level, name), strict=True)
    }


def read(run: RunResults) -> Agreements | None:
    """The agreements of a run; None if there are none, or if assets have been scored since."""
    known = run.store.read_typed(run.store.root / FILE, AGREEMENT_FILE)
    return known if known and known.scores == _scores_digest(run) else None


def definitions(known: Agreements | None) -> dict[str, dict[str, str]]:
    """The columns of `agreement.csv` for `columns.json`."""
    if known is None:
        return {}
    return {
        name: {"unit": unit, "direction": "higher", "definition": definition}
        for name, (unit, definition) in DEFINITIONS.items()
    }


class Cell(NamedTuple):
    """A cell of a table. `is_significant`: its interval excludes chance."""

    text: str
    is_significant: bool = False


def has_dimensions(known: Agreements) -> bool:
    return len({row.dimension for row in known.rows}) > 1


def tables(known: Agreements) -> dict[str, list[list[Cell]]]:
    """A table for each level that has a statistic, by its title; the header is the first line."""
    found = {}
    for level, title in LEVELS.items():
        rows = [row for row in known.rows if row.level == level and row.accuracy is not None]
        if rows:
            head = [*(["dimension"] if has_dimensions(known) else []), "metric", level, *STATISTICS.values()]
            found[title] = [
                list(map(Cell, head)),
                *(
                    [
                        *([Cell(row.dimension)] if has_dimensions(known) else []),
                        *(Cell(row.metric), Cell(str(row.count))),
                        *(_cell(row.interval(name), chance) for name, chance in CHANCE.items()),
                    ]
                    for row in rows
                ),
            ]
    return found


def plotted(known: Agreements) -> dict[str, dict[str, dict[str, tuple[float, float, float]]]]:
    """The values of the plot by statistic, metric and level: those with an interval, of metrics that are no details."""
    found: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for row in known.rows:
        metric = METRICS.get(row.metric.partition("@")[0])
        if metric is None or metric.is_detail:
            continue
        label = f"{row.dimension}: {row.metric}" if has_dimensions(known) else row.metric
        for name in ("kendall", "accuracy"):
            levels = found.setdefault(STATISTICS[name], {}).setdefault(label, {})
            value, low, high = row.interval(name)
            if value is not None and low is not None and high is not None:
                levels[PLOTTED[row.level]] = value, low, high
    return found


def markdown(known: Agreements) -> str:
    """The tables for report.md and the terminal."""
    parts = []
    for title, lines in tables(known).items():
        texts = [[f"**{cell.text}**" if cell.is_significant else escaped(cell.text) for cell in line] for line in lines]
        parts.append(f"{title}.\n\n{aligned(texts)}")
    return "\n".join([*parts, LEGEND, *([escaped(known.note)] if known.note else [])]) + "\n"


def section(run: RunResults) -> str:
    """The section of report.md; empty if people's opinions have not been compared."""
    if (known := read(run)) is None:
        if not (run.store.root / FILE).exists():
            return ""
        body = f"Assets have been scored since `{TABLE}` was written; run segmentdreamer agreement again.\n"
    else:
        body = f"Opinions: `{escaped(known.opinions)}`. Details: `{TABLE}`, `{PROMPT_TABLE}`.\n\n{markdown(known)}"
    return f"## Agreement with people\n\n{body}"


def _cell(interval: Interval, chance: float) -> Cell:
    if interval.value is None:
        return Cell("")
    if interval.low is None or interval.high is None:
        return Cell(f"{interval.value:.2f}")
    text = f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"
    return Cell(text, not interval.low <= chance <= interval.high)


def _matched(run: RunResults, opinions: Opinions) -> _Matched:
    """The assets of the run that people rated. Raises UserError if there are too few."""
    place, scores = run.store.root, _scores(run)
    if not scores:
        raise UserError(f"{place} has no scored asset; score it with segmentdreamer evaluate {place} first.")
    rated = list(dict.fromkeys(asset for assets in opinions.dimensions.values() for asset in assets))
    method_of = _lookup({method: (method, f"{run.manifest.run_id}/{method}") for method in run.methods})
    prompt_of = _lookup({record.prompt: (record.prompt, record.prompt_id) for record in run.records.values()})
    methods = {name: method_of(name) for name, _ in rated}
    prompts = {name: prompt_of(name) for _, name in rated}
    asset_of = {
        (method, prompt): (methods[method] or "", prompts[prompt] or "")
        for method, prompt in rated
        if methods[method] and prompts[prompt]
    }
    unscored = [asset for asset in asset_of.values() if asset not in scores]
    left_out = _left_out(run, opinions.source, methods, prompts, unscored, len(asset_of))
    if len(set(asset_of.values())) < len(asset_of):
        asset = Counter(asset_of.values()).most_common(1)[0][0]
        names = [" by ".join(map(repr, reversed(written))) for written, other in asset_of.items() if other == asset]
        raise UserError(f"{opinions.source} names one asset of {place} in two ways ({' and '.join(names)}); keep one.")
    known = {written: asset for written, asset in asset_of.items() if asset in scores}
    if (count := len({prompt for _, prompt in known.values()})) < FEWEST_PROMPTS:
        raise UserError(
            f"{opinions.source} has opinions on {count} scored prompts of {place}; expected at least {FEWEST_PROMPTS}."
            f" {_sentence(left_out)}".rstrip()
        )
    return _Matched(
        list(dict.fromkeys(known.values())),
        {
            dimension: {known[written]: value for written, value in values.items() if written in known}
            for dimension, values in opinions.dimensions.items()
        },
        scores,
        left_out,
    )


def _scores(run: RunResults) -> dict[tuple[str, str], dict[str, float]]:
    """The metrics of each scored asset, signed so that higher is better; averages if a prompt has several seeds."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for record in run.records.values():
        if not isinstance(record, Done):
            continue
        known = values.setdefault((record.method, record.prompt), {})
        for name, summary in record.scores.items():
            metric = METRICS.get(name)
            if metric is None or metric.better not in SIGNS or metric.is_cost:
                continue
            parts = [(metric, "mean"), *([(metric.lowest_tenth, "p10")] if metric.compared else [])]
            for part, statistic in parts:
                known.setdefault(f"{part.id}@{run.models}", []).append(SIGNS[part.better] * summary[statistic])
    return {asset: {name: fmean(each) for name, each in metrics.items()} for asset, metrics in values.items()}


def _scores_digest(run: RunResults) -> str:
    return digest({record.job_id: record.scores for record in run.records.values() if isinstance(record, Done)})


def _lookup(aliases: Mapping[str, Iterable[str]]) -> Callable[[str], str | None]:
    """Find a name by an alias as written, or else by one that differs in case, spaces and punctuation at its ends."""
    exact = {alias: name for name, own in aliases.items() for alias in own}
    plain: dict[str, set[str]] = {}
    for alias, name in exact.items():
        plain.setdefault(_plain(alias), set()).add(name)
    alone = {text: next(iter(names)) for text, names in plain.items() if len(names) == 1}
    return lambda text: exact.get(text) or alone.get(_plain(text))


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip(" .\"'")


def _left_out(
    run: RunResults,
    source: str,
    methods: Mapping[str, str | None],
    prompts: Mapping[str, str | None],
    unscored: Sequence[tuple[str, str]],
    rated: int,
) -> list[str]:
    """What only one side has. `methods` and `prompts` map the names in the opinions to those of the run."""
    parts = [f"{len(unscored)} of {rated} rated assets (no scores)"] if unscored else []
    for what, names, known in (("methods", methods, run.methods), ("prompts", prompts, run.manifest.prompts)):
        parts += [
            _alone([name for name, own in names.items() if own is None], f"{len(names)} {what} of {source}"),
            _alone([name for name in known if name not in names.values()], f"{len(known)} {what} of the run"),
        ]
    return [part for part in parts if part]


def _sentence(left_out: Sequence[str]) -> str:
    return f"Left out: {'; '.join(left_out)}." if left_out else ""


def _alone(names: Sequence[str], of: str) -> str:
    shown = ", ".join(repr(shortened(name)) for name in names[:NAMED])
    return f"{len(names)} of {of} ({shown}{', …' * (len(names) > NAMED)})" if names else ""


def _numbers(names: Sequence[str]) -> np.ndarray:
    """The number of each name, in the order of their first appearance."""
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names])
