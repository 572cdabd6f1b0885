"""Builds the leaderboard from a run's records: a row per method and run, and a row per object.

A value that could not be computed is an empty cell, never zero, and each average states its number of prompts. The
paper's published numbers have separate rows and columns (`clip@Table-2`). Only this module imports pandas.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from evaluation.references import require_one_reference
from evaluation.statistics import mean_over_prompts
from pipeline.digests import digest
from pipeline.errors import UserError
from pipeline.leaderboard import paper_table, user_study
from pipeline.leaderboard.columns import definitions
from pipeline.leaderboard.paper_table import PAPER_RECIPES
from pipeline.plan.metrics import ARROWS, COMPARED, METRICS, PER_VIEW
from pipeline.reference.distances import DistanceCache
from pipeline.store.records import Done, Failed, Record
from pipeline.store.results import Features, RunResults
from pipeline.weights.models import EMBEDDED
from pipeline.weights.networks import DISTANCES
from sctd.errors import one_line

IMPORTED = "imported"  # the source of the rows of other people's assets
FORMULA_MARKS = "=", "+", "-", "@", "\t", "\r"


def leaderboard(
    runs: Sequence[RunResults], *, paper: bool | None = None, cache: DistanceCache | None = None
) -> pd.DataFrame:
    """`leaderboard.csv`: a row per method of each run. Raises EvaluationError for runs with different references.

    `paper` appends the rows of the paper's Table 2; None appends them if published models ran the paper's recipe.
    `cache` has the distances that are known, by default those in the run folders.
    """
    cache = DistanceCache.read(run.store for run in runs) if cache is None else cache
    user_study.require_one([run.store for run in runs])
    rows = [_row(run, method, cache) for run in runs for method in run.methods]
    for models in {run.models for run in runs}:
        for distance in DISTANCES.values():
            column = f"{distance.metric}@{models}"
            keys = {row[distance.key_column] for row in rows if row.get(column) is not None}
            require_one_reference(keys or {""}, column)
    table = pd.DataFrame(rows)
    if paper is None:
        published = [run for run in runs if run.models != EMBEDDED]
        paper = any(
            recipe.get("name") in PAPER_RECIPES for run in published for recipe in run.manifest.recipes.values()
        )
    if not paper:
        return table
    whole = table.select_dtypes("integer").columns  # keep these integers although the paper's rows leave them empty
    return pd.concat([table.astype(dict.fromkeys(whole, "Int64")), pd.DataFrame(paper_table.rows())], ignore_index=True)


def per_object(run: RunResults) -> pd.DataFrame:
    """`per_object.csv`: a row per job."""
    return pd.DataFrame([_object(run, record) for record in run.records.values()])


def from_rows(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Plain rows as a table for `csv`."""
    return pd.DataFrame(rows)


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain values; None is an empty cell."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def csv(table: pd.DataFrame) -> bytes:
    """A CSV that spreadsheets display as text: `read_csv` restores the values, except that every line ends with "\\n".

    A text that a spreadsheet would run as a formula, such as a prompt that starts with "=", gets a leading apostrophe.
    Excel needs a byte-order mark to read other characters than ASCII; without such characters there is none.
    """
    texts = {name: table[name].map(_guarded) for name in table if table[name].dtype.kind not in "biuf"}
    text = table.assign(**texts).to_csv(index=False, lineterminator="\n")
    return text.encode("utf-8" if text.isascii() else "utf-8-sig")


def read_csv(content: bytes) -> pd.DataFrame:
    """The table of `csv`. Raises UserError for other bytes."""
    try:
        table = pd.read_csv(io.BytesIO(content), encoding="utf-8-sig")
    except ValueError as error:  # also those of encodings and of pandas' parser
        raise UserError(f"The table is not a CSV in UTF-8 ({one_line(error)}); generate it again.") from error
    return table.map(lambda value: value[1:] if _is_formula(value) and value.startswith("'") else value)


def _guarded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    value = value.replace("\r\n", "\n").replace("\r", "\n")  # pandas writes a lone "\r" as the end of a row
    return f"'{value}" if _is_formula(value) else value


def _is_formula(value: Any) -> bool:
    """Whether a value, perhaps after apostrophes, is a text that starts like a formula and is no number."""
    if not isinstance(value, str) or not value.lstrip("'").startswith(FORMULA_MARKS):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def json_rows(table: pd.DataFrame) -> str:
    """A JSON list of rows; an empty cell is null."""
    return table.to_json(orient="records", indent=2, force_ascii=False)


def markdown(table: pd.DataFrame, *, brief: bool = False) -> str:
    """The leaderboard as Markdown: value ± standard error, the best value of each column in bold.

    `brief` leaves out details to fit a terminal. The paper's rows follow as a separate table.
    """
    has_paper, table = (table["source"] == "paper").any(), table[table["source"] != "paper"]
    columns = definitions(table.columns)
    metrics = [name for name in table.columns if columns.get(name, {}).get("direction") and table[name].notna().any()]
    if brief:
        metrics = [name for name in metrics if METRICS[name.partition("@")[0]].brief]
    labels = ["run_id", "method"] if table["run_id"].nunique() > 1 else ["method"]
    lines = [[*labels, "prompts", *(f"{name} {ARROWS[columns[name]['direction']]}" for name in metrics)]]
    for _, row in table.iterrows():
        prompts = f"{row.n_prompts - row.n_failed} of {row.n_prompts}" if row.n_failed else f"{row.n_prompts}"
        cells = (_cell(table, row, name, columns[name]["direction"]) for name in metrics)
        mark = f" ({IMPORTED})" if row["source"] == IMPORTED else ""
        lines.append([*(row[name] for name in labels[:-1]), f"{row['method']}{mark}", prompts, *cells])
    return aligned(lines) + (f"\n{paper_table.CAPTION}\n{aligned(paper_table.lines())}" if has_paper else "")


def aligned(lines: list[list[str]]) -> str:
    """A Markdown table with padded columns; the first line is the header."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in ruled)
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def _row(run: RunResults, method: str, cache: DistanceCache) -> dict[str, Any]:
    about, records, done = run.manifest, run.of(method), run.done(method)
    recipe, session, is_imported = about.settings(method), about.sessions[-1], method in about.imported
    identity = {
        "run_id": about.run_id,
        "date_utc": session.started_utc,
        "method": method,
        "recipe": recipe.get("name"),
        "source": IMPORTED if is_imported else "run",
        "comparable": True,
        "guidance": None if is_imported else "perp-neg" if recipe.get("guidance.perp_neg") else "cfg",
        "cfg_scale": recipe.get("guidance.scale"),
        "n_prompts": len(records),
        "n_seeds": len({record.seed for record in records}),
        "n_views": about.views,
        "n_failed": sum(isinstance(record, Failed) for record in records),
        "protocol": about.protocol,
    }
    origin = {
        "prompts_sha": digest(sorted(record.prompt for record in records))[:16],
        "ref_key": None,
        "weights_sha": digest(about.weights.sha256)[:16],
        "metric_version": about.metric_version,
        "code_sha": session.commit,
        "env_sha": digest(session.versions)[:16],
    }
    if done:
        distances, keys = _distances(run, done, cache)
        identity |= _averages(run.models, done) | _penalised(run, records) | distances | _costs(done)
        origin |= keys
    else:
        identity |= _penalised(run, records)
    return identity | user_study.columns(run.store, method) | origin


def _averages(models: str, done: list[Done]) -> dict[str, Any]:
    """The averages of the metrics that every record has: those of older versions may lack some."""
    row: dict[str, Any] = {}
    for metric in PER_VIEW:
        if not all(metric.id in record.scores for record in done):
            continue
        name = f"{metric.id}@{models}"
        mean = mean_over_prompts(_column(done, metric.id, "mean")) if len(done) >= metric.min_objects else None
        row |= {name: mean and mean.value, f"{name}_se": mean and mean.standard_error}
        if metric.compared:
            row |= {f"{name}_lo": mean and mean.low, f"{name}_hi": mean and mean.high}
            row[f"{metric.lowest_tenth.id}@{models}"] = float(_column(done, metric.id, "p10").mean())
    return row


def _penalised(run: RunResults, records: list[Record]) -> dict[str, Any]:
    """The averages with the score of a white image for each failed job; absent if no job failed."""
    if not run.failed or run.blank is None:
        return {}
    row: dict[str, Any] = {}
    ended = [record for record in records if isinstance(record, Done | Failed)]
    for metric in COMPARED:
        values = [
            run.blank.get(record.prompt, {}).get(metric.id)
            if isinstance(record, Failed)
            else record.scores.get(metric.id, {}).get("mean")
            for record in ended
        ]
        if values and None not in values:
            mean, name = mean_over_prompts(np.array(values)), f"{metric.penalised.id}@{run.models}"
            row |= {name: mean.value, f"{name}_se": mean.standard_error}
    return row


def _distances(run: RunResults, done: list[Done], cache: DistanceCache) -> tuple[dict[str, Any], dict[str, str]]:
    """The distances of all views to each reference, and the references' keys by column."""
    row: dict[str, Any] = {}
    keys = {}
    for distance in run.distances:
        reference = run.reference(distance)
        features = Features(run, tuple(done), distance, len(reference.moments.total))
        estimates = cache.estimates(distance, features, reference, run.manifest.metric_version, features.content)
        for metric, estimate in estimates.items():
            name = f"{metric}@{run.models}"
            row |= {name: estimate and estimate.value, f"{name}_se": estimate and estimate.standard_error}
        keys[distance.key_column] = reference.key
    return row, keys


def _costs(done: list[Done]) -> dict[str, Any]:
    """The costs of generated assets, and the size of all assets of Gaussians."""
    generated = [record.costs for record in done if record.costs]
    counts = [count for record in done if (count := record.generation.num_gaussians) is not None]
    return {
        "time_min": sum(facts.seconds for facts in generated) / 60 / len(generated) if generated else None,
        "peak_gib": max(facts.peak_bytes for facts in generated) / 2**30 if generated else None,
        "n_gauss": sum(counts) / len(counts) if counts else None,
        "gpu": ", ".join(sorted({facts.device for facts in generated})) or None,
    }


def _object(run: RunResults, record: Record) -> dict[str, Any]:
    row = {
        "run_id": run.manifest.run_id,
        "method": record.method,
        "prompt_id": record.prompt_id,
        "prompt": record.prompt,
        "seed": record.seed,
        "status": record.status,
        "error_kind": record.error_kind,
        "error": record.error,
        "deaths": record.deaths,
    }
    for metric, summary in record.scores.items():
        name = f"{metric}@{run.models}"
        row |= {name: summary["mean"]}
        if metric in METRICS and METRICS[metric].compared:
            row |= {f"{name}_sd": summary["sd"], f"{name}_p10": summary["p10"]}
    facts, costs = record.generation, record.costs
    return row | {
        "t_init_s": costs and costs.init_seconds,
        "t_opt_s": costs and costs.optimize_seconds,
        "t_total_s": costs and costs.seconds,
        "t_eval_s": record.evaluation_seconds,
        "resumed_from": costs and costs.resumed_from,
        "n_gauss": facts and facts.num_gaussians,
        "asset": f"items/{record.job_id}/{facts.object_file}" if facts else None,
        "key": record.job_id,
    }


def _column(done: list[Done], metric: str, statistic: str) -> np.ndarray:
    return np.array([record.scores[metric][statistic] for record in done])


def _cell(table: pd.DataFrame, row: pd.Series, name: str, direction: str) -> str:
    value = row[name]
    if pd.isna(value):
        return ""
    error = row.get(f"{name}_se")
    text = f"{value:.4g}" if error is None or pd.isna(error) else f"{value:.4g} ± {error:.2g}"
    best = table[name].max() if direction == "higher" else table[name].min()
    return f"**{text}**" if len(table) > 1 and value == best else text
