"""Plots `trend.png`: for each nightly run, each gate's difference from the pinned baseline, and its CUSUM."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.nightly.verdict import DRIFT_LIMIT, FAIL, INCONCLUSIVE, PASS, drift_of, losses_of
from pipeline.plan.metrics import ARROWS

MOST_DATES = 28  # labelled on the axis
COLOURS = {PASS: "#2b7a3d", INCONCLUSIVE: "#b8860b", FAIL: "#b22222"}


def draw(history: Sequence[Mapping[str, Any]], baseline: int) -> bytes:
    """A row per gate of the last run. Left: candidate minus baseline with its interval, δ shaded; right: the CUSUM."""
    from matplotlib.figure import Figure

    rows = [(gate["method"], gate["metric"], gate["better"]) for gate in history[-1]["gates"]] if history else []
    figure = Figure(figsize=(11, 0.8 + 1.9 * max(1, len(rows))), layout="constrained")
    figure.suptitle(
        f"{history[-1]['verdict'] if history else ''}: nightly runs against baseline {baseline}", fontsize=11
    )
    axes = figure.subplots(max(1, len(rows)), 2, squeeze=False, sharex=True)
    for (left, right), (method, metric, better) in zip(axes, rows, strict=False):
        found = {
            x: gate
            for x, line in enumerate(history)
            for gate in line["gates"]
            if (gate["method"], gate["metric"]) == (method, metric)
        }
        _differences(left, found, better)
        left.set_title(f"{metric} ({method}) {ARROWS[better]}, candidate − baseline", fontsize=9, loc="left")
        losses = losses_of(history, method, metric)
        _sums(right, list(found), [drift_of(losses[: i + 1])[-1] for i in range(len(losses))])
    shown = range(0, len(history), 1 + len(history) // MOST_DATES)
    for axis in axes[-1]:
        axis.set_xticks(shown, [history[i]["date_utc"][:10] for i in shown], rotation=60)
        axis.set_xlim(-0.6, max(len(history), 2) - 0.4)
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return file.getvalue()


def _differences(axis: Any, found: Mapping[int, Mapping[str, Any]], better: str) -> None:
    delta = list(found.values())[-1]["delta"]
    axis.axhspan(-delta, delta, color="#dddddd", alpha=0.6, lw=0)
    axis.axhline(0, color="black", lw=0.8)
    for x, gate in found.items():
        if gate["low"] is not None:
            axis.plot([x, x], [gate["low"], gate["high"]], color="#888888", lw=1.2, zorder=2)
        axis.plot([x], [gate["difference"]], "o", ms=5, color=COLOURS[gate["verdict"]], zorder=3)


def _sums(axis: Any, places: Sequence[int], sums: Sequence[float]) -> None:
    axis.step(places, sums, where="mid", color="#33508a", lw=1.4)
    axis.plot(places, sums, ".", ms=5, color="#33508a")
    axis.axhline(DRIFT_LIMIT, color=COLOURS[FAIL], lw=0.8, ls=":")
    axis.set_ylim(-0.2, max([DRIFT_LIMIT, *sums]) * 1.15)
    axis.set_title(f"CUSUM of the losses, limit {DRIFT_LIMIT:g}", fontsize=9, loc="left")
