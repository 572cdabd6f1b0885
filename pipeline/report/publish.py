"""Writes the outputs of a run folder from its records: tables, report.md, contact sheet, grid and report pages."""

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pipeline
from pipeline.assets import images
from pipeline.digests import digest
from pipeline.leaderboard import agreement, columns, comparison, score_curves, table
from pipeline.leaderboard.markdown_report import report
from pipeline.reference.distances import DistanceCache
from pipeline.store import files, manifest
from pipeline.store.results import RunResults
from pipeline.store.run_folder import CONTACT, CURVES, DIFFERENCES, DISTANCES, GRID, LEADERBOARD, RECORD, VERDICT, Store

MOST_PAGES = 5000  # jobs
PUBLISHED = ".published.json"  # digests of the inputs of the images and pages in a run folder


def publish(run: RunResults, *, paper: bool | None = None, pages: bool | None = None) -> str:
    """Write leaderboard.csv, per_object.csv, columns.json, report.md and contact.png; return the brief leaderboard.

    Several methods also get differences.csv, grid.csv and grid.png, and runs with `--score-at` curves.csv. `paper`: see
    `table.leaderboard`. `pages`: write the report pages, with the asset viewer if it has been fetched; None updates
    them if they exist. Images, and pages by None, are written only if what they show has changed. Of more than 500
    jobs, images and lists show the first prompts; of more than 5,000, `report` alone writes pages.
    """
    store, cache = run.store, DistanceCache.read([run.store])
    leaderboard, objects = table.leaderboard([run], paper=paper, cache=cache), table.per_object(run)
    store.write_json(store.root / DISTANCES, cache.used)
    store.write(store.root / LEADERBOARD, csv := table.csv(leaderboard))
    store.write(store.root / "per_object.csv", table.csv(objects))
    described = columns.definitions(leaderboard.columns) | agreement.definitions(agreement.read(run))
    store.write_json(store.root / "columns.json", described)
    sheets = _sheets(run.shown)
    inputs, written = _inputs(run.shown, csv), store.read_json(store.root / PUBLISHED) or {}
    compared = ""
    if len(run.methods) > 1:
        differences = comparison.differences(run)
        store.write(store.root / DIFFERENCES, table.csv(table.from_rows(differences)))
        store.write(store.root / "grid.csv", table.csv(table.from_rows(comparison.cells(run))))
        if written.get("images") != inputs or not (store.root / GRID).exists():
            store.write(store.root / GRID, comparison.grid(run.shown))
        compared = comparison.markdown(run, differences)
    if points := score_curves.rows([run]):
        store.write(store.root / CURVES, score_curves.table_of(points))
    sections = filter(None, [score_curves.section(run), compared, agreement.section(run)])
    text = report(run, table.markdown(leaderboard), "\n".join(sections))
    store.write(store.root / "report.md", text.encode())
    if sheets and (written.get("images") != inputs or not (store.root / CONTACT).exists()):
        store.write(store.root / CONTACT, images.stacked([files.read(path) for path in sheets]))
    from pipeline.report import viewer
    from pipeline.report.pages import FOLDER, write

    written = {**written, "images": inputs}
    if files.is_local(store.root) and len(run.records) <= MOST_PAGES:  # pages link to local files
        inputs = inputs if run.shown is run else _inputs(run, csv)
        is_outdated = (store.root / FOLDER).is_dir() and written.get("pages") != inputs
        if is_outdated if pages is None else pages:
            write([run], leaderboard, Store(store.root / FOLDER), viewer.cached())
            written["pages"] = inputs
    store.write_json(store.root / PUBLISHED, written)
    return table.markdown(leaderboard, brief=True)


def _sheets(run: RunResults) -> list[Path]:
    """The contact sheets of its jobs."""
    return [path for job_id in run.records if (path := run.store.item(job_id) / CONTACT).exists()]


def _inputs(run: RunResults, csv: bytes) -> str:
    """Digest of all that images or pages of these results show, and of the versions that draw them."""
    from pipeline.report import viewer

    parts = chain([csv], map(files.read, [run.store.root / manifest.FILE, *_sheets(run)]))
    return digest(
        [
            pipeline.__version__,
            viewer.archive().is_file(),
            {job_id: record.to_json() for job_id, record in run.records.items()},
            run.store.read_json(run.store.root / VERDICT),
            run.store.read_json(run.store.root / agreement.FILE),
            [hashlib.sha256(part).hexdigest() for part in parts],
        ]
    )


def is_published(store: Store, job_ids: list[str]) -> bool:
    """Whether the outputs and every record exist, and the outputs are newer."""
    sheet, last = store.root / CONTACT, store.root / PUBLISHED
    if not all(path.exists() for path in (store.root / LEADERBOARD, store.root / "report.md", sheet)):
        return False
    last = last if last.exists() else sheet  # run folders of older versions lack PUBLISHED
    records = (store.item(job_id) / RECORD for job_id in job_ids)
    written = last.stat().st_mtime
    try:
        return all(path.stat().st_mtime <= written for path in records)
    except FileNotFoundError:  # a job has no record yet
        return False


def printed(store: Store) -> str:
    """The brief leaderboard of a published run."""
    return table.markdown(table.read_csv(files.read(store.root / LEADERBOARD)), brief=True)


def rows(csv: bytes) -> str:
    """A leaderboard as JSON for scripts: a list of its rows."""
    return table.json_rows(table.read_csv(csv))


def compared(runs: Sequence[RunResults], *, paper: bool | None = None) -> tuple[str, bytes]:
    """A leaderboard of several runs: the brief table, and the CSV."""
    leaderboard = table.leaderboard(runs, paper=paper)
    return table.markdown(leaderboard, brief=True), table.csv(leaderboard)
