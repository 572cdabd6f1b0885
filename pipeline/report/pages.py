"""The report of runs as a static site: a folder that opens from a disk, with all it shows inside it.

index.html  recipes.html  prompts/  view/ (a page per asset)  media/  plots/  assets/  viewer/  site.css  site.js
"""

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.leaderboard import paper_table
from pipeline.leaderboard import table as leaderboard
from pipeline.leaderboard.table import MEANS, Finished
from pipeline.report import curves, viewer
from pipeline.report import facts as site_facts
from pipeline.report.facts import Entry
from pipeline.report.templating import TEMPLATES, templates
from pipeline.store import files, manifest
from pipeline.store.run_folder import ASSET, CONTACT, TREND, TURNTABLE, Store

FOLDER = "report"  # of a run folder
OURS = "prompts", "view", "media", "plots", "assets", "viewer"  # emptied of what is no longer there
TITLES = {"clip": "CLIP", "ir": "ImageReward"}
LEGEND = "Means over prompts ± standard error; 1st and 2nd mark the best of a column. A dash could not be computed."


def write(runs: Sequence[Finished], board: Any, out: Store, viewer_files: viewer.Files | None) -> Path:
    """Write all pages; returns index.html. Without a viewer's files the pages say how to have it.

    Raises UserError for a manifest that this program did not write, OSError for a folder that cannot be written.
    """
    pages = _Pages(runs, board, out, viewer_files)
    pages.write()
    return out.root / "index.html"


class _Pages:
    def __init__(self, runs: Sequence[Finished], board: Any, out: Store, viewer_files: viewer.Files | None):
        self.runs, self.board, self.out, self.viewer_files = runs, board, out, viewer_files
        self.prompts = site_facts.by_prompt(runs)
        self.progress = site_facts.progress(runs)
        self.written: set[Path] = set()
        self.made = f"report of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"

    def write(self) -> None:
        colours = "".join(f".m{i} {{ background: {colour}; }}\n" for i, colour in enumerate(curves.COLOURS))
        self._put("site.css", (TEMPLATES / "site.css").read_bytes() + colours.encode())
        self._put("site.js", (TEMPLATES / "site.js").read_bytes())
        self._put("leaderboard.csv", leaderboard.csv(self.board))
        for path, content in (self.viewer_files.site if self.viewer_files else {}).items():
            self._put(f"viewer/{path}", content)
        for entries in self.prompts.values():
            for entry in filter(lambda entry: entry.is_made, entries):
                self._media(entry)
        for number, (prompt, entries) in enumerate(self.prompts.items(), start=1):
            self._prompt(number, prompt, entries)
        self._index()
        self._recipes()
        self._sweep()

    def _put(self, path: str, content: bytes) -> str:
        self.written.add(self.out.root / path)
        self.out.write(self.out.root / path, content)
        return path

    def _page(self, path: str, template: str, **values: Any) -> None:
        root = "../" * path.count("/")
        self._put(path, templates().get_template(template).render(root=root, made=self.made, **values).encode())

    def _media(self, entry: Entry) -> None:
        for file in (ASSET, TURNTABLE, CONTACT):
            path = self.out.root / "media" / entry.name / file
            self.written.add(path)
            self.out.share(entry.folder / file, path)
        if self.viewer_files:
            source, path = entry.folder / ASSET, self.out.root / "assets" / f"{entry.name}.js"
            self.written.add(path)
            if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
                self.out.write(path, viewer.embedded(files.read(source)))
            back = f"../prompts/{list(self.prompts).index(entry.job['prompt']) + 1:03}.html"
            page = {
                "title": f"{entry.job['prompt']}, {entry.label}",
                "asset": f"../assets/{entry.name}.js",
                "back": back,
            }
            self._put(f"view/{entry.name}.html", viewer.page("../viewer/", **page))

    def _shown(self, entry: Entry, root: str) -> dict[str, Any]:
        """An entry as templates want it."""
        media = f"{root}media/{entry.name}"
        scores = {metric: entry.scores[metric]["mean"] for metric in MEANS if metric in entry.scores}
        status, facts = entry.record["status"], entry.facts
        told = [(TITLES[metric], site_facts.shown(value)) for metric, value in scores.items()]
        told += [(f"{TITLES[metric]} p10", site_facts.shown(entry.scores[metric]["p10"])) for metric in scores]
        told += [("time", _minutes(facts["seconds"])), ("Gaussians", f"{facts['num_gaussians']:,}")] if facts else []
        shown = {
            "label": entry.label,
            "colour": entry.number % len(curves.COLOURS),
            "status": "failed" if status == "failed" else "" if status == "done" else status,
            "reason": entry.record.get("error") or "",
            "short": f"{scores['clip']:.1f}" if "clip" in scores else "",
            "facts": told,
            "file": f"{entry.job['job_id']}",
        }
        if entry.is_made:
            shown |= {"asset": f"{media}/{ASSET}", "turntable": f"{media}/{TURNTABLE}", "contact": f"{media}/{CONTACT}"}
            shown["viewer"] = f"{root}view/{entry.name}.html" if self.viewer_files else None
        return shown

    def _prompt(self, number: int, prompt: str, entries: Sequence[Entry]) -> None:
        count = len(self.prompts)
        judged = [entry for entry in entries if entry.views]
        panels = {
            title: [
                curves.Line(e.label, e.number, site_facts.azimuths(e.views[metric]), e.views[metric])
                for e in judged
                if metric in e.views
            ]
            for metric, title in TITLES.items()
        }
        panels = {title: lines for title, lines in panels.items() if lines}
        plot = self._put(f"plots/{number:03}.svg", curves.all_round(panels)) if panels else None
        made = _while_made(entries, self.progress)
        self._page(
            f"prompts/{number:03}.html",
            "prompt.html",
            title=prompt,
            number=number,
            count=count,
            before=f"{number - 1:03}.html" if number > 1 else None,
            after=f"{number + 1:03}.html" if number < count else None,
            entries=[self._shown(entry, "../") for entry in entries],
            worst=[self._shown(e, "../") | _worst(e) for e in judged if e.is_made and "clip" in e.views],
            plot=plot and f"../{plot}",
            progress=f"../{self._put(f'plots/{number:03}-made.svg', curves.over_iterations(made))}" if made else None,
            viewer_missing=None if self.viewer_files else viewer.MISSING,
        )

    def _index(self) -> None:
        heads = site_facts.columns(self.board)
        everything = [entry for entries in self.prompts.values() for entry in entries]
        numbers = {prompt: number for number, prompt in enumerate(self.prompts, start=1)}
        unfinished = [entry for entry in everything if entry.record["status"] != "done"]
        costs = {
            "minutes": _by_label(everything, lambda facts: facts["seconds"] / 60),
            "Gaussians": _by_label(everything, lambda facts: facts["num_gaussians"]),
        }
        has_paper = any(row["source"] == "paper" for row in leaderboard.rows_of(self.board))
        rows = site_facts.cells(self.runs, self.board, heads)
        self._page(
            "index.html",
            "index.html",
            here="index",
            title=", ".join(run.manifest["run_id"] for run in self.runs),
            summary=_summary(self.runs, everything),
            columns=heads,
            rows=rows,
            tested=any(cell.get("note") for row in rows for cell in row),
            legend=LEGEND,
            verdicts=list(filter(None, map(self._verdict, self.runs))),
            paper=paper_table.lines() if has_paper else None,
            paper_caption=paper_table.CAPTION,
            failures=[
                {
                    "prompt": e.job["prompt"],
                    "page": f"prompts/{numbers[e.job['prompt']]:03}.html",
                    "label": e.label,
                    "stage": e.record.get("failed_stage") or "",
                    "reason": e.record.get("error") or e.record["status"],
                }
                for e in unfinished
            ],
            prompts=[
                {"prompt": p, "href": f"prompts/{numbers[p]:03}.html", "entries": [self._shown(e, "") for e in entries]}
                for p, entries in self.prompts.items()
            ],
            costs=self._put("plots/costs.svg", curves.spread(costs)) if costs["minutes"] else None,
        )

    def _verdict(self, run: Finished) -> dict[str, Any] | None:
        """Of a night: what it found, with the plot of the nights before."""
        found = site_facts.verdict(run)
        if found is None or not (run.store.root / TREND).exists():
            return found
        path = f"plots/trend-{self.runs.index(run) + 1}.png"
        self.written.add(self.out.root / path)
        self.out.share(run.store.root / TREND, self.out.root / path)
        return found | {"trend": path}

    def _recipes(self) -> None:
        told = []
        for number, run in enumerate(self.runs):
            name = "run.json" if number == 0 else f"run-{number + 1}.json"
            self.written.add(self.out.root / name)
            self.out.share(run.store.root / manifest.FILE, self.out.root / name)
            told.append(site_facts.origin(run) | {"manifest": name})
        self._page("recipes.html", "recipes.html", here="recipes", title="Recipes and origin", runs=told)

    def _sweep(self) -> None:
        """Remove what an older report had in our folders and this one has not."""
        for folder in OURS:
            for path in sorted((self.out.root / folder).rglob("*"), reverse=True):
                if path.is_file() and path not in self.written:
                    path.unlink()
                elif path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
            if not any((self.out.root / folder).glob("*")):
                shutil.rmtree(self.out.root / folder, ignore_errors=True)


def _worst(entry: Entry) -> dict[str, Any]:
    """The view of the lowest CLIP score: what it scores, and from where."""
    values = entry.views["clip"]
    at = int(values.argmin())
    return {"worst_clip": f"CLIP {values[at]:.4g}", "worst_degrees": round(float(site_facts.azimuths(values)[at]))}


def _while_made(
    entries: Sequence[Entry], progress: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, list[curves.Line]]:
    """Panels of what records of progress say over the iteration: loss, Gaussians, seconds; those that there are."""
    panels: dict[str, list[curves.Line]] = {}
    for title, name in curves.MADE.items():
        for entry in entries:
            records = progress.get(entry.job["job_id"], [])
            points = sorted({record["iteration"]: record[name] for record in records if name in record}.items())
            if len(points) > 1:
                x, y = zip(*points, strict=True)
                panels.setdefault(title, []).append(curves.Line(entry.label, entry.number, x, y))
    return panels


def _by_label(entries: Sequence[Entry], value: Any) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for entry in entries:
        if entry.facts:
            found.setdefault(entry.label, []).append(value(entry.facts))
    return found


def _summary(runs: Sequence[Finished], entries: Sequence[Entry]) -> str:
    statuses = [entry.record["status"] for entry in entries]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    suites = ", ".join(dict.fromkeys(f"{run.manifest['suite']} ({run.manifest['protocol']})" for run in runs))
    return f"{len(statuses)} jobs of {suites}: {counts}."


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
