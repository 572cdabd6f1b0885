"""The contents of the report pages, read from run folders: entries by prompt, leaderboard cells, recipes. No HTML."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.statistics import holm, sign_flip_p
from pipeline.errors import UserError
from pipeline.leaderboard import score_curves
from pipeline.leaderboard.columns import definitions
from pipeline.leaderboard.score_curves import Curve
from pipeline.leaderboard.table import rows_of
from pipeline.nightly import report as nightly_report
from pipeline.nightly.report import VERDICT_FILE
from pipeline.plan.metrics import ARROWS, COMPARED, METRICS
from pipeline.store import files
from pipeline.store.attempts import OBJECTS
from pipeline.store.records import ImportFacts, Record
from pipeline.store.results import RunResults
from pipeline.store.run_folder import CONTACT, EVALUATION, TURNTABLE, VERDICT, damaged

SIGNIFICANCE = 0.05  # largest Holm-adjusted p at which a method differs significantly from the best
EVENTS = "events"
LEADING = ("method", "prompts")
IMPORT_HEAD = "prompt", "file", "format", "up", "scale", "front", "shading", "SHA-256"


@dataclass(frozen=True)
class Entry:
    """The job of one method for one prompt. `number` is the method's index in the report."""

    run: RunResults
    record: Record
    label: str
    number: int

    @property
    def name(self) -> str:
        """Names its files: unique in the report and safe in a path."""
        return f"{self.number}-{self.record.job_id}"

    @property
    def folder(self) -> Path:
        return self.run.store.item(self.record.job_id)

    def has(self, file: str) -> bool:
        return (self.folder / file).is_file()

    @property
    def has_asset(self) -> bool:
        return any(map(self.has, OBJECTS)) and all(map(self.has, (TURNTABLE, CONTACT)))

    @cached_property
    def views(self) -> dict[str, np.ndarray]:
        """The score of each view by metric, starting at the front; empty if the asset was not scored."""
        if not self.record.scores or not self.has(EVALUATION):
            return {}
        path = self.folder / EVALUATION
        arrays = self.run.store.read_arrays(path)
        found = {metric.id: arrays[metric.id] for metric in COMPARED if metric.id in arrays}
        if any(array.ndim != 1 or array.dtype.kind not in "fiu" for array in found.values()):
            raise damaged(path, "the scores of the views have another shape or type")
        return {name: array.astype(float) for name, array in found.items()}


def azimuths(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Azimuths in degrees of evenly spaced views."""
    return np.arange(len(values)) * 360 / len(values)


def by_prompt(runs: Sequence[RunResults]) -> dict[str, list[Entry]]:
    """The jobs of all runs by prompt, in manifest order. Raises UserError for a malformed job id."""
    numbers = {label: number for number, label in enumerate(labels(runs))}
    found: dict[str, list[Entry]] = {}
    for run in runs:
        for record in run.records.values():
            if not re.fullmatch(r"[\w-]+", record.job_id):
                raise UserError(
                    f"{run.store.root} has a job with id {record.job_id!r}; expected letters and digits. Its run.json "
                    "was not written by this program: do not use it."
                )
            label = _label(runs, run, record.method)
            found.setdefault(record.prompt, []).append(Entry(run, record, label, numbers[label]))
    return found


def labels(runs: Sequence[RunResults]) -> list[str]:
    """The names of the methods in the report, prefixed with the run if there are several."""
    return [_label(runs, run, method) for run in runs for method in run.methods]


def _label(runs: Sequence[RunResults], run: RunResults, method: str) -> str:
    label = run.label(method)
    return label if len(runs) == 1 else f"{run.manifest.run_id}: {label}"


def against_best(runs: Sequence[RunResults], metric: str) -> dict[str, float]:
    """Holm-adjusted p of each method's difference from the best, paired by prompt.

    Only runs with the same scorers and protocol are compared. The best method has no p, nor has a method that shares
    fewer than two prompts with it.
    """
    groups: dict[tuple[str, str], dict[str, dict[Any, float]]] = {}
    for run in runs:
        for method in run.methods:
            values = {(r.prompt, r.seed): r.scores[metric]["mean"] for r in run.done(method) if metric in r.scores}
            if values:
                key = run.models, run.manifest.protocol
                groups.setdefault(key, {})[_label(runs, run, method)] = values
    found: dict[str, float] = {}
    for methods in groups.values():
        averages = {label: float(np.mean(list(values.values()))) for label, values in methods.items()}
        best = (min if METRICS[metric].better == "lower" else max)(averages, key=averages.__getitem__)
        ps = {label: _paired_p(values, methods[best]) for label, values in methods.items() if label != best}
        tested = {label: p for label, p in ps.items() if p is not None}
        found |= dict(zip(tested, holm(list(tested.values())), strict=True))
    return found


def _paired_p(ours: Mapping[Any, float], theirs: Mapping[Any, float]) -> float | None:
    difference = np.array([ours[key] - theirs[key] for key in ours if key in theirs])
    return sign_flip_p(difference, np.random.default_rng(0)) if len(difference) > 1 else None


def columns(leaderboard: Any) -> list[dict[str, Any]]:
    """Headers of the leaderboard's columns that are not empty, the method first."""
    known, rows = definitions(leaderboard.columns), rows_of(leaderboard)
    heads = [{"name": name, "head": name, "arrow": "", "is_number": name != "method"} for name in LEADING]
    for name, about in known.items():
        metric, _, models = name.partition("@")
        if name.endswith(("_se", "_lo", "_hi")) or all(row[name] is None for row in rows if row["source"] != "paper"):
            continue
        arrow = ARROWS.get(about["direction"], "")
        shown = {"definition": f"{about['definition']} ({about['unit']})", "is_detail": METRICS[metric].is_detail}
        heads.append({"name": name, "head": metric, "models": models, "arrow": arrow, "is_number": True, **shown})
    return heads


def cells(
    runs: Sequence[RunResults], leaderboard: Any, heads: Sequence[Mapping[str, Any]]
) -> list[list[dict[str, Any]]]:
    """The leaderboard's rows: the text of each cell, and the value in `leaderboard.csv` to sort by ('' if empty)."""
    rows = [row for row in rows_of(leaderboard) if row["source"] != "paper"]
    adjusted_p = {metric.id: against_best(runs, metric.id) for metric in COMPARED}
    table = []
    for label, row in zip(labels(runs), rows, strict=True):
        succeeded = row["n_prompts"] - row["n_failed"]
        prompts = f"{succeeded} of {row['n_prompts']}" if row["n_failed"] else f"{succeeded}"
        line = [{"text": label, "value": label}, {"text": prompts, "value": succeeded, "is_number": True}]
        for head in heads[len(LEADING) :]:
            name, value = head["name"], row[head["name"]]
            error = row.get(f"{name}_se")
            line.append(
                {"text": shown(value), "value": "" if value is None else repr(value), "is_number": True}
                | {"error": None if error is None else f"{error:.2g}", "is_detail": head.get("is_detail")}
                | {"rank": _rank(value, [other[name] for other in rows], head["arrow"])}
                | {"note": _note(adjusted_p.get(head["head"], {}).get(label))}
            )
        table.append(line)
    return table


def shown(value: float | None) -> str:
    """A number as text, with thousands separators."""
    if value is None:
        return ""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}").replace("-", "−")


def _rank(value: float | None, column: Sequence[float | None], arrow: str) -> str:
    """Whether a value is the best or the second best of several."""
    ranked = sorted({other for other in column if other is not None}, reverse=arrow == "↑")
    if value is None or not arrow or len(ranked) < 2 or value not in ranked[:2]:
        return ""
    return "first" if value == ranked[0] else "second"


def _note(p: float | None) -> str:
    if p is None:
        return ""
    number = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    return f"differs from the best, {number}" if p <= SIGNIFICANCE else f"no significant difference, {number}"


def progress(runs: Sequence[RunResults]) -> dict[str, list[dict[str, Any]]]:
    """Progress records in the runs' event logs, by job. Truncated lines are skipped."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for path in sorted((run.store.root / EVENTS).glob("*.jsonl")):
            for line in files.read(path).decode(errors="replace").splitlines():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict) and record.get("stage") == "generate" and record.get("iteration"):
                    found.setdefault(str(record.get("job_id")), []).append(record)
    return found


def score_curves_of(runs: Sequence[RunResults]) -> list[tuple[int, Curve]]:
    """The index of each method with scores after shares of its iterations, and its curve under its label."""
    numbers = {label: number for number, label in enumerate(labels(runs))}
    named = [
        curve._replace(method=_label(runs, run, curve.method)) for run in runs for curve in score_curves.curves(run)
    ]
    return [(numbers[curve.method], curve) for curve in named]


def verdict(run: RunResults) -> dict[str, Any] | None:
    """The regression verdict of a nightly run with its gates as rows; None for other runs."""
    found = run.store.read_typed(run.store.root / VERDICT, VERDICT_FILE)
    if found is None:
        return None
    rows = [nightly_report.cells(gate) for gate in found.gates]
    reasons = [gate.reason for gate in found.gates]
    return found.to_json() | {"head": nightly_report.HEAD, "rows": list(zip(rows, reasons, strict=True))}


def origin(run: RunResults) -> dict[str, Any]:
    """The contents of the recipes page: sessions, evaluation, weights, and settings that differ between methods."""
    about = run.manifest
    methods = about.generated_methods
    settings = [about.settings(method) for method in methods]
    keys = dict.fromkeys(key for own in settings for key in own)
    rows = [(key, [_text(own.get(key)) for own in settings]) for key in keys]
    return {
        "name": about.run_id,
        "sessions": about.sessions,
        "evaluation": [
            ("protocol", about.protocol),
            ("metrics", f"version {about.metric_version}"),
            ("models", about.weights.name),
            ("seed", about.seed),
        ],
        "weights": about.weights.sha256,
        "recipes": {m: json.dumps(about.recipe(m), indent=2, ensure_ascii=False) for m in methods},
        "differing": [(key, values) for key, values in rows if len(set(values)) > 1],
        "imported": [(method, _import_rows(run, method)) for method in about.imported],
    }


def of_import(record: Record) -> list[tuple[str, str]]:
    """Facts about an imported asset, as names and texts; none of others."""
    found = record.generation
    if not isinstance(found, ImportFacts):
        return []
    triangles = [("triangles", f"{found.num_triangles:,}")] if found.num_triangles else []
    views = [("ready-made views", f"{found.num_views:,}")] if found.num_views else []
    return [*triangles, *views, ("imported from", found.file)]


def _import_rows(run: RunResults, method: str) -> list[list[str]]:
    """A row for each asset of an imported method: `IMPORT_HEAD`."""
    rows, files = [], {job.job_id: (job.model_extra or {}).get("file", "") for job in run.manifest.jobs}
    for record in run.of(method):
        found = record.generation
        if isinstance(found, ImportFacts):
            front = "unclear" if found.front == "unclear" else f"{found.front_degrees:g}°"
            sure = "" if found.front_certainty is None else f" ({found.front_certainty:.0%})"
            scale = "" if found.scale is None else f"{found.scale:.4g}"
            cells = [found.file, found.format, found.up or "", scale, f"{front}{sure}", found.shading or ""]
            rows.append([record.prompt, *cells, found.sha256[:16]])
        else:
            rows.append([record.prompt, str(files[record.job_id]), record.status])
    return rows


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
