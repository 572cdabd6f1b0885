"""A run while it works, in a browser: its Gaussians as they grow. The only viser (decision 0021).

Workers leave snapshots in their items' folders; the command, wherever it and they run, reads and serves them.
"""

import contextlib
import html
import importlib.util
import io
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, shortened
from pipeline.store import files
from pipeline.store.run_folder import ASSET, SNAPSHOT, Store

LOOPBACK = "127.0.0.1"
SECONDS = 2.0  # between two looks at what there is
STAGE = "generate"
SPACING = 2.2  # of workers' assets, whose radius is about 1, side by side along +y
FROM = 2.6, 1.3, 0.73  # where the camera stands for one: before it, to the right and above
FOV_RADIANS = 0.785
NUMBERS = ("loss", ".4g"), ("gaussians", ",.0f"), ("seconds_per_iteration", ".3g")
NAMES = {"gaussians": "Gaussians", "seconds_per_iteration": "s/iteration"}


def check(port: int | None) -> None:
    """Raise UserError where viser is not installed, or the port cannot be had."""
    if port is None:
        return
    if importlib.util.find_spec("viser") is None:
        raise UserError("--live needs a library that is not installed: pip install 'segmentdreamer[live]'.")
    _free(port)


def _free(port: int) -> int:
    """The port, or for 0 any that is free: viser itself would take another one without a word."""
    try:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((LOOPBACK, port))
            return int(tried.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Port {port} cannot be had ({error}); give --live another port, or 0 for any that is free."
        ) from error


class Live:
    """A sink of records: serves what they tell and the newest snapshots, to this machine only, until it is closed."""

    def __init__(self, store: Store, names: Mapping[str, str], port: int):
        """`names`: what each job is called."""
        import viser

        self.store, self.names = store, names
        self.heard: dict[int, dict[str, Any]] = {}  # by worker, of its present or last job
        self.drawn: dict[int, tuple[Path, float]] = {}
        with _quietly():
            self.server = viser.ViserServer(LOOPBACK, _free(port), label="segmentdreamer", verbose=False)
        # Anyone who has the page open could ask viser to publish it through a tunnel of its makers.
        self.server.request_share_url = lambda verbose=True: None  # type: ignore[method-assign]
        self.server.gui.configure_theme(show_logo=False, show_share_button=False)
        self.server.scene.set_up_direction("+z")
        self.panel = self.server.gui.add_html("nothing has begun")
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._serve, name="live", daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server.get_port()}/"

    def take(self, record: dict[str, Any]) -> None:
        if record["stage"] != STAGE or record.get("job_id") not in self.names:
            return
        before = self.heard.get(record["worker"], {})
        self.heard[record["worker"]] = (before if before.get("job_id") == record["job_id"] else {}) | record

    def close(self) -> None:
        self.ended.set()
        self.thread.join()
        with _quietly():
            self.server.stop()

    def _serve(self) -> None:
        """A view is no reason to stop: what goes wrong is said once, and nothing more is shown."""
        try:
            while not self.ended.wait(SECONDS):
                self.show()
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            print(f"--live: {text}; the run goes on without it", file=sys.stderr, flush=True)

    def show(self) -> None:
        """Bring the page up to what is known now."""
        heard = dict(sorted(self.heard.items()))
        for place, (worker, record) in enumerate(heard.items()):
            try:
                self._draw(place, worker, record["job_id"])
            except FileNotFoundError:
                continue  # it has just been moved: next time
        content = "".join(self._told(record) for record in heard.values())
        if content and content != self.panel.content:
            self.panel.content = content

    def _draw(self, place: int, worker: int, job_id: str) -> None:
        found = self._newest(job_id)
        if found is None or self.drawn.get(worker) == found:
            return
        splats = _splats(files.read(found[0]), is_final=found[0].name == ASSET)
        if worker not in self.drawn:
            self._look_at(place + 1)
        self.server.scene.add_gaussian_splats(f"/worker-{worker}", **splats, position=(0.0, place * SPACING, 0.0))
        self.drawn[worker] = found

    def _newest(self, job_id: str) -> tuple[Path, float] | None:
        """The file that shows most of a job, and when it was written."""
        folder = self.store.item(job_id)
        asset = folder / ASSET
        there = [asset] if asset.exists() else list(folder.glob(f"attempt-*/{SNAPSHOT}"))
        return max(((path, path.stat().st_mtime) for path in there), key=lambda found: found[1], default=None)

    def _look_at(self, places: int) -> None:
        """Have a page that opens from now on begin with all in sight."""
        middle = (places - 1) * SPACING / 2
        camera = self.server.initial_camera
        camera.fov, camera.look_at = FOV_RADIANS, (0.0, middle, 0.0)
        camera.position = FROM[0] * places, FROM[1] + middle, FROM[2] * places

    def _told(self, record: Mapping[str, Any]) -> str:
        """A table of a worker's job; prompts are text in it, whatever they hold."""
        rows = [("state", "working" if record["kind"] == "progress" else record["kind"])]
        if "iteration" in record:
            rows.append(("iteration", f"{record['iteration']} of {record['iterations']}"))
        rows += [(NAMES.get(name, name), f"{record[name]:{form}}") for name, form in NUMBERS if name in record]
        cells = "".join(f"<tr><td>{name}</td><td align=right>{html.escape(text)}</td></tr>" for name, text in rows)
        name = html.escape(shortened(self.names[record["job_id"]], 200))
        return f'<div style="padding: .5em 1em"><b>{name}</b><table width="100%">{cells}</table></div>'


def _quietly() -> contextlib.AbstractContextManager:
    """Standard output is the command's, and not for what viser has to say."""
    return contextlib.redirect_stdout(io.StringIO())


def _splats(content: bytes, *, is_final: bool) -> dict[str, Any]:
    """What viser draws of a snapshot, or of an asset: centres, covariances, colours and opacities."""
    import torch

    from sctd.formats import ply, splat
    from sctd.scene.densify import rotations
    from sctd.scene.gaussians import sh_to_rgb

    gaussians = ply.from_ply(content) if is_final else splat.from_splat(content)
    axes = rotations(gaussians.quats) * gaussians.scales[:, None, :]
    return {
        "centers": gaussians.means.numpy(),
        "covariances": torch.einsum("nij,nkj->nik", axes, axes).numpy(),
        "rgbs": sh_to_rgb(gaussians.sh[:, 0]).clamp(0, 1).numpy(),
        "opacities": gaussians.opacities[:, None].numpy(),
    }
