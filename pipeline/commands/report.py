"""`report`, `view` and `viewer fetch`: what people look at, in a browser."""

import http.server
import sys
import tempfile
import webbrowser
from functools import partial
from pathlib import Path

from pipeline.errors import UserError
from pipeline.report import viewer
from pipeline.store import files
from pipeline.store.run_folder import ASSET, Store

LOOPBACK = "127.0.0.1"


def report(folders: list[Path], out: Path | None, paper: bool | None = None) -> Path:
    """Write the report of these run folders; returns its first page. Fetches the viewer if it is not here."""
    from pipeline.leaderboard.table import RunResults, leaderboard
    from pipeline.report.pages import FOLDER, write

    if out is None and len(folders) > 1:
        raise UserError("--out is missing; of several runs, say into which folder their report goes.")
    if not files.is_local(folders[0] if out is None else out):
        found = f"{folders[0]} is in a store and --out is missing" if out is None else f"--out is {out}"
        raise UserError(f"{found}; pages open from a disk: give --out a folder of this machine.")
    out = folders[0] / FOLDER if out is None else out
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; choose another --out, where a folder can be made.")
    runs = [RunResults.read(Store(folder)) for folder in folders]
    try:
        viewer_files = viewer.fetch()
    except UserError as error:
        print(f"Without a viewer of assets: {error}", file=sys.stderr)
        viewer_files = None
    store = Store(out)
    store.prepare(0)
    return write(runs, leaderboard(runs, paper=paper), store, viewer_files)


def view(asset: Path, port: int, *, browser: bool) -> None:
    """Serve a page that shows the asset, to this machine only, until interrupted."""
    path = asset / ASSET if asset.is_dir() else asset
    try:
        ply = files.read(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or 'it is not there'}); give an asset.ply, or the folder of an "
            "item that has one."
        ) from error
    viewer.check(ply, str(path))
    viewer_files = viewer.fetch()
    with tempfile.TemporaryDirectory(prefix="segmentdreamer-view-") as folder:
        store = Store(Path(folder))
        for name, content in viewer_files.contents.items():
            store.write(store.root / "viewer" / name, content)
        store.write(store.root / "asset.js", viewer.embedded(ply))
        page = viewer.page(
            "viewer/", title=path.name if path.name != ASSET else path.resolve().parent.name, asset="asset.js"
        )
        store.write(store.root / "index.html", page)
        with _server(folder, port) as server:
            url = f"http://{LOOPBACK}:{server.server_address[1]}/"
            print(f"{path}: {url}\nCtrl-C ends it.", flush=True)
            if browser:
                webbrowser.open(url)
            server.serve_forever()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of every file that the page loads."""


def _server(folder: str, port: int) -> http.server.ThreadingHTTPServer:
    try:
        return http.server.ThreadingHTTPServer((LOOPBACK, port), partial(_Quiet, directory=folder))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Port {port} cannot be had ({error}); choose another --port, or 0 for any that is free."
        ) from error
