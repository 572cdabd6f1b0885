"""Files that a mesh file names: read only inside its folder, and images decoded up to a limit of pixels."""

import base64
import binascii
import io
import os
import re
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

import numpy as np
from PIL import Image

from sctd.errors import one_line
from sctd.formats.common import FormatError, shown
from sctd.formats.mesh_data import MAX_TEXTURE_PIXELS

MAX_FILE_BYTES = 2**29
_IMAGES = ("PNG", "JPEG", "WEBP", "BMP", "TGA")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two letters and more: one is a drive of Windows
_DATA = re.compile(r"data:[^,;]*(;[^,;]*)*?;base64,")


def file_bytes(path: Path) -> bytes:
    """The content of a mesh file or of one beside it. Raises FormatError if it is missing or too large."""
    try:
        size = os.stat(path).st_size
        if size > MAX_FILE_BYTES:
            raise FormatError(
                f"{shown(path.name)} has {size / 2**20:,.0f} MiB; at most {MAX_FILE_BYTES // 2**20} are read."
            )
        if not path.is_file():
            raise FormatError(f"{shown(path.name)} is no file; expected a mesh or a part of one.")
        return path.read_bytes()
    except OSError as error:
        raise FormatError(
            f"{shown(path.name)} cannot be read ({error.strerror or one_line(error)}); copy the mesh with its files."
        ) from error


def read_uri(folder: Path, uri: str, *, quoted: bool = True) -> bytes:
    """What a file names: base64 data, or a file inside `folder`. Raises FormatError for everything else.

    `quoted`: the name is a URI, with %20 for a space. Nothing is fetched.
    """
    named = shown(uri)
    if match := _DATA.match(uri):
        try:
            return base64.b64decode(uri[match.end() :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise FormatError(f"The data of {named} is not base64; export the mesh again.") from error
    name = unquote(uri) if quoted else uri
    if _SCHEME.match(name):
        raise FormatError(f"The mesh names {named}; only files in its folder are read. Save everything in one .glb.")
    name = name.replace("\\", "/")
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\0" in name:
        raise FormatError(f"The mesh names {named}, outside its folder; put the file beside it, or save one .glb.")
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # too long, or a circle of links
        raise FormatError(f"The mesh names {named}, which cannot be opened; export it again.") from error
    if not inside:
        raise FormatError(f"The mesh names {named}, outside its folder; put the file beside it, or save one .glb.")
    return file_bytes(path)


def image_rgba(content: bytes, what: str, pixels_left: int = MAX_TEXTURE_PIXELS) -> np.ndarray:
    """A PNG, JPEG, WebP, BMP or TGA as uint8 [height, width, 4] in sRGB. Raises FormatError, naming `what`.

    The size is checked before the pixels are decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here
            with Image.open(io.BytesIO(content), formats=_IMAGES) as image:
                width, height = image.size
                if width * height > pixels_left:
                    raise FormatError(
                        f"{what} has {width} x {height} pixels; a mesh may have {MAX_TEXTURE_PIXELS:,}; shrink it."
                    )
                if image.mode.startswith(("I", "F")):  # 16 bits; Pillow would cut them off at 255
                    values = np.asarray(image).astype(np.float64)
                    grey = (values / (65535 if values.max(initial=0) > 255 else 255) * 255 + 0.5).astype(np.uint8)
                    return np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)
                return np.array(image.convert("RGBA"))
    except FormatError:
        raise
    except Image.DecompressionBombError as error:
        raise FormatError(f"{what} has more pixels than the {MAX_TEXTURE_PIXELS:,} of a mesh; shrink it.") from error
    except Exception as error:  # decoders raise arbitrary exceptions
        raise FormatError(f"{what} cannot be decoded ({one_line(error)}); save it as PNG or JPEG.") from error
