"""Quality over time: the scores of each asset after shares of its iterations, over their cost (`bench --score-at`).

`curves.csv` has a row for each asset and share, also for those without scores: `status` and `error` say why.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluation.statistics import Mean, mean_over_prompts
from pipeline.leaderboard.markdown_report import escaped
from pipeline.leaderboard.table import aligned, csv, from_rows
from pipeline.plan import score_at
from pipeline.plan.metrics import COMPARED, PER_VIEW, Metric, shown
from pipeline.store.records import Done, Record, ScoredSnapshot, Snapshot
from pipeline.store.results import RunResults
from pipeline.store.run_folder import CURVES

COSTS = {"iterations": "iterations", "seconds": "seconds", "unet_samples": "U-Net samples"}  # column: title
TITLE = "Quality over time"
NOT_TAKEN = "generated without this snapshot"
LEGEND = (
    "Seconds include the initialization. U-Net samples are latents that the prior's U-Net denoised, without VSD's "
    "adapters. Fréchet distances are computed only for finished assets."
)


Row = dict[str, Any]


class Point(NamedTuple):
    """Averages over the assets of a method after a share of the iterations, by column: None if one is not known."""

    share: float
    assets: int
    costs: dict[str, float | None]
    scores: dict[str, Mean]


class Curve(NamedTuple):
    """The points of a method, in ascending order, and what they lack, if anything."""

    method: str
    points: list[Point]
    note: str


def rows(runs: Sequence[RunResults]) -> list[Row]:
    """`curves.csv`: none without `--score-at`. Imported methods have none either, as their costs are not known."""
    return [row for run in runs for assets in _by_method(run).values() for own in assets for row in own]


def table_of(found: Sequence[Row]) -> bytes:
    """The bytes of `curves.csv`."""
    return csv(from_rows(list(found)).astype({"unet_samples": "Int64"}))  # else integers with empty cells are floats


def curves(run: RunResults) -> list[Curve]:
    """The curve of each method that has a scored asset, over the assets with scores at all shares.

    With the other ones, the points of a curve would be averages over different prompts. If all assets lack scores at
    some share, the curve has only its end.
    """
    found = []
    for method, assets in _by_method(run).items():
        ended = [own for own in assets if own[-1]["status"] == "done"]
        whole = [own for own in ended if all(row["status"] == "done" for row in own)]
        points = [_point(run, rows) for rows in zip(*(whole or [own[-1:] for own in ended]), strict=True)]
        if points:
            found.append(Curve(method, points, _note(len(whole), len(ended))))
    return found


def lines(found: Sequence[Curve]) -> list[list[str]]:
    """The points of curves as texts; the header is the first line."""
    metrics = list(dict.fromkeys(name for curve in found for point in curve.points for name in point.scores))
    return [["method", "share", "prompts", *COSTS.values(), *metrics]] + [
        [curve.method, f"{point.share:g}", str(point.assets)]
        + [_number(point.costs[name]) for name in COSTS]
        + [_cell(point.scores.get(name)) for name in metrics]
        for curve in found
        for point in curve.points
    ]


def section(run: RunResults) -> str:
    """The section of report.md; empty without `--score-at`."""
    if not (found := curves(run)):
        return ""
    notes = "".join(f"\n{escaped(curve.method)}: {curve.note}.\n" for curve in found if curve.note)
    table = aligned([list(map(escaped, line)) for line in lines(found)])
    return f"## {TITLE}\n\nAverages over prompts ± standard error. {LEGEND} Values: `{CURVES}`.\n\n{table}{notes}"


def _by_method(run: RunResults) -> dict[str, list[list[Row]]]:
    """The rows of each asset, in the order of the shares."""
    about = run.manifest
    if not about.score_at:
        return {}
    metrics = shown(PER_VIEW, (record.scores for record in run.records.values()))
    return {
        method: [list(_rows(run, record, metrics)) for record in run.of(method)] for method in about.generated_methods
    }


def _rows(run: RunResults, record: Record, metrics: Sequence[Metric]) -> Iterator[Row]:
    iterations, facts = run.manifest.settings(record.method)["iterations"], record.costs
    costs = {snapshot.iteration: snapshot for snapshot in (facts and facts.snapshots) or ()}
    if facts:
        end = Snapshot(iteration=iterations, seconds=facts.optimize_seconds, unet_samples=facts.unet_samples)
        costs[iterations] = end
    scored = {snapshot.iteration: snapshot for snapshot in record.snapshots or ()}
    scored[iterations] = ScoredSnapshot(iteration=iterations, scores=record.scores)
    for share in run.manifest.score_at or ():
        at = score_at.iteration(share, iterations)
        cost, found, status, error = costs.get(at), scored.get(at), record.status, record.error
        if isinstance(record, Done) and not (found and found.scores):
            status, error = "missing", (found and found.error) or NOT_TAKEN
        yield {
            "run_id": run.manifest.run_id,
            "method": record.method,
            "prompt": record.prompt,
            "seed": record.seed,
            "share": share,
            "iterations": at,
            "seconds": cost and cost.seconds,
            "unet_samples": cost and cost.unet_samples,
            **{f"{m.id}@{run.models}": found.scores.get(m.id, {}).get("mean") if found else None for m in metrics},
            "status": status,
            "error": error,
        }


def _point(run: RunResults, rows: Sequence[Row]) -> Point:
    """The averages of rows that are all done."""
    known = {name: [row[name] for row in rows] for name in rows[0]}
    costs = {name: None if None in known[name] else float(np.mean(known[name])) for name in COSTS}
    names = [name for name in (f"{metric.id}@{run.models}" for metric in COMPARED) if name in known]
    scores = {name: mean_over_prompts(np.array(known[name])) for name in names if None not in known[name]}
    return Point(rows[0]["share"], len(rows), costs, scores)


def _note(whole: int, ended: int) -> str:
    """What a curve lacks."""
    if whole == ended:
        return ""
    if not whole:
        return "no asset has scores at all shares, so only the end is shown"
    return f"{ended - whole} of {ended} assets lack scores at some share and are left out"


def _number(cost: float | None) -> str:
    return "" if cost is None else f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}"


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return ""
    return f"{mean.value:.4g}" if mean.standard_error is None else f"{mean.value:.4g} ± {mean.standard_error:.2g}"
