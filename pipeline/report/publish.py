"""What a run folder shows: tables, report, sheet and grid of all assets, made anew from its records."""

from typing import Any

from pipeline.assets import images as pictures
from pipeline.leaderboard import comparison
from pipeline.leaderboard import table as leaderboard
from pipeline.leaderboard.markdown_report import report
from pipeline.store import files
from pipeline.store.run_folder import BOARD, CONTACT, DIFFERENCES, DISTANCES, GRID, RECORD, Store


def publish(store: Store, *, paper: bool | None = None, site: bool | None = None) -> str:
    """Write leaderboard.csv, per_object.csv, columns.json, report.md and contact.png; return the board, in brief.

    Where there are several methods, differences.csv, grid.csv and grid.png, too. `paper`: see `leaderboard.board`.
    `site`: write its pages as well, with the viewer of assets if that has been fetched; None: where there are some.
    """
    run = leaderboard.Finished.read(store)
    board, objects = leaderboard.board([run], paper=paper), leaderboard.per_object(run)
    store.write_json(store.root / DISTANCES, run.kept.asked)
    store.write(store.root / BOARD, leaderboard.csv(board))
    store.write(store.root / "per_object.csv", leaderboard.csv(objects))
    store.write_json(store.root / "columns.json", leaderboard.columns_of(board))
    compared = ""
    if len(run.methods) > 1:
        differences = comparison.differences(run)
        store.write(store.root / DIFFERENCES, leaderboard.csv(leaderboard.table(differences)))
        store.write(store.root / "grid.csv", leaderboard.csv(leaderboard.table(comparison.cells(run))))
        store.write(store.root / GRID, comparison.grid(run))
        compared = comparison.markdown(run, differences)
    text = report(run.manifest, run.records, leaderboard.markdown(board), compared)
    store.write(store.root / "report.md", text.encode())
    sheets = [path.read_bytes() for job_id in run.records if (path := store.item(job_id) / CONTACT).exists()]
    if sheets:
        store.write(store.root / CONTACT, pictures.stacked(sheets))
    from pipeline.report import pages, viewer

    is_wanted = (store.root / pages.FOLDER).is_dir() if site is None else site
    if is_wanted and files.is_local(store.root):  # pages link to files, which a bucket's are not
        pages.write([run], board, Store(store.root / pages.FOLDER), viewer.cached())
    return leaderboard.markdown(board, brief=True)


def is_published(store: Store, job_ids: list[str]) -> bool:
    """Whether the tables are there, and no record came after what is written last."""
    last = store.root / CONTACT
    if not all(path.exists() for path in (store.root / BOARD, store.root / "report.md", last)):
        return False
    records = (store.item(job_id) / RECORD for job_id in job_ids)
    written = last.stat().st_mtime
    return all(path.stat().st_mtime <= written for path in records)


def printed(store: Store) -> str:
    """The board as it was printed when it was written."""
    return leaderboard.markdown(leaderboard.read_csv(files.read(store.root / BOARD)), brief=True)


def rows(csv: bytes) -> str:
    """A board for a script, as JSON: a list of its rows."""
    return leaderboard.json_rows(leaderboard.read_csv(csv))


def compared(stores: list[Store], *, paper: bool | None = None) -> tuple[str, bytes]:
    """Several runs on one board: in brief, and as CSV."""
    board: Any = leaderboard.board([leaderboard.Finished.read(store) for store in stores], paper=paper)
    return leaderboard.markdown(board, brief=True), leaderboard.csv(board)


def failures(store: Store, job_ids: list[str]) -> list[str]:
    """A line for each job that failed."""
    return [
        f"{record['prompt']} ({record.get('method', record['objective'])}): {record['error']}"
        for record in store.records(job_ids)
        if record["status"] == "failed"
    ]
