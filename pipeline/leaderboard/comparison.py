"""Compares the methods of one run: a grid of their assets, and differences from the first method paired by prompt."""

from typing import Any

import numpy as np

from evaluation.statistics import paired_difference
from pipeline.assets import images
from pipeline.leaderboard.markdown_report import escaped
from pipeline.plan.metrics import COMPARED, PER_VIEW, shown
from pipeline.plan.sweep import formatted
from pipeline.store.records import Failed, Record
from pipeline.store.results import RunResults
from pipeline.store.run_folder import CONTACT, DIFFERENCES, GRID
from sctd.recipe.names import current as current_name

CONFIDENCE = 0.95  # that all intervals of one metric hold simultaneously


def cells(run: RunResults) -> list[dict[str, Any]]:
    """`grid.csv`: a row per job, with its swept settings."""
    rows, settings = [], {method: run.manifest.settings(method) for method in run.methods}
    metrics = shown(PER_VIEW, (record.scores for record in run.records.values()))
    for record in run.records.values():
        scores, facts, costs = record.scores, record.generation, record.costs
        rows.append(
            {"method": record.method, "objective": record.objective}
            | {key: _cell(settings[record.method], current_name(key)) for key in run.manifest.swept}
            | {"prompt": record.prompt, "seed": record.seed, "status": record.status}
            | {f"{metric.id}@{run.models}": scores.get(metric.id, {}).get("mean") for metric in metrics}
            | {"seconds": costs and costs.seconds}
            | {"asset": f"items/{record.job_id}/{facts.object_file}" if facts else None}
        )
    return rows


def _cell(settings: dict[str, Any], key: str) -> str:
    """A setting of a method as text; empty for imported methods, which have none."""
    return formatted(settings[key]) if key in settings else ""


def grid(run: RunResults) -> bytes:
    """`grid.png`: a row per prompt, a column per method."""
    prompts = run.manifest.prompts
    records = {(record.prompt, record.method): record for record in run.records.values()}
    tiles = [[_tile(run, records.get((prompt, method))) for method in run.methods] for prompt in prompts]
    return images.grid([run.label(method) for method in run.methods], prompts, tiles)


def differences(run: RunResults) -> list[dict[str, Any]]:
    """`differences.csv`: each method minus the first, over the prompts that both finished.

    Intervals are widened by Bonferroni's correction, so that all intervals of one metric hold simultaneously with
    95 % confidence. Both t-intervals and bootstrap intervals are given.
    """
    first, *others = run.methods
    confidence = 1 - (1 - CONFIDENCE) / len(others)
    return [
        _difference(run, metric.id, first, other, confidence)
        for metric in shown(COMPARED, (record.scores for record in run.records.values()))
        for other in others
        if run.of(other)
    ]


def markdown(run: RunResults, found: list[dict[str, Any]]) -> str:
    """The comparison section of report.md: the grid, and the differences by metric."""
    metrics = list(dict.fromkeys(row["metric"] for row in found))
    lines = [["method", *metrics], ["---"] * (1 + len(metrics))]
    for method in run.methods[1:]:
        own = {row["metric"]: row for row in found if row["method"] == method}
        lines.append([escaped(run.label(method)), *(_interval(own[metric]) for metric in metrics)])
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return (
        f"## Comparison of methods\n\n![every prompt by every method{run.shown_note}]({GRID})\n\n"
        f"Values: `grid.csv`.\n\n"
        f"Each method minus `{run.methods[0]}`, over the prompts that both finished (their number in brackets).\n"
        f"All t-intervals of a metric hold simultaneously with 95 % confidence; those in bold exclude 0. "
        f"Details: `{DIFFERENCES}`.\n\n{rows}"
    )


def _tile(run: RunResults, record: Record | None) -> images.Tile:
    if record is None:
        return images.Tile(None, "unfinished")
    sheet, scores = run.store.item(record.job_id) / CONTACT, record.scores
    score_line = "  ".join(f"{m.id} {scores[m.id]['mean']:.3g}" for m in COMPARED if m.id in scores)
    caption = f"failed: {record.error_kind}" if isinstance(record, Failed) else score_line or record.status
    return images.Tile(sheet.read_bytes() if sheet.exists() else None, caption)


def _difference(run: RunResults, metric: str, first: str, other: str, confidence: float) -> dict[str, Any]:
    ours, theirs = (
        {(r.prompt, r.seed): r.scores[metric]["mean"] for r in run.done(method) if metric in r.scores}
        for method in (other, first)
    )
    both = [key for key in ours if key in theirs]
    row = {"method": other, "minus": first, "metric": f"{metric}@{run.models}", "n_prompts": len(both)}
    names = "difference", "standard_error", "low", "high", "bootstrap_low", "bootstrap_high"
    values: list[float | None] = [None] * len(names)
    if both:
        pairs = np.array([[ours[key], theirs[key]] for key in both])
        found = paired_difference(pairs[:, 0], pairs[:, 1], np.random.default_rng(0), confidence)
        mean = found.mean
        values = [mean.value, mean.standard_error, mean.low, mean.high, found.bootstrap_low, found.bootstrap_high]
    return row | dict(zip(names, values, strict=True)) | {"confidence": confidence}


def _interval(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    count = f" [{row['n_prompts']}]"
    if row["low"] is None:
        return f"{row['difference']:+.3g}{count}"
    text = f"{row['difference']:+.3g} ({row['low']:+.3g} to {row['high']:+.3g})"
    return (f"**{text}**" if row["low"] > 0 or row["high"] < 0 else text) + count
