"""Over-exposure, saturation, sharpness and floating bits over guidance scales: appearance of the assets of runs.

    python -m pipeline.commands.appearance RUN [RUN …] --out FOLDER

Runs may be sweeps, runs of one setting each, and runs of several seeds. Every finished asset of Gaussians is rendered
again with opacity. `evaluation/appearance.py` defines the measures; `second_face` is `clip` minus `clip_faces` of the
record. FOLDER gets `appearance.csv` (a row per asset), `summary.csv` (averages over prompts, differences from the first
method and changes from the lowest scale paired by prompt, deviations over seeds), and figures of them as .png and .svg:
`curves`, `differences`, `changes` and `seeds`.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evaluation.appearance import MEASURES, appearance
from evaluation.errors import EvaluationError
from pipeline.assets import images
from pipeline.cli.error_handling import INVALID_INPUT, text_of
from pipeline.cli.messages import message
from pipeline.errors import UserError
from pipeline.leaderboard import appearance as tables
from pipeline.leaderboard.appearance import Label, Row
from pipeline.leaderboard.table import csv, from_rows
from pipeline.plan.protocol import Protocol
from pipeline.plan.sweep import formatted
from pipeline.report.curves import Drawn, Line, over_setting
from pipeline.store import files
from pipeline.store.records import Done, Failed, Generated, Record
from pipeline.store.results import RunResults
from pipeline.store.run_folder import ASSET, Store, damaged
from pipeline.work import devices
from sctd.errors import SctdError
from sctd.formats import ply
from sctd.formats.common import FormatError

VIEWS = 24
MOST_VIEWS = 1000
LOGARITHMIC_FROM = 8  # the ratio of the largest to the smallest value from which the axis is logarithmic
TABLE, SUMMARY = "appearance.csv", "summary.csv"
FIGURES = {"curves": "mean", "differences": "difference", "changes": "change", "seeds": "seed_sd"}  # file: statistic


def measured(runs: Sequence[RunResults], key: str, views: int) -> Iterator[Row]:
    """The rows of `appearance.csv`, in the order of the jobs; says what is left out. Raises UserError.

    An asset that is in several of the runs counts once.
    """
    device, protocol = devices.prepare(), Protocol(views)
    known: set[str] = set()
    for run in runs:
        labels, repeated, others, found = tables.labels(run, key), 0, 0, 0
        for record in run.records.values():
            if isinstance(record, Failed) or not (isinstance(record, Done | Generated) and record.generation):
                continue
            if record.generation.object_file != ASSET:
                others += 1
            elif record.job_id in known:
                repeated += 1
            else:
                known.add(record.job_id)
                found += 1
                yield _measured(run, record, labels[record.method], key, protocol, device)
        if others:
            message(f"{run.store.root}: {others} assets are skipped, because only Gaussians are measured.")
        if repeated:
            message(f"{run.store.root}: {repeated} assets are also in another run and count once.")
        if not found and not repeated:
            raise UserError(f"{run.store.root} contains no finished asset of Gaussians; run its bench command first.")


def _measured(run: RunResults, record: Record, label: Label, key: str, protocol: Protocol, device: Any) -> Row:
    folder = run.store.item(record.job_id)
    try:
        gaussians = ply.from_ply(files.read(folder / ASSET)).to(device)
    except FormatError as error:
        raise damaged(folder / ASSET, str(error)) from error
    size = record.generation.image_size if record.generation else 0
    light, opacity = images.with_opacity(gaussians, protocol.cameras(size))
    return tables.row(run, record, label, key, appearance(light, opacity))


def drawn(rows: Sequence[Row], summary: Sequence[Row], key: str, statistic: str = "mean") -> Drawn | None:
    """A panel per measure, a line per method; None if no method has values. `statistic`: of `FIGURES`."""
    places = _places(list(dict.fromkeys(row[key] for row in summary if row[key] is not None)))
    methods = list(dict.fromkeys(row["method"] for row in summary))
    panels: dict[str, list[Line]] = {}
    for measure, (title, unit) in tables.measures(rows).items():
        of_measure = [row for row in summary if row["measure"] == measure and row[key] is not None]
        lines = []
        for number, method in enumerate(methods):
            points = [(places[row[key]], *_point(row, statistic)) for row in of_measure if row["method"] == method]
            known = [point for point in points if not math.isnan(point[1])]
            if len(known) > (statistic == "change"):  # a lowest value alone has no change
                lines.append(Line(method, number, *zip(*known, strict=True)))
        if lines:
            panels[f"{title}, {unit}"] = lines
    if not panels:
        return None
    compared_with = {"difference": f"minus {methods[0]}", "change": "change from the lowest value"}.get(statistic, "")
    ticks = {place: formatted(value) for value, place in places.items()}
    return over_setting(panels, key, ticks, compared_with=compared_with)


def _point(row: Row, statistic: str) -> tuple[float, float]:
    """The value of a row and the half width of its interval, NaN if unknown. The change of the lowest value is 0."""
    if statistic == "change" and row["since"] is None and row["mean"] is not None:
        return 0.0, math.nan
    low, high = ("low", "high") if statistic == "mean" else (f"{statistic}_low", f"{statistic}_high")
    half = math.nan if row[high] is None else (row[high] - row[low]) / 2
    return math.nan if row[statistic] is None else row[statistic], half


def _places(values: Sequence[Any]) -> dict[Any, float]:
    """The place of each value on the axis: numbers by value or logarithm, others one after another."""
    if not all(map(tables.is_number, values)):
        return {value: float(place) for place, value in enumerate(values)}
    if values and min(values) > 0 and max(values) / min(values) >= LOGARITHMIC_FROM:
        return {value: math.log(value) for value in sorted(values)}
    return {value: float(value) for value in sorted(values)}


def write(folders: Sequence[Path], out: Path, key: str | None, views: int) -> None:
    """Measure the runs and write all files. Raises UserError."""
    if not 1 <= views <= MOST_VIEWS:
        raise UserError(f"--views is {views}; expected 1 to {MOST_VIEWS}.")
    runs = [RunResults.read(Store(folder)) for folder in folders]
    key = tables.current(key) if key else tables.key_of(runs)
    tables.require_alike(runs, key)
    if failed := sum(len(run.failed) for run in runs):
        message(f"{failed} jobs failed and are left out, which can flatter a method.")
    out.mkdir(parents=True, exist_ok=True)
    total = sum(isinstance(record, Done | Generated) for run in runs for record in run.records.values())
    rows = []
    for row in measured(runs, key, views):
        rows.append(row)
        if len(rows) % 100 == 0:
            message(f"{len(rows)} of {total} assets measured")
    summary = tables.summary(rows, key)
    if len({row["n_prompts"] for row in summary if row["measure"] in MEASURES}) > 1:
        message(f"Some averages are over fewer prompts than others: see n_prompts in {SUMMARY}.")
    files.put(out / TABLE, csv(from_rows(rows)))
    files.put(out / SUMMARY, csv(from_rows(summary)))
    for name, statistic in FIGURES.items():
        if figure := drawn(rows, summary, key, statistic):
            files.put(out / f"{name}.svg", figure.svg)
            files.put(out / f"{name}.png", figure.png)
    message(f"{len(rows)} assets measured from {views} views: {out / SUMMARY}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.appearance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of bench")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder of the tables and figures")
    parser.add_argument("--views", type=int, default=VIEWS, help=f"views per asset, around it (default: {VIEWS})")
    parser.add_argument("--key", help="recipe key of the x axis (default: the swept one, else guidance.scale)")
    options = parser.parse_args(arguments)
    try:
        write(options.runs, options.out, options.key, options.views)
    except (UserError, EvaluationError, SctdError, OSError) as error:
        print(f"Error: {text_of(error)}", file=sys.stderr)
        sys.exit(INVALID_INPUT)


if __name__ == "__main__":
    main()
