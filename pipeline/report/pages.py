"""Writes the report pages: a self-contained folder of static files that a browser opens from disk.

index.html  recipes.html  prompts/  view/ (a page per asset)  media/  plots/  assets/  viewer/  site.css  site.js
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.leaderboard import agreement, paper_table, score_curves, table
from pipeline.leaderboard.score_curves import Curve
from pipeline.plan.metrics import COMPARED, METRICS
from pipeline.report import curves, facts, viewer
from pipeline.report.facts import Entry
from pipeline.report.templating import TEMPLATES, templates
from pipeline.store import files, manifest
from pipeline.store.results import RunResults
from pipeline.store.run_folder import ASSET, CONTACT, CURVES, TREND, TURNTABLE, Store

FOLDER = "report"  # inside a run folder
OURS = "prompts", "view", "media", "plots", "assets", "viewer"  # stale files are removed from these
LEGEND = (
    "Averages over prompts ± standard error. 1st and 2nd mark the best values of a column. "
    "A dash is a value that could not be computed."
)


def write(runs: Sequence[RunResults], leaderboard: Any, out: Store, viewer_files: viewer.Files | None) -> Path:
    """Write all pages; returns index.html. Without the viewer's files, the pages explain how to add it.

    Raises UserError for a manifest that this program did not write, OSError for a folder that cannot be written.
    """
    pages = _Pages(runs, leaderboard, out, viewer_files)
    pages.write()
    return out.root / "index.html"


class _Pages:
    def __init__(self, runs: Sequence[RunResults], leaderboard: Any, out: Store, viewer_files: viewer.Files | None):
        self.runs, self.leaderboard, self.out, self.viewer_files = runs, leaderboard, out, viewer_files
        self.prompts = facts.by_prompt(runs)
        self.progress = facts.progress(runs)
        self.written: set[Path] = set()
        self.written_at = f"report written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"

    def write(self) -> None:
        colours = "".join(f".m{i} {{ background: {colour}; }}\n" for i, colour in enumerate(curves.COLOURS))
        self._put("site.css", (TEMPLATES / "site.css").read_bytes() + colours.encode())
        self._put("site.js", (TEMPLATES / "site.js").read_bytes())
        self._put("leaderboard.csv", table.csv(self.leaderboard))
        for path, content in (self.viewer_files or {}).items():
            self._put(f"viewer/{path}", content)
        for entries in self.prompts.values():
            for entry in filter(lambda entry: entry.has_asset, entries):
                self._media(entry)
        for number, (prompt, entries) in enumerate(self.prompts.items(), start=1):
            self._prompt(number, prompt, entries)
        self._index()
        self._recipes()
        self._remove_stale()

    def _put(self, path: str, content: bytes) -> str:
        self.written.add(self.out.root / path)
        self.out.write(self.out.root / path, content)
        return path

    def _page(self, path: str, template: str, **values: Any) -> None:
        root = "../" * path.count("/")
        self._put(
            path, templates().get_template(template).render(root=root, written_at=self.written_at, **values).encode()
        )

    def _media(self, entry: Entry) -> None:
        for file in filter(entry.has, (ASSET, TURNTABLE, CONTACT)):
            path = self.out.root / "media" / entry.name / file
            self.written.add(path)
            self.out.share(entry.folder / file, path)
        if self.viewer_files and entry.has(ASSET):
            source, path = entry.folder / ASSET, self.out.root / "assets" / f"{entry.name}.js"
            self.written.add(path)
            if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
                self.out.write(path, viewer.embedded(files.read(source)))
            back = f"../prompts/{list(self.prompts).index(entry.record.prompt) + 1:03}.html"
            page = {
                "title": f"{entry.record.prompt}, {entry.label}",
                "asset": f"../assets/{entry.name}.js",
                "back": back,
            }
            self._put(f"view/{entry.name}.html", viewer.page("../viewer/", **page))

    def _shown(self, entry: Entry, root: str) -> dict[str, Any]:
        """An entry as template values."""
        media, record = f"{root}media/{entry.name}", entry.record
        scores, costs, count = record.scores, record.costs, record.generation and record.generation.num_gaussians
        scored = [metric for metric in COMPARED if metric.id in scores]
        numbers = [(metric.title, facts.shown(scores[metric.id]["mean"])) for metric in scored]
        numbers += [(metric.lowest_tenth.title, facts.shown(scores[metric.id]["p10"])) for metric in scored]
        numbers += [("time", _minutes(costs.seconds))] if costs else []
        numbers += [("Gaussians", f"{count:,}")] if count else []
        numbers += facts.of_import(record)
        shown = {
            "label": entry.label,
            "colour": entry.number % len(curves.COLOURS),
            "status": "" if record.status == "done" else record.status,
            "reason": record.error or "",
            "short": f"{scores['clip']['mean']:.1f}" if "clip" in scores else "",
            "facts": numbers,
            "file": entry.record.job_id,
        }
        if entry.has_asset:
            shown |= {"turntable": f"{media}/{TURNTABLE}", "contact": f"{media}/{CONTACT}"}
            if entry.has(ASSET):
                shown["asset"] = f"{media}/{ASSET}"
                shown["viewer"] = f"{root}view/{entry.name}.html" if self.viewer_files else None
        return shown

    def _prompt(self, number: int, prompt: str, entries: Sequence[Entry]) -> None:
        count = len(self.prompts)
        scored = [entry for entry in entries if entry.views]
        panels = {
            metric.title: [
                curves.Line(e.label, e.number, facts.azimuths(e.views[metric.id]), e.views[metric.id])
                for e in scored
                if metric.id in e.views
            ]
            for metric in COMPARED
        }
        panels = {title: lines for title, lines in panels.items() if lines}
        plot = self._put(f"plots/{number:03}.svg", curves.by_azimuth(panels)) if panels else None
        training = _training_curves(entries, self.progress)
        self._page(
            f"prompts/{number:03}.html",
            "prompt.html",
            title=prompt,
            number=number,
            count=count,
            before=f"{number - 1:03}.html" if number > 1 else None,
            after=f"{number + 1:03}.html" if number < count else None,
            entries=[self._shown(entry, "../") for entry in entries],
            worst=[self._shown(e, "../") | _worst(e) for e in scored if e.has_asset and "clip" in e.views],
            plot=plot and f"../{plot}",
            progress=training and f"../{self._put(f'plots/{number:03}-made.svg', curves.over_iterations(training))}",
            viewer_missing=None if self.viewer_files else viewer.MISSING,
        )

    def _index(self) -> None:
        heads = facts.columns(self.leaderboard)
        everything = [entry for entries in self.prompts.values() for entry in entries]
        numbers = {prompt: number for number, prompt in enumerate(self.prompts, start=1)}
        unfinished = [entry for entry in everything if entry.record.status != "done"]
        costs = {
            "minutes": _by_label(everything, lambda record: record.costs and record.costs.seconds / 60),
            "Gaussians": _by_label(everything, lambda record: record.generation and record.generation.num_gaussians),
        }
        has_paper = any(row["source"] == "paper" for row in table.rows_of(self.leaderboard))
        rows = facts.cells(self.runs, self.leaderboard, heads)
        self._page(
            "index.html",
            "index.html",
            here="index",
            title=", ".join(run.manifest.run_id for run in self.runs),
            summary=_summary(self.runs, everything),
            columns=heads,
            rows=rows,
            tested=any(cell.get("note") for row in rows for cell in row),
            legend=LEGEND,
            verdicts=list(filter(None, map(self._verdict, self.runs))),
            quality=self._quality(),
            agreements=list(filter(None, map(self._agreement, self.runs))),
            paper=paper_table.lines() if has_paper else None,
            paper_caption=paper_table.CAPTION,
            failures=[
                {
                    "prompt": e.record.prompt,
                    "page": f"prompts/{numbers[e.record.prompt]:03}.html",
                    "label": e.label,
                    "stage": e.record.failed_stage or "",
                    "reason": e.record.error or e.record.status,
                }
                for e in unfinished
            ],
            prompts=[
                {"prompt": p, "href": f"prompts/{numbers[p]:03}.html", "entries": [self._shown(e, "") for e in entries]}
                for p, entries in self.prompts.items()
            ],
            costs=self._put("plots/costs.svg", curves.spread(costs)) if costs["minutes"] else None,
        )

    def _verdict(self, run: RunResults) -> dict[str, Any] | None:
        """The verdict of a nightly run, with its trend plot."""
        found = facts.verdict(run)
        if found is None or not (run.store.root / TREND).exists():
            return found
        path = f"plots/trend-{self.runs.index(run) + 1}.png"
        self.written.add(self.out.root / path)
        self.out.share(run.store.root / TREND, self.out.root / path)
        return found | {"trend": path}

    def _quality(self) -> dict[str, Any] | None:
        """The plots of scores over each cost, and their values; None if there are only scores of finished assets."""
        if not (found := facts.score_curves_of(self.runs)):
            return None
        self._put(CURVES, score_curves.table_of(score_curves.rows(self.runs)))
        panels = {column: _score_curves(found, column) for column in score_curves.COSTS}
        return {
            "title": score_curves.TITLE,
            "legend": score_curves.LEGEND,
            "plots": {
                title: self._put(f"plots/over-{column}.svg", curves.over_cost(panels[column], title))
                for column, title in score_curves.COSTS.items()
                if panels[column]
            },
            "lines": score_curves.lines([curve for _, curve in found]),
            "notes": [f"{curve.method}: {curve.note}." for _, curve in found if curve.note],
            "file": CURVES,
        }

    def _agreement(self, run: RunResults) -> dict[str, Any] | None:
        """The agreement of the run's metrics with people's opinions, with its plot."""
        if (found := agreement.read(run)) is None:
            return None
        shown: dict[str, Any] = {
            "of": run.manifest.run_id if len(self.runs) > 1 else "",
            "found": found,
            "legend": agreement.LEGEND,
        }
        if panels := agreement.plotted(found):
            chance = {agreement.STATISTICS[name]: value for name, value in agreement.CHANCE.items()}
            path = f"plots/agreement-{self.runs.index(run) + 1}.svg"
            shown["plot"] = self._put(path, curves.agreement(panels, chance))
        return shown | {"tables": agreement.tables(found)}

    def _recipes(self) -> None:
        origins = []
        for number, run in enumerate(self.runs):
            name = "run.json" if number == 0 else f"run-{number + 1}.json"
            self.written.add(self.out.root / name)
            self.out.share(run.store.root / manifest.FILE, self.out.root / name)
            origins.append(facts.origin(run) | {"manifest": name})
        self._page(
            "recipes.html",
            "recipes.html",
            here="recipes",
            title="Recipes and provenance",
            runs=origins,
            import_head=facts.IMPORT_HEAD,
        )

    def _remove_stale(self) -> None:
        """Remove files of an earlier report that this one did not write."""
        for folder in OURS:
            for path in sorted((self.out.root / folder).rglob("*"), reverse=True):
                if path.is_file() and path not in self.written:
                    path.unlink()
                elif path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
            if not any((self.out.root / folder).glob("*")):
                shutil.rmtree(self.out.root / folder, ignore_errors=True)


def _worst(entry: Entry) -> dict[str, Any]:
    """The view with the lowest CLIP score: its score and azimuth."""
    values = entry.views["clip"]
    at = int(values.argmin())
    return {"worst_clip": f"CLIP {values[at]:.4g}", "worst_degrees": round(float(facts.azimuths(values)[at]))}


def _training_curves(
    entries: Sequence[Entry], progress: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, list[curves.Line]]:
    """Panels of loss, Gaussians and seconds over the iteration, as far as progress records have them."""
    panels: dict[str, list[curves.Line]] = {}
    for title, name in curves.TRAINING.items():
        for entry in entries:
            records = progress.get(entry.record.job_id, [])
            points = sorted({record["iteration"]: record[name] for record in records if name in record}.items())
            if len(points) > 1:
                x, y = zip(*points, strict=True)
                panels.setdefault(title, []).append(curves.Line(entry.label, entry.number, x, y))
    return panels


def _score_curves(found: Sequence[tuple[int, Curve]], column: str) -> dict[str, list[curves.Line]]:
    """Panels of each metric over a cost, as far as it is known."""
    panels: dict[str, list[curves.Line]] = {}
    for number, curve in found:
        for name in curve.points[-1].scores:
            points = [(p.costs[column], p.scores[name]) for p in curve.points if name in p.scores]
            known = [(x, mean) for x, mean in points if x is not None]
            if known:
                x, means = zip(*known, strict=True)
                half_widths = [math.nan if mean.high is None else mean.high - mean.value for mean in means]
                metric, _, models = name.partition("@")
                title = f"{METRICS[metric].title} ({models})"
                y = [mean.value for mean in means]
                panels.setdefault(title, []).append(curves.Line(curve.method, number, x, y, half_widths))
    return panels


def _by_label(entries: Sequence[Entry], value: Any) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for entry in entries:
        if (number := value(entry.record)) is not None:
            found.setdefault(entry.label, []).append(number)
    return found


def _summary(runs: Sequence[RunResults], entries: Sequence[Entry]) -> str:
    statuses = [entry.record.status for entry in entries]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    suites = ", ".join(dict.fromkeys(f"{run.manifest.suite} ({run.manifest.protocol})" for run in runs))
    return f"{len(statuses)} jobs of {suites}: {counts}."


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
