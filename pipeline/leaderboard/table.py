"""Records → tables: one row per method and run, one row per object. The only pandas.

A number that could not be computed is an empty cell, never zero; every average says over how many prompts it went.
Metrics are named after the models that give them (`clip@embedded`), so that no column mixes judges. The paper's own
numbers have rows and columns of their own (`clip@Table-2`), below and beside the measured ones.
"""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.references import Reference, from_bytes, require_one_reference
from evaluation.statistics import mean_over_prompts
from pipeline.digests import digest
from pipeline.errors import UserError
from pipeline.leaderboard import paper_table, user_study
from pipeline.leaderboard.paper_table import PAPER_RECIPES
from pipeline.reference.distances import Kept
from pipeline.store import manifest
from pipeline.store.run_folder import ASSET, BLANK, EVALUATION, Store
from pipeline.store.run_folder import DISTANCES as KEPT
from pipeline.weights.models import EMBEDDED, digest_of
from pipeline.weights.networks import DISTANCES, REQUIRED, Distance

MEANS = "clip", "ir"  # averaged over views, then over prompts
DETAILS = "clip_p10", "ir_p10", "kid_cl", "kid_cl_inception", "fid_tf"  # left out where there is little room


@dataclass(frozen=True)
class Finished:
    """A run folder as it lies there: its manifest and how each of its jobs ended (None: not yet)."""

    store: Store
    manifest: dict[str, Any]
    records: dict[str, dict[str, Any] | None]
    kept: Kept = field(default_factory=lambda: Kept({}))
    blank: dict[str, dict[str, float]] | None = None
    """What a white picture scores for each prompt, by the same judges."""

    @classmethod
    def read(cls, store: Store) -> "Finished":
        """Raises UserError where there is no run."""
        settings = manifest.read(store)
        evaluation = settings.get("evaluation")  # an older folder's manifest has none
        records = {job["job_id"]: _current(store.record(job["job_id"]), evaluation) for job in settings["jobs"]}
        blank = store.read_json(store.root / BLANK) or {}
        scores = blank.get("scores") if blank.get("evaluation") == evaluation else None
        return cls(store, settings, records, Kept(store.read_json(store.root / KEPT) or {}), scores)

    @property
    def models(self) -> str:
        return self.manifest["weights"]["name"]

    @property
    def methods(self) -> list[str]:
        return list(self.manifest["recipes"])

    def jobs(self, method: str) -> list[dict[str, Any]]:
        return [job for job in self.manifest["jobs"] if job["method"] == method]

    def done(self, method: str) -> list[dict[str, Any]]:
        """The records with scores, in the order of the jobs."""
        found = (self.records[job["job_id"]] for job in self.jobs(method))
        return [record for record in found if record is not None and record["status"] == "done"]

    @property
    def distances(self) -> list[Distance]:
        """Those that this run was judged by."""
        parts = self.manifest["weights"]["sha256"]
        return [d for d in DISTANCES.values() if d.metric == REQUIRED or d.reference in parts]

    def reference(self, distance: Distance) -> Reference:
        """What a distance is taken from. Raises UserError where it is gone or another."""
        path = Path(self.manifest["weights"]["folder"]) / distance.reference
        if not path.is_file():
            raise UserError(f"{path}, which {self.store.root} was judged against, is gone; put it back.")
        known = self.manifest["weights"]["sha256"].get(distance.reference)
        if known and known != digest_of(path):
            raise UserError(
                f"{path} is not what {self.store.root} was judged against; put that back, or judge the assets again by "
                f"segmentdreamer evaluate {self.store.root}."
            )
        return from_bytes(path.read_bytes())

    @property
    def has_failures(self) -> bool:
        return any(map(_is_failed, self.records.values()))


def board(runs: list[Finished], *, paper: bool | None = None) -> pd.DataFrame:
    """`leaderboard.csv`: a row per method of each run. Raises EvaluationError for runs of different references.

    `paper` adds the rows of the paper's Table 2 below; None does where published models ran the paper's recipe.
    """
    user_study.require_one([run.store for run in runs])
    rows = [_row(run, method) for run in runs for method in run.methods]
    for models in {run.models for run in runs}:
        for distance in DISTANCES.values():
            column = f"{distance.metric}@{models}"
            keys = {row[distance.key_column] for row in rows if row.get(column) is not None}
            require_one_reference(keys or {""}, column)
    table = pd.DataFrame(rows)
    if paper is None:
        published = [run for run in runs if run.models != EMBEDDED]
        paper = any(recipe["name"] in PAPER_RECIPES for run in published for recipe in run.manifest["recipes"].values())
    if not paper:
        return table
    whole = table.select_dtypes("integer").columns  # which stay whole beside empty cells
    return pd.concat([table.astype(dict.fromkeys(whole, "Int64")), pd.DataFrame(paper_table.rows())], ignore_index=True)


def per_object(run: Finished) -> pd.DataFrame:
    """`per_object.csv`: a row per job."""
    return pd.DataFrame([_object(run, job) for job in run.manifest["jobs"]])


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of another module, as a table that `csv` takes."""
    return pd.DataFrame(rows)


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain values; None is an empty cell."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()


def read_csv(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content))


def json_rows(table: pd.DataFrame) -> str:
    """A list of rows; what a row lacks is null."""
    return table.to_json(orient="records", indent=2, force_ascii=False)


def markdown(table: pd.DataFrame, *, brief: bool = False) -> str:
    """The board for people: value ± standard error, ↑ or ↓, the best of several in bold; `brief` fits a terminal.

    The paper's rows are a table of their own below.
    """
    has_paper, table = (table["source"] == "paper").any(), table[table["source"] != "paper"]
    columns = columns_of(table)
    metrics = [name for name in table.columns if columns.get(name, {}).get("direction") and table[name].notna().any()]
    if brief:
        metrics = [name for name in metrics if name.partition("@")[0] not in DETAILS]
    arrows = {"higher": "↑", "lower": "↓"}
    who = ["run_id", "method"] if table["run_id"].nunique() > 1 else ["method"]
    lines = [[*who, "prompts", *(f"{name} {arrows[columns[name]['direction']]}" for name in metrics)]]
    for _, row in table.iterrows():
        made = f"{row.n_prompts - row.n_failed} of {row.n_prompts}" if row.n_failed else f"{row.n_prompts}"
        cells = (_cell(table, row, name, columns[name]["direction"]) for name in metrics)
        lines.append([*(row[name] for name in who), made, *cells])
    return aligned(lines) + (f"\n{paper_table.CAPTION}\n{aligned(paper_table.lines())}" if has_paper else "")


def aligned(lines: list[list[str]]) -> str:
    """A table of Markdown whose columns stand below each other; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in ruled)
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def columns_of(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """`columns.json`: unit, direction and definition of the columns that are measured."""
    definitions = {}
    for name in table.columns:
        metric, _, models = str(name).partition("@")
        suffix = next((ending for ending in ("_se", "_lo", "_hi") if models.endswith(ending)), "")
        known = _METRICS.get(metric)
        if known is None:
            continue
        unit, direction, definition = known
        if models == paper_table.JUDGES:
            direction, definition = "", f"{metric} as Table 2 of SegmentDreamer has it; compares with no other column"
        if suffix:
            definition, direction = f"{_SUFFIXES[suffix]} of {metric}@{models.removesuffix(suffix)}", ""
        definitions[str(name)] = {"unit": unit, "direction": direction, "definition": definition}
    return definitions


_SUFFIXES = {
    "_se": "standard error",
    "_lo": "lower end of the 95 % t-interval",
    "_hi": "upper end of the 95 % t-interval",
}
_METRICS = {
    "clip": ("points", "higher", "100 cos(view, prompt), mean over views, then over prompts"),
    "clip_p10": ("points", "higher", "10 % quantile of clip over an object's views, mean over prompts"),
    "clip_rprec": ("share", "higher", "share of views whose nearest prompt of the run is the right one"),
    "ir": ("standard deviations", "higher", "ImageReward, standardised, mean over views, then over prompts"),
    "ir_p10": ("standard deviations", "higher", "10 % quantile of ir over an object's views, mean over prompts"),
    "fd": (
        "squared distance",
        "lower",
        "Fréchet distance of all views from the reference; jackknife error over objects",
    ),
    "fid": ("squared distance", "lower", "as fd, of Inception-v3's features; views resized by clean-fid's bicubic"),
    "fid_tf": (
        "squared distance",
        "lower",
        "as fd, of Inception-v3's features; views resized by TensorFlow's bilinear",
    ),
    "fd_dinov2": ("squared distance", "lower", "as fd, of DINOv2's [CLS] features"),
    "kid_cl": ("10^-3", "lower", "kernel distance without pairs of views of one object; jackknife error over objects"),
    "kid_cl_inception": ("10^-3", "lower", "as kid_cl, of the features of fid"),
    "clip_penalised": ("points", "higher", "as clip; a white picture stands for each object that failed"),
    "ir_penalised": ("standard deviations", "higher", "as ir; a white picture stands for each object that failed"),
    "time_min": ("minutes", "lower", "making one asset, mean over prompts"),
    "peak_gib": ("GiB", "", "most memory of a process that makes assets (of its GPU, where there is one)"),
    "n_gauss": ("Gaussians", "", "of an asset, mean over prompts"),
    "q1_rank": ("rank", "lower", "user study, text alignment: average rank, 1 is best, among the methods it compared"),
    "q2_rank": ("rank", "lower", "as q1_rank, of realism"),
    "q3_rank": ("rank", "lower", "as q1_rank, of details"),
    "n_voters": ("volunteers", "", "who ranked in the user study"),
}


def _row(run: Finished, method: str) -> dict[str, Any]:
    about, jobs, done = run.manifest, run.jobs(method), run.done(method)
    recipe, session = about["recipes"][method], about["sessions"][-1]
    identity = {
        "run_id": about["run_id"],
        "date_utc": session["started_utc"],
        "method": method,
        "recipe": recipe["name"],
        "source": "run",
        "comparable": True,
        "guidance": "perp-neg" if recipe["guidance"].get("perp_neg") else "cfg",
        "cfg_scale": recipe["guidance"]["scale"],
        "n_prompts": len(jobs),
        "n_seeds": len({job["seed"] for job in jobs}),
        "n_views": about["views"],
        "n_failed": sum(_is_failed(run.records[job["job_id"]]) for job in jobs),
        "protocol": about["protocol"],
    }
    origin = {
        "prompts_sha": digest(sorted(job["prompt"] for job in jobs))[:16],
        "ref_key": None,
        "weights_sha": digest(about["weights"]["sha256"])[:16],
        "metric_version": about["metric_version"],
        "code_sha": session["commit"],
        "env_sha": digest(session["versions"])[:16],
    }
    if done:
        distances, keys = _distances(run, done)
        identity |= _means(run.models, done) | _penalised(run, jobs) | distances | _costs(done)
        origin |= keys
    else:
        identity |= _penalised(run, jobs)
    return identity | user_study.columns(run.store, method) | origin


def _means(models: str, done: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for metric in MEANS:
        name = f"{metric}@{models}"
        mean = mean_over_prompts(_column(done, metric, "mean"))
        row |= {name: mean.value, f"{name}_se": mean.standard_error, f"{name}_lo": mean.low, f"{name}_hi": mean.high}
        row[f"{metric}_p10@{models}"] = float(_column(done, metric, "p10").mean())
    precision = mean_over_prompts(_column(done, "clip_rprec", "mean")) if len(done) > 1 else None
    row[f"clip_rprec@{models}"] = precision and precision.value
    row[f"clip_rprec@{models}_se"] = precision and precision.standard_error
    return row


def _penalised(run: Finished, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """The means with what a white picture scores for each job that failed; absent in a run without any."""
    if run.blank is None or not run.has_failures:
        return {}
    ended = [(job["prompt"], record) for job in jobs if (record := run.records[job["job_id"]]) is not None]
    row: dict[str, Any] = {}
    for metric in MEANS:
        values = [
            run.blank[prompt][metric] if _is_failed(record) else record["scores"][metric]["mean"]
            for prompt, record in ended
            if _is_failed(record) or record["status"] == "done"
        ]
        if values:
            mean, name = mean_over_prompts(np.array(values)), f"{metric}_penalised@{run.models}"
            row |= {name: mean.value, f"{name}_se": mean.standard_error}
    return row


def _distances(run: Finished, done: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Of all views of the objects from each reference, and the references' keys by their columns."""
    seen = [np.load(io.BytesIO((run.store.item(record["job_id"]) / EVALUATION).read_bytes())) for record in done]
    row: dict[str, Any] = {}
    keys = {}
    for distance in run.distances:
        reference = run.reference(distance)
        features = [arrays[distance.features] for arrays in seen]
        estimates = run.kept.estimates(distance, features, reference, run.manifest["metric_version"])
        for metric, estimate in estimates.items():
            name = f"{metric}@{run.models}"
            row |= {name: estimate and estimate.value, f"{name}_se": estimate and estimate.standard_error}
        keys[distance.key_column] = reference.key
    return row, keys


def _current(record: dict[str, Any] | None, evaluation: str | None) -> dict[str, Any] | None:
    """The record, without scores that other judges gave than those of the manifest."""
    if record is None or record["status"] != "done" or evaluation in (None, record["evaluation"]):
        return record
    return {key: value for key, value in record.items() if key != "scores"} | {"status": "generated"}


def _is_failed(record: dict[str, Any] | None) -> bool:
    return record is not None and record["status"] == "failed"


def _costs(done: list[dict[str, Any]]) -> dict[str, Any]:
    made = [record["generation"] for record in done]
    return {
        "time_min": sum(facts["seconds"] for facts in made) / 60 / len(made),
        "peak_gib": max(facts["peak_bytes"] for facts in made) / 2**30,
        "n_gauss": sum(facts["num_gaussians"] for facts in made) / len(made),
        "gpu": ", ".join(sorted({facts["device"] for facts in made})),
    }


def _object(run: Finished, job: dict[str, Any]) -> dict[str, Any]:
    record = run.records[job["job_id"]] or {"status": "unfinished"}
    row = {
        "run_id": run.manifest["run_id"],
        "method": job["method"],
        "prompt_id": job["prompt_id"],
        "prompt": job["prompt"],
        "seed": job["seed"],
        "status": record["status"],
        "error_kind": record.get("error_kind"),
        "error": record.get("error"),
        "deaths": record.get("deaths"),
    }
    for metric, summary in (record.get("scores") or {}).items():
        name = f"{metric}@{run.models}"
        row |= {name: summary["mean"]}
        if metric in MEANS:
            row |= {f"{name}_sd": summary["sd"], f"{name}_p10": summary["p10"]}
    facts = record.get("generation") or {}
    return row | {
        "t_init_s": facts.get("init_seconds"),
        "t_opt_s": facts.get("optimize_seconds"),
        "t_total_s": facts.get("seconds"),
        "t_eval_s": record.get("evaluation_seconds"),
        "resumed_from": facts.get("resumed_from"),
        "n_gauss": facts.get("num_gaussians"),
        "asset": f"items/{job['job_id']}/{ASSET}" if facts else None,
        "key": job["job_id"],
    }


def _column(done: list[dict[str, Any]], metric: str, statistic: str) -> np.ndarray:
    return np.array([record["scores"][metric][statistic] for record in done])


def _cell(table: pd.DataFrame, row: pd.Series, name: str, direction: str) -> str:
    value = row[name]
    if pd.isna(value):
        return ""
    error = row.get(f"{name}_se")
    text = f"{value:.4g}" if error is None or pd.isna(error) else f"{value:.4g} ± {error:.2g}"
    best = table[name].max() if direction == "higher" else table[name].min()
    return f"**{text}**" if len(table) > 1 and value == best else text
