"""The live view: shows a run's Gaussians in a browser while it trains them. Only this module imports viser.

Workers write snapshots to their items' folders, and the command reads and serves them (decision 0021).
"""

import contextlib
import html
import importlib.util
import io
import logging
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, port_in_use, shortened
from pipeline.store import files
from pipeline.store.run_folder import ASSET, NERF, SNAPSHOT, Store

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
SECONDS = 2.0  # between two refreshes
STAGE = "generate"
SPACING = 2.2  # between the workers' assets along +y; an asset's radius is about 1
FROM = 2.6, 1.3, 0.73  # camera position for one asset: in front, to the right and above
FOV_RADIANS = 0.785
NUMBERS = ("loss", ".4g"), ("gaussians", ",.0f"), ("seconds_per_iteration", ".3g")
NAMES = {"gaussians": "Gaussians", "seconds_per_iteration": "s/iteration"}


def check(port: int | None) -> None:
    """Raise UserError if viser is not installed or the port is not available."""
    if port is None:
        return
    if importlib.util.find_spec("viser") is None:
        raise UserError(
            "--live needs a package that is not installed; install it with pip install 'segmentdreamer[live]'."
        )
    _free(port)


def _free(port: int) -> int:
    """The port, or a free one for 0. Checked here because viser silently uses another port if this one is taken."""
    try:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((LOOPBACK, port))
            return int(tried.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise port_in_use(port, "--live", error) from error


class LiveView:
    """An event sink that serves progress and the newest snapshots, to this machine only, until it is closed."""

    def __init__(self, store: Store, names: Mapping[str, str], port: int):
        """`names`: the display name of each job."""
        import viser

        self.store, self.names = store, names
        self.records: dict[int, dict[str, Any]] = {}  # by worker, of its current or last job
        self.drawn: dict[int, tuple[Path, float]] = {}
        with _quietly():
            self.server = viser.ViserServer(LOOPBACK, _free(port), label="segmentdreamer", verbose=False)
        # Otherwise anyone with the page open could make viser publish it through its makers' tunnel.
        self.server.request_share_url = lambda verbose=True: None  # type: ignore[method-assign]
        self.server.gui.configure_theme(show_logo=False, show_share_button=False)
        self.server.scene.set_up_direction("+z")
        self.panel = self.server.gui.add_html("No job has started.")
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._serve, name="live", daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server.get_port()}/"

    def take(self, record: dict[str, Any]) -> None:
        if record["stage"] != STAGE or record.get("job_id") not in self.names:
            return
        before = self.records.get(record["worker"], {})
        self.records[record["worker"]] = (before if before.get("job_id") == record["job_id"] else {}) | record

    def close(self) -> None:
        self.closed.set()
        self.thread.join()
        with _quietly():
            self.server.stop()

    def _serve(self) -> None:
        """Refresh until closed. An error is logged once and ends the view, not the run."""
        try:
            while not self.closed.wait(SECONDS):
                self.show()
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            logger.warning("--live: %s; the run continues without the live view", text)

    def show(self) -> None:
        """Update the page."""
        records = dict(sorted(self.records.items()))
        for place, (worker, record) in enumerate(records.items()):
            try:
                self._draw(place, worker, record["job_id"])
            except FileNotFoundError:
                continue  # the file has just been moved; the next refresh finds it
        content = "".join(self._table(record) for record in records.values())
        if content and content != self.panel.content:
            self.panel.content = content

    def _draw(self, place: int, worker: int, job_id: str) -> None:
        found = self._newest(job_id)
        if found is None or self.drawn.get(worker) == found:
            return
        splats = _splats(files.read(found[0]), found[0])
        if worker not in self.drawn:
            self._look_at(place + 1)
        self.server.scene.add_gaussian_splats(f"/worker-{worker}", **splats, position=(0.0, place * SPACING, 0.0))
        self.drawn[worker] = found

    def _newest(self, job_id: str) -> tuple[Path, float] | None:
        """A job's asset, or else its newest snapshot, with the time of writing."""
        folder = self.store.item(job_id)
        final = [path for path in (folder / ASSET, folder / NERF) if path.exists()]
        candidates = final or list(folder.glob(f"attempt-*/{SNAPSHOT}"))
        return max(((path, path.stat().st_mtime) for path in candidates), key=lambda found: found[1], default=None)

    def _look_at(self, places: int) -> None:
        """Set the initial camera of new pages so that all assets are visible."""
        middle = (places - 1) * SPACING / 2
        camera = self.server.initial_camera
        camera.fov, camera.look_at = FOV_RADIANS, (0.0, middle, 0.0)
        camera.position = FROM[0] * places, FROM[1] + middle, FROM[2] * places

    def _table(self, record: Mapping[str, Any]) -> str:
        """A worker's job as an HTML table; the prompt is escaped."""
        rows = [("state", "working" if record["kind"] == "progress" else record["kind"])]
        if "iteration" in record:
            rows.append(("iteration", f"{record['iteration']} of {record['iterations']}"))
        rows += [(NAMES.get(name, name), f"{record[name]:{form}}") for name, form in NUMBERS if name in record]
        cells = "".join(f"<tr><td>{name}</td><td align=right>{html.escape(text)}</td></tr>" for name, text in rows)
        name = html.escape(shortened(self.names[record["job_id"]], 200))
        return f'<div style="padding: .5em 1em"><b>{name}</b><table width="100%">{cells}</table></div>'


def _quietly() -> contextlib.AbstractContextManager:
    """Discard what viser prints to standard output, which belongs to the command."""
    return contextlib.redirect_stdout(io.StringIO())


def _splats(content: bytes, path: Path) -> dict[str, Any]:
    """viser's splats for a snapshot or an asset: centres, covariances, colours and opacities."""
    import torch

    from pipeline.assets.export import gaussians_of
    from sctd.formats import splat
    from sctd.scene.gaussians import rotations, sh_to_rgb

    gaussians = splat.from_splat(content) if path.name == SNAPSHOT else gaussians_of(content, path)
    axes = rotations(gaussians.quats) * gaussians.scales[:, None, :]
    return {
        "centers": gaussians.means.numpy(),
        "covariances": torch.einsum("nij,nkj->nik", axes, axes).numpy(),
        "rgbs": sh_to_rgb(gaussians.sh[:, 0]).clamp(0, 1).numpy(),
        "opacities": gaussians.opacities[:, None].numpy(),
    }
