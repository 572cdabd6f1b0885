"""`.sog` ⇄ Gaussians: PlayCanvas' compressed splats, version 2 of the published specification; written in SH degree 0.

A zip of meta.json and lossless .webp images with one pixel per Gaussian, row by row:
- `means_u`, `means_l`: upper and lower byte of x y z between `mins` and `maxs`, on the scale sign(x) ln(1 + |x|);
- `quats`: the three components other than the largest, in bytes from -√½ to √½; alpha says which one is largest;
- `scales`: indices into a codebook of 256 log scales;
- `sh0`: indices into a codebook of 256 constant SH coefficients; alpha is the opacity;
- `shN`, which is only read: in the first image, a palette of 64 entries a row, each of 3, 8 or 15 pixels with indices
  into a codebook of 256 SH coefficients; in the second, the number of each Gaussian's entry, in red and green.
"""

import io
import json
import warnings
import zipfile
import zlib
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt

from sctd.errors import one_line
from sctd.formats.common import FormatError, check_count, checked, logits, parsed, unit_quats
from sctd.scene.gaussians import Gaussians

_ENTRIES_PER_ROW = 64  # of the palette of harmonics
VERSION, _CODEBOOK_SIZE, _STEPS, _LARGEST_IS_W = 2, 256, 2**16 - 1, 252
_DATE = 1980, 1, 1, 0, 0, 0  # a fixed date (the earliest of a zip), so that equal Gaussians give equal bytes
# Limits of a damaged or hostile file, beyond which nothing is allocated.
_META_BYTES = 2**20
_ALWAYS_PIXELS = 2**20  # Gaussians that any file may announce; a larger one has at most one for each byte
_PIXELS_PER_GAUSSIAN, _SPARE_PIXELS = 16, 2**16  # of an image, whose sides other writers round up
_DAMAGES = OSError, ValueError, SyntaxError, KeyError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile
# NotImplementedError, RuntimeError: other compression, encryption. SyntaxError: Pillow, for a broken image.

_Triple = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class _Image(BaseModel):
    files: Annotated[list[str], Field(min_length=1)]


class _Means(BaseModel):
    mins: _Triple
    maxs: _Triple
    files: Annotated[list[str], Field(min_length=2)]


class _Codes(_Image):
    codebook: Annotated[list[FiniteFloat], Field(min_length=_CODEBOOK_SIZE)]


class _Harmonics(_Codes):
    count: Annotated[int, Field(ge=1, le=2**16)]
    bands: Literal[1, 2, 3]
    files: Annotated[list[str], Field(min_length=2)]


class _Version(BaseModel):
    version: int | None = None


class _Meta(_Version):
    count: PositiveInt
    means: _Means
    scales: _Codes
    quats: _Image
    sh0: _Codes
    sh_n: Annotated[_Harmonics | None, Field(alias="shN")] = None


def to_sog(gaussians: Gaussians) -> bytes:
    """Gaussians in their order, without SH of degree 1 and higher. Raises FormatError for none or invalid ones."""
    if not gaussians.num:
        raise FormatError("There are no Gaussians; a .sog needs at least one.")
    gaussians = checked(gaussians, "sog")
    means = gaussians.means.double().numpy()
    logs = np.sign(means) * np.log1p(np.abs(means))
    low, high = logs.min(0), logs.max(0)
    fixed = np.rint(_STEPS * (logs - low) / np.where(high > low, high - low, 1)).astype("u2")
    scale_codebook, scales = _quantize(gaussians.log_scales.numpy())
    color_codebook, colors = _quantize(gaussians.sh[:, 0].numpy())
    opacities = (255 * gaussians.opacities).round().numpy()[:, None]
    images = {
        "means_l.webp": _opaque(fixed & 255),
        "means_u.webp": _opaque(fixed >> 8),
        "scales.webp": _opaque(scales),
        "quats.webp": _pack(unit_quats(gaussians).double().numpy()),
        "sh0.webp": np.concatenate([colors, opacities], axis=1),
    }
    meta = {
        "version": VERSION,
        "asset": {"generator": "SegmentDreamer"},
        "count": gaussians.num,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_codebook.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": color_codebook.tolist(), "files": ["sh0.webp"]},
    }
    files = {"meta.json": json.dumps(meta).encode()} | {name: _webp(rows) for name, rows in images.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)
    return file.getvalue()


def from_sog(data: bytes, *, drop_invalid: bool = False, most: int | None = None) -> Gaussians:
    """Read the Gaussians of a bundled file of version 2, at most `most`.

    Raises FormatError for other files.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        content = _member(archive, "meta.json", _META_BYTES)
    except (*_DAMAGES, zlib.error) as error:
        raise FormatError(
            f"This is not a .sog ({one_line(error)}); expected a zip with meta.json. Export or copy it again."
        ) from error
    if (version := parsed(_Version, content, "meta.json of the .sog").version) != VERSION:
        raise FormatError(f"The .sog has version {version}; expected {VERSION}. Export it again.")
    meta = parsed(_Meta, content, "meta.json of the .sog")
    if meta.count > max(_ALWAYS_PIXELS, len(data)):
        raise FormatError(f"The .sog is truncated: meta.json announces {meta.count} Gaussians; copy it again.")
    check_count(meta.count, most, "sog")

    def rows(name: str) -> np.ndarray:
        return _pixels(archive, name, meta.count)

    low, high = np.array(meta.means.mins), np.array(meta.means.maxs)
    lower, upper = (rows(name) for name in meta.means.files[:2])
    colors, quats, scales = (rows(part.files[0]) for part in (meta.sh0, meta.quats, meta.scales))
    if quats[:, 3].min() < _LARGEST_IS_W:
        raise FormatError("The .sog has quaternions of an unknown form; expected those of version 2. Export it again.")
    with np.errstate(over="ignore"):  # to infinity, which is invalid
        logs = low + (high - low) * (lower | upper << 8)[:, :3] / _STEPS
        means = torch.from_numpy(np.sign(logs) * np.expm1(np.abs(logs))).float()
    constant = np.array(meta.sh0.codebook)[colors[:, :3]]
    others = _harmonics(archive, meta.sh_n, meta.count) if meta.sh_n else np.empty((meta.count, 0, 3))
    gaussians = Gaussians(
        means=means,
        log_scales=torch.from_numpy(np.array(meta.scales.codebook)[scales[:, :3]]).float(),
        quats=torch.from_numpy(_unpack(quats)).float(),
        logit_opacities=logits(torch.from_numpy(colors[:, 3] / 255).float()),
        sh=torch.from_numpy(np.concatenate([constant[:, None], others], axis=1)).float(),
    )
    return checked(gaussians, "sog", drop_invalid=drop_invalid)


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A file of the archive, which is read only if it has at most this many bytes."""
    if name not in archive.namelist():
        raise ValueError(f"it has no {name[:100]}")
    if (size := archive.getinfo(name).file_size) > most:
        raise ValueError(f"{name} has {size:,} bytes, more than the {most:,} that it can need")
    return archive.read(name)


def _harmonics(archive: zipfile.ZipFile, meta: _Harmonics, count: int) -> np.ndarray:
    """SH coefficients above the constant one, [count, 3, 8 or 15, 3]."""
    size = (meta.bands + 1) ** 2 - 1
    palette = _pixels(archive, meta.files[0], size * meta.count, width=_ENTRIES_PER_ROW * size)
    labels = _pixels(archive, meta.files[1], count)
    entries = labels[:, 0] | labels[:, 1] << 8
    if entries.max() >= meta.count:
        raise FormatError(f"The .sog has entry {entries.max()} of {meta.count} harmonics; export or copy it again.")
    return np.array(meta.codebook)[palette.reshape(-1, size, 4)[entries, :, :3]]


def _pixels(archive: zipfile.ZipFile, name: str, count: int, width: int | None = None) -> np.ndarray:
    """The first `count` pixels of an image, perhaps of a given width, [count, 4]. Raises FormatError."""
    most = _PIXELS_PER_GAUSSIAN * count + _SPARE_PIXELS
    try:
        content = _member(archive, name, 4 * most)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # at 90 million pixels
            try:
                image = Image.open(io.BytesIO(content), formats=["WEBP"])
            except UnidentifiedImageError as error:
                raise ValueError("it is no .webp image") from error
        if not count <= image.width * image.height <= most or width not in (None, image.width):
            what = "Gaussians" if width is None else f"harmonics in rows of {width}"
            raise ValueError(f"it has {image.width} × {image.height} pixels for {count} {what}")
        return np.asarray(image.convert("RGBA")).reshape(-1, 4)[:count].astype(int)
    except (*_DAMAGES, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FormatError(
            f"The image {name[:100]!r} of the .sog cannot be read ({one_line(error)}); export or copy it again."
        ) from error


def _quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A codebook of 256 quantiles and, for every value, the index of its nearest entry."""
    codebook = np.quantile(values.astype(float), (np.arange(_CODEBOOK_SIZE) + 0.5) / _CODEBOOK_SIZE)
    codebook[0], codebook[-1] = values.min(), values.max()
    return codebook, np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values)


def _pack(wxyz: np.ndarray) -> np.ndarray:
    num = np.arange(len(wxyz))
    largest = np.abs(wxyz).argmax(1)
    wxyz = wxyz * np.where(wxyz[num, largest] < 0, -1, 1)[:, None]
    others = wxyz[np.arange(4) != largest[:, None]].reshape(-1, 3)
    codes = np.rint(255 * (others / np.sqrt(2) + 0.5)).clip(0, 255)
    return np.concatenate([codes, _LARGEST_IS_W + largest[:, None]], axis=1)


def _unpack(codes: np.ndarray) -> np.ndarray:
    """Unit quaternions (w, x, y, z)."""
    largest, others = codes[:, 3] - _LARGEST_IS_W, (codes[:, :3] / 255 - 0.5) * np.sqrt(2)
    wxyz = np.empty((len(codes), 4))
    wxyz[np.arange(4) != largest[:, None]] = others.reshape(-1)
    wxyz[np.arange(len(codes)), largest] = np.sqrt(np.maximum(0, 1 - (others**2).sum(1)))
    return wxyz


def _opaque(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, np.full((len(rows), 1), 255)], axis=1)


def _webp(rows: np.ndarray) -> bytes:
    """A nearly square lossless image of 4-byte pixels; `exact` keeps the colours of pixels with alpha 0."""
    width = int(np.ceil(np.sqrt(len(rows))))
    pixels = np.zeros((-(-len(rows) // width) * width, 4), "u1")
    pixels[: len(rows)] = rows
    file = io.BytesIO()
    Image.fromarray(pixels.reshape(-1, width, 4)).save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()
