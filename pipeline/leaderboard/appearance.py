"""Appearance over a setting: averages, paired differences, deviations over seeds, and lines of a figure.

The unit is the prompt: of several seeds, the average of a prompt counts. Rows of `appearance.csv` go in, one per asset.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluation.appearance import MEASURES, Appearance
from evaluation.statistics import Mean, mean_over_prompts
from pipeline.errors import UserError, shortened
from pipeline.leaderboard.comparison import CONFIDENCE
from pipeline.plan.metrics import METRICS
from pipeline.plan.sweep import formatted, short_names
from pipeline.store.records import Record
from pipeline.store.results import RunResults
from sctd.recipe.names import current

DEFAULT_KEY = "guidance.scale"
SECOND_FACE = "second_face"
SCORES = "clip", "ir"  # of the record, beside the measures
MACHINE = "compute."  # settings that only choose a machine

Row = dict[str, Any]
Values = Mapping[tuple[str, int], float]  # of a measure, by prompt and seed


class Label(NamedTuple):
    """The name of a method without the setting on the x axis, and that setting: a number, a text, or None."""

    method: str
    value: float | str | None


def key_of(runs: Sequence[RunResults]) -> str:
    """The setting of the x axis: guidance.scale if it was swept or nothing was, else the first swept key."""
    swept = [current(key) for run in runs for key in run.manifest.swept]
    return DEFAULT_KEY if DEFAULT_KEY in swept or not swept else swept[0]


def labels(run: RunResults, key: str) -> dict[str, Label]:
    """The label of each method of a run. Raises UserError if no method has the key."""
    found = {}
    short = short_names(map(current, run.manifest.swept))
    for method in run.methods:
        if method in run.manifest.imported:
            found[method] = Label(run.label(method), None)
            continue
        settings = run.manifest.settings(method)
        if key not in settings:
            raise UserError(
                f"--key is {key!r}, which is no setting of {method!r} in {run.store.root}; pass a recipe key."
            )
        text = formatted(settings[key])
        name = method.replace(f" {short[key]}={text}", "") if key in short else method
        found[method] = Label(name, settings[key] if is_number(settings[key]) else text)
    return found


def require_alike(runs: Sequence[RunResults], key: str) -> None:
    """Raise UserError if a method has other settings in another run, or if runs were scored differently."""
    known: dict[tuple[str, str], tuple[Any, RunResults]] = {}
    for run in runs:
        about = run.manifest
        scored = {"protocol": about.protocol, "metric_version": about.metric_version, **about.weights.scorers}
        for name, value in scored.items():
            before, first = known.setdefault(("", name), (value, run))
            if before != value:
                raise UserError(
                    f"{first.store.root} and {run.store.root} were scored differently ({name}); score both alike with "
                    "segmentdreamer evaluate."
                )
        for method, label in labels(run, key).items():
            for name, value in _settings(run, method, key).items():
                before, first = known.setdefault((label.method, name), (value, run))
                if before != value:
                    raise UserError(
                        f"{label.method!r} has {name} {shortened(formatted(before))} in {first.store.root} and "
                        f"{shortened(formatted(value))} in {run.store.root}; compare these runs one by one."
                    )


def _settings(run: RunResults, method: str, key: str) -> dict[str, Any]:
    """What must be the same at all points of a line."""
    if method in run.manifest.imported:
        return {}
    settings = {
        name: value
        for name, value in run.manifest.settings(method).items()
        if name not in (key, "name") and not name.startswith(MACHINE)
    }
    return settings | {"prior weights": run.manifest.weights.sha256.get("prior")}


def row(run: RunResults, record: Record, label: Label, key: str, measured: Appearance) -> Row:
    """A row of `appearance.csv`. Scores of an asset that is not scored are empty cells."""
    clip, faces, ir = (record.scores.get(metric, {}).get("mean") for metric in ("clip", "clip_faces", "ir"))
    facts = record.generation
    return {
        "run_id": run.manifest.run_id,
        "method": label.method,
        key: label.value,
        "seed": record.seed,
        "prompt": record.prompt,
        **measured._asdict(),
        SECOND_FACE: None if clip is None or faces is None else clip - faces,
        f"clip@{run.models}": clip,
        f"ir@{run.models}": ir,
        "pixels": facts and facts.image_size,
        "key": record.job_id,
    }


def measures(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """The title and unit of each measure in the rows: those of views, then those of the record."""
    found = {name: (measure.title, measure.unit) for name, measure in MEASURES.items()}
    found[SECOND_FACE] = ("second face (clip − clip_faces)", METRICS["clip"].unit)
    scores = dict.fromkeys(name for row in rows for name in row if name.partition("@")[0] in SCORES)
    return found | {name: (name, METRICS[name.partition("@")[0]].unit) for name in scores}


def summary(rows: Sequence[Row], key: str) -> list[Row]:
    """`summary.csv`: for each measure, method and value of the setting, the average over prompts with its t-interval.

    `difference` is to the first method at the same value of the setting, and `change` to the same method at its lowest
    value. Both are over the assets that both sides have: the average over seeds for each prompt, then over prompts.
    All differences of a measure hold simultaneously with 95 % confidence, by Bonferroni's correction, and so do all
    changes. `seed_sd` is the deviation over the seeds of a prompt, averaged over the prompts that have several; it has
    an interval over prompts, too.
    """
    cells: dict[Label, list[Row]] = {}
    for each in rows:
        cells.setdefault(Label(each["method"], each[key]), []).append(each)
    methods = list(dict.fromkeys(cell.method for cell in cells))
    order = sorted(cells, key=lambda cell: (methods.index(cell.method), _in_order(cell.value)))
    starts = {cell.method: cell for cell in reversed(order)}
    firsts = {cell: Label(methods[0], cell.value) for cell in order}
    bases = {
        "difference": {cell: firsts[cell] for cell in order if firsts[cell] in cells and firsts[cell] != cell},
        "change": {cell: starts[cell.method] for cell in order if starts[cell.method] != cell},
    }
    return [
        {"measure": measure, "unit": unit, "method": cell.method, key: cell.value}
        | _averages(values[cell])
        | {"minus": bases["difference"][cell].method if cell in bases["difference"] else None}
        | _comparison("difference", values, cell, bases["difference"])
        | {"since": bases["change"][cell].value if cell in bases["change"] else None}
        | _comparison("change", values, cell, bases["change"])
        | _deviations(values[cell])
        for measure, (_, unit) in measures(rows).items()
        for values in [{cell: _by_asset(measure, own) for cell, own in cells.items()}]
        for cell in order
    ]


def _averages(values: Values) -> Row:
    mean = _mean(_by_prompt(values, np.mean).values())
    return {"n_prompts": mean.prompts if mean else 0, "n_assets": len(values), **_columns("", mean)}


def _comparison(name: str, values: Mapping[Label, Values], cell: Label, bases: Mapping[Label, Label]) -> Row:
    """The paired difference of a cell from its base, if it has one; one of as many as there are bases."""
    confidence = 1 - (1 - CONFIDENCE) / max(len(bases), 1)
    base = values[bases[cell]] if cell in bases else None
    pairs = {asset: value - base[asset] for asset, value in values[cell].items() if asset in base} if base else {}
    mean = _mean(_by_prompt(pairs, np.mean).values(), confidence)
    prompts, confident = (None, None) if base is None else (mean.prompts if mean else 0, confidence)
    return {f"{name}_prompts": prompts, **_columns(name, mean), f"{name}_confidence": confident}


def _deviations(values: Values) -> Row:
    found = _by_prompt(values, lambda own: np.std(own, ddof=1), least=2)
    return {"seed_sd_prompts": len(found), **_columns("seed_sd", _mean(found.values()))}


def _columns(name: str, mean: Mean | None) -> Row:
    before = f"{name}_" if name else ""
    return {
        name or "mean": mean and mean.value,
        f"{before}standard_error": mean and mean.standard_error,
        f"{before}low": mean and mean.low,
        f"{before}high": mean and mean.high,
    }


def _by_asset(measure: str, rows: Sequence[Row]) -> Values:
    """The known values of a measure by prompt and seed."""
    return {(r["prompt"], r["seed"]): r[measure] for r in rows if r.get(measure) is not None}


def _by_prompt(values: Values, statistic: Callable[[list[float]], Any], least: int = 1) -> dict[str, float]:
    """A statistic over the seeds of each prompt that has at least so many."""
    seeds: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        seeds.setdefault(prompt, []).append(value)
    return {prompt: float(statistic(own)) for prompt, own in seeds.items() if len(own) >= least}


def _mean(values: Any, confidence: float = CONFIDENCE) -> Mean | None:
    known = np.array(list(values))
    return mean_over_prompts(known, confidence) if len(known) else None


def _in_order(value: Any) -> tuple[int, float, str]:
    """Numbers ascending, then texts, then no value."""
    if value is None:
        return 2, 0.0, ""
    return (0, value, "") if is_number(value) else (1, 0.0, value)


def is_number(value: Any) -> bool:
    """Whether the value of a setting is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
