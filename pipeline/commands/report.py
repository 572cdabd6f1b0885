"""The commands `report` and `view`."""

import http.server
import sys
import tempfile
import webbrowser
from functools import partial
from pathlib import Path

from pipeline.errors import UserError, port_in_use
from pipeline.report import viewer
from pipeline.store import files
from pipeline.store.run_folder import ASSET, Store

LOOPBACK = "127.0.0.1"


def report(folders: list[Path], out: Path | None, paper: bool | None = None) -> Path:
    """Write the report pages of these run folders; returns the index page. Fetches the viewer if it is not cached."""
    from pipeline.leaderboard.table import RunResults, leaderboard
    from pipeline.report.pages import FOLDER, write

    if out is None and len(folders) > 1:
        raise UserError("--out is missing; pass a folder for the report of several runs.")
    if not files.is_local(folders[0] if out is None else out):
        found = f"{folders[0]} is in an object store and --out is missing" if out is None else f"--out is {out}"
        raise UserError(f"{found}; set --out to a local folder, because the pages open from disk.")
    out = folders[0] / FOLDER if out is None else out
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; set --out to a folder.")
    runs = [RunResults.read(Store(folder)) for folder in folders]
    try:
        viewer_files = viewer.fetch()
    except UserError as error:
        print(f"The report has no asset viewer: {error}", file=sys.stderr)
        viewer_files = None
    store = Store(out)
    store.prepare(0)
    return write(runs, leaderboard(runs, paper=paper), store, viewer_files)


def view(asset: Path, port: int, *, browser: bool) -> None:
    """Serve a page that shows the asset on the loopback address, until interrupted."""
    path = asset / ASSET if asset.is_dir() else asset
    try:
        ply = files.read(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or 'file not found'}); pass an asset.ply, or the folder of an "
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
            print(f"{path}: {url}\nPress Ctrl-C to stop.", flush=True)
            if browser:
                webbrowser.open(url)
            server.serve_forever()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests."""


def _server(folder: str, port: int) -> http.server.ThreadingHTTPServer:
    try:
        return http.server.ThreadingHTTPServer((LOOPBACK, port), partial(_Quiet, directory=folder))
    except (OSError, OverflowError) as error:
        raise port_in_use(port, "--port", error) from error
