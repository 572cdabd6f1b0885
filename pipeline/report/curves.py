"""Plots as .svg: scores over azimuth, cost and settings, training curves and others. Values in, text out.

Colours are the colour-blind-safe palette of Okabe and Ito (2008); lines differ in style as well.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"
_STYLES = "-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5))
_SETTINGS: Any = {"svg.fonttype": "none", "text.parse_math": False, "font.size": 10.5, "font.family": ["DejaVu Sans"]}
QUARTER_DEGREES = 90
PANELS_PER_ROW = 3
_MARKS = "osD"
TRAINING = {"loss": "loss", "Gaussians": "gaussians", "seconds": "seconds"}  # panel title: key of progress records
LOGARITHMIC = "loss"
SQUEEZED = 4  # the ratio of the costs of two methods from which their axis is logarithmic

Agreements = Mapping[str, Mapping[str, tuple[float, float, float]]]  # by metric, then by level: value, low, high


class Line(NamedTuple):
    """A method's line: its name, its index among the methods (which selects its colour), and its points.

    `half_widths`: of the interval of each y; NaN without one.
    """

    label: str
    number: int
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    half_widths: Sequence[float] = ()


class Drawn(NamedTuple):
    """A figure as the bytes of both formats."""

    svg: bytes
    png: bytes


def by_azimuth(panels: Mapping[str, Sequence[Line]]) -> bytes:
    """A panel for each score over the azimuth in degrees, the x of the lines."""
    figure, axes = _panels(list(panels), 2.5)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        _draw(axis, title, lines)
        axis.set_xlim(0, 360)
        axis.set_xticks(range(0, 361, QUARTER_DEGREES), [f"{x}°" for x in range(0, 361, QUARTER_DEGREES)])
    axes[-1].set_xlabel("azimuth of the view")
    return _finished(figure, axes)


def over_iterations(panels: Mapping[str, Sequence[Line]]) -> bytes:
    """A panel for each quantity, over the iteration."""
    figure, axes = _panels(list(panels), 2.0)
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        _draw(axis, title, lines)
        if title == LOGARITHMIC:
            _use_log_scale(axis)
        else:
            axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("iteration")
    return _finished(figure, axes)


def over_cost(panels: Mapping[str, Sequence[Line]], cost: str) -> bytes:
    """A panel for each metric over a cost, with the interval of each point.

    The cost is logarithmic if one method costs much more than another, which would squeeze the curves of the others.
    """
    figure, axes = _panels(list(panels), 2.5)
    ends = [line.x[-1] for lines in panels.values() for line in lines]
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        _draw(axis, title, lines, marker="o", ms=4)
        _draw_intervals(axis, lines)
        if max(ends) > SQUEEZED * min(ends):
            _use_log_scale(axis, "x")
        else:
            axis.set_xlim(left=0)
    axes[-1].set_xlabel(cost)
    return _finished(figure, axes)


def over_setting(
    panels: Mapping[str, Sequence[Line]], setting: str, ticks: Mapping[float, str], *, compared_with: str = ""
) -> Drawn:
    """A panel for each quantity over a setting, with the interval of each point. `ticks`: the label of each x.

    With `compared_with`, the y are differences: each panel has this label and a line at 0. The x of lines are shifted
    slightly against each other, so that their intervals do not hide one another.
    """
    columns = min(len(panels), PANELS_PER_ROW)
    figure = _figure(3.9 * columns, 2.5 * -(-len(panels) // columns) + 0.9)
    axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False, sharex=True)
    count = len({line.number for lines in panels.values() for line in lines})
    width = max(ticks) - min(ticks) or 1.0
    shift, margin = width * 0.012, width * 0.08
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        moved = [line._replace(x=np.asarray(line.x) + shift * (line.number - (count - 1) / 2)) for line in lines]
        _draw(axis, title, moved, marker="o", ms=4)
        _draw_intervals(axis, moved)
        axis.set_xticks(list(ticks), list(ticks.values()))
        axis.set_xlim(min(ticks) - margin, max(ticks) + margin)
        axis.set_xlabel(setting)
        if compared_with:
            axis.axhline(0, color="#52606d", lw=1, zorder=0)
            axis.set_ylabel(compared_with)
        axis.tick_params(labelbottom=True)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    svg = _finished(figure, figure.axes)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return Drawn(svg, file.getvalue())


def _draw_intervals(axis: Any, lines: Sequence[Line]) -> None:
    for line in lines:
        colour = COLOURS[line.number % len(COLOURS)]
        axis.errorbar(line.x, line.y, line.half_widths, fmt="none", ecolor=colour, lw=1, capsize=3, alpha=0.7)


def _use_log_scale(axis: Any, of: str = "y") -> None:
    """A logarithmic x or y axis with plain-text labels, several of them in each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    scaled = {"x": axis.xaxis, "y": axis.yaxis}[of]
    axis.set(**{f"{of}scale": "log"})
    scaled.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    scaled.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    scaled.set_minor_formatter(NullFormatter())


def spread(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """For each quantity and method, a point per asset and a bar at the average."""
    labels = list(dict.fromkeys(label for methods in panels.values() for label in methods))
    figure, axes = _panels(list(panels), 0.7 + 0.3 * len(labels), sharex=False)
    for axis, (title, methods) in zip(axes, panels.items(), strict=True):
        for row, label in enumerate(labels):
            values, colour = methods.get(label, []), COLOURS[row % len(COLOURS)]
            axis.plot(values, [row] * len(values), "o", ms=5, alpha=0.55, mew=0, color=colour)
            if len(values):
                axis.plot([float(np.mean(values))] * 2, [row - 0.3, row + 0.3], "-", lw=2, color=colour)
        axis.set_title(title, fontsize=10.5, loc="left")
        axis.set_xlim(left=0)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.grid(axis="x", color="#dfe3e8", lw=0.7)
    return _svg(figure)


def agreement(panels: Mapping[str, Agreements], chance: Mapping[str, float]) -> bytes:
    """A panel for each statistic: for each metric, a mark with its interval at each level, and a line at chance."""
    rows = list(dict.fromkeys(row for metrics in panels.values() for row in metrics))
    levels = list(dict.fromkeys(level for metrics in panels.values() for own in metrics.values() for level in own))
    figure = _figure(3.2 + 2.8 * len(panels), 0.9 + 0.4 * len(rows))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, metrics) in zip(axes, panels.items(), strict=True):
        axis.axvline(chance[title], color="#52606d", lw=1)
        for number, level in enumerate(levels):
            height = (number - (len(levels) - 1) / 2) * 0.22
            known = [(row, *own[level]) for row, own in enumerate(map(metrics.get, rows)) if own and level in own]
            for row, _, low, high in known:
                axis.plot([low, high], [row + height] * 2, "-", lw=1.7, color=COLOURS[number])
            points = [value for _, value, _, _ in known], [row + height for row, *_ in known]
            axis.plot(*points, _MARKS[number % len(_MARKS)], ms=5, color=COLOURS[number], label=level)
        axis.set_title(title, fontsize=10.5, loc="left")
        axis.set_yticks(range(len(rows)), rows)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="x", color="#dfe3e8", lw=0.7)
    return _finished(figure, axes)


def _figure(width: float, height: float) -> Any:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS):
        return Figure(figsize=(width, height), layout="constrained")


def _panels(titles: Sequence[str], height: float, *, sharex: bool = True) -> tuple[Any, Any]:
    figure = _figure(5.4, height * len(titles) + 0.7)
    return figure, figure.subplots(len(titles), 1, squeeze=False, sharex=sharex)[:, 0]


def _draw(axis: Any, title: str, lines: Sequence[Line], **style_of_points: Any) -> None:
    for line in lines:
        style = {"ls": _STYLES[line.number % len(_STYLES)], "color": COLOURS[line.number % len(COLOURS)]}
        axis.plot(line.x, line.y, lw=1.7, label=line.label, **style, **style_of_points)
    axis.set_title(title, fontsize=10.5, loc="left")
    axis.grid(color="#dfe3e8", lw=0.7)


def _finished(figure: Any, axes: Any) -> bytes:
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), list(handles), loc="outside upper left", ncols=3, frameon=False, handlelength=2.6)
    return _svg(figure)


def _svg(figure: Any) -> bytes:
    """Deterministic: equal figures give equal bytes."""
    from matplotlib import rc_context

    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    with rc_context({**_SETTINGS, "svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
