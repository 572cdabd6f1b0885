"""The commands `report`, `view` and `viewer fetch`."""

import http.server
import tempfile
import webbrowser
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.assets.custom import check_exportable
from pipeline.assets.export import FIELD, SPLATS, gaussians_of
from pipeline.cli.messages import message
from pipeline.cli.options import PAPER_DEFAULT, RunFolders, optional_path
from pipeline.errors import UserError, port_in_use
from pipeline.report import viewer
from pipeline.store import files
from pipeline.store.files import place
from pipeline.store.run_folder import ASSET, NERF, Store

LOOPBACK = "127.0.0.1"


Out = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder to write to.", show_default="report/ in the run folder")
]
Paper = Annotated[
    bool | None,
    typer.Option("--paper/--no-paper", help="Append the paper's Table 2.", show_default=PAPER_DEFAULT),
]
Asset = Annotated[
    str, typer.Argument(metavar="ASSET", help="An asset.ply or the folder that contains it, or another file of splats.")
]
Port = Annotated[int, typer.Option(metavar="PORT", help="Port of the loopback interface; 0 picks a free port.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Only print the address.")]
Archive = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE", help="Install from a downloaded archive (for machines without access to npm)."
    ),
]


viewer_group = typer.Typer()


def report(folders: RunFolders, out: Out = None, paper: Paper = None) -> None:
    """Write an HTML report of one or more run folders.

    The report contains the leaderboard, turntables, per-view scores and an interactive viewer for each asset.
    """
    from pipeline.leaderboard.table import leaderboard
    from pipeline.report.pages import FOLDER, write
    from pipeline.store.results import RunResults

    places, where = [place(folder) for folder in folders], optional_path(out)
    if where is None and len(places) > 1:
        raise UserError("--out is missing; pass a folder for the report of several runs.")
    if not files.is_local(places[0] if where is None else where):
        found = f"{places[0]} is in an object store and --out is missing" if where is None else f"--out is {where}"
        raise UserError(f"{found}; set --out to a local folder, because the pages open from disk.")
    where = places[0] / FOLDER if where is None else where
    if where.exists() and not where.is_dir():
        raise UserError(f"{where} is a file; set --out to a folder.")
    runs = [RunResults.read(Store(folder)) for folder in places]
    try:
        viewer_files = viewer.fetch()
    except UserError as error:
        message(f"The report has no asset viewer: {error}")
        viewer_files = None
    store = Store(where)
    store.prepare(0)
    print(write(runs, leaderboard(runs, paper=paper), store, viewer_files))


def view(asset: Asset, port: Port = 8008, no_browser: NoBrowser = False) -> None:
    """Show an asset in the browser, with a server on this machine."""
    path = place(asset)
    check_exportable(path)
    if path.is_dir():
        path = path / (NERF if (path / NERF).is_file() else ASSET)
    try:
        ply = files.read(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or 'file not found'}); pass an asset.ply, or the folder of an "
            "item that has one."
        ) from error
    if path.suffix.lower() == FIELD:
        from sctd.formats.ply import to_ply

        found = gaussians_of(ply, path)
        print(f"A NeRF, shown as {found.num:,} Gaussians, one per visible cell.")
        ply = to_ply(found)
    elif path.suffix.lower() in SPLATS[1:] or b"packed_position" in ply.partition(b"end_header")[0]:
        from sctd.formats.ply import to_ply

        ply = to_ply(gaussians_of(ply, path))
    viewer.check(ply, str(path))
    viewer_files = viewer.fetch()
    with tempfile.TemporaryDirectory(prefix="segmentdreamer-view-") as folder:
        store = Store(Path(folder))
        for name, content in viewer_files.items():
            store.write(store.root / "viewer" / name, content)
        store.write(store.root / "asset.js", viewer.embedded(ply))
        page = viewer.page(
            "viewer/",
            title=path.name if path.name not in (ASSET, NERF) else path.resolve().parent.name,
            asset="asset.js",
        )
        store.write(store.root / "index.html", page)
        with _server(folder, port) as server:
            url = f"http://{LOOPBACK}:{server.server_address[1]}/"
            print(f"{path}: {url}\nPress Ctrl-C to stop.", flush=True)
            if not no_browser:
                webbrowser.open(url)
            server.serve_forever()


@viewer_group.command()
def fetch(source: Archive = None) -> None:
    """Download the asset viewer from npm.

    The archive is cached and its SHA-256 verified.
    """
    viewer.fetch(source)
    print(viewer.archive())


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests."""


def _server(folder: str, port: int) -> http.server.ThreadingHTTPServer:
    try:
        return http.server.ThreadingHTTPServer((LOOPBACK, port), partial(_Quiet, directory=folder))
    except (OSError, OverflowError) as error:
        raise port_in_use(port, "--port", error) from error
