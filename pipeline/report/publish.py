"""Writes the outputs of a run folder from its records: tables, report.md, contact sheet, grid and report pages."""

from typing import Any

from pipeline.assets import images
from pipeline.leaderboard import columns, comparison, table
from pipeline.leaderboard.markdown_report import report
from pipeline.store import files
from pipeline.store.run_folder import CONTACT, DIFFERENCES, DISTANCES, GRID, LEADERBOARD, RECORD, Store


def publish(store: Store, *, paper: bool | None = None, pages: bool | None = None) -> str:
    """Write leaderboard.csv, per_object.csv, columns.json, report.md and contact.png; return the brief leaderboard.

    Several methods also get differences.csv, grid.csv and grid.png. `paper`: see `table.leaderboard`. `pages`: write
    the report pages, with the asset viewer if it has been fetched; None rewrites them if they exist.
    """
    run = table.RunResults.read(store)
    leaderboard, objects = table.leaderboard([run], paper=paper), table.per_object(run)
    store.write_json(store.root / DISTANCES, run.kept.asked)
    store.write(store.root / LEADERBOARD, table.csv(leaderboard))
    store.write(store.root / "per_object.csv", table.csv(objects))
    store.write_json(store.root / "columns.json", columns.definitions(leaderboard.columns))
    compared = ""
    if len(run.methods) > 1:
        differences = comparison.differences(run)
        store.write(store.root / DIFFERENCES, table.csv(table.from_rows(differences)))
        store.write(store.root / "grid.csv", table.csv(table.from_rows(comparison.cells(run))))
        store.write(store.root / GRID, comparison.grid(run))
        compared = comparison.markdown(run, differences)
    text = report(run.manifest, run.records, table.markdown(leaderboard), compared)
    store.write(store.root / "report.md", text.encode())
    sheets = [path.read_bytes() for job_id in run.records if (path := store.item(job_id) / CONTACT).exists()]
    if sheets:
        store.write(store.root / CONTACT, images.stacked(sheets))
    from pipeline.report import viewer
    from pipeline.report.pages import FOLDER, write

    is_wanted = (store.root / FOLDER).is_dir() if pages is None else pages
    if is_wanted and files.is_local(store.root):  # pages link to local files; objects in a bucket are none
        write([run], leaderboard, Store(store.root / FOLDER), viewer.cached())
    return table.markdown(leaderboard, brief=True)


def is_published(store: Store, job_ids: list[str]) -> bool:
    """Whether the outputs exist and are newer than every record."""
    last = store.root / CONTACT
    if not all(path.exists() for path in (store.root / LEADERBOARD, store.root / "report.md", last)):
        return False
    records = (store.item(job_id) / RECORD for job_id in job_ids)
    written = last.stat().st_mtime
    return all(path.stat().st_mtime <= written for path in records)


def printed(store: Store) -> str:
    """The brief leaderboard of a published run."""
    return table.markdown(table.read_csv(files.read(store.root / LEADERBOARD)), brief=True)


def rows(csv: bytes) -> str:
    """A leaderboard as JSON for scripts: a list of its rows."""
    return table.json_rows(table.read_csv(csv))


def compared(stores: list[Store], *, paper: bool | None = None) -> tuple[str, bytes]:
    """A leaderboard of several runs: the brief table, and the CSV."""
    leaderboard: Any = table.leaderboard([table.RunResults.read(store) for store in stores], paper=paper)
    return table.markdown(leaderboard, brief=True), table.csv(leaderboard)


def failures(store: Store, job_ids: list[str]) -> list[str]:
    """A line for each job that failed."""
    return [
        f"{record['prompt']} ({record.get('method', record['objective'])}): {record['error']}"
        for record in store.records(job_ids)
        if record["status"] == "failed"
    ]
