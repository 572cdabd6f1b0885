"""`.sog` ⇄ Gaussians: PlayCanvas' compressed splats, version 2 of its published specification; SH degree 0.

A zip of meta.json and lossless .webp pictures, a pixel for each Gaussian, row by row: `means_u`, `means_l` the upper
and lower byte of x y z between `mins` and `maxs`, on the scale sign(x) ln(1 + |x|); `quats` the three components other
than the largest, in bytes from -√½ to √½, and in alpha which one is largest; `scales` numbers of entries in a book of
256 log scales; `sh0` those of a book of 256 constant harmonics, and the opacity in alpha.
"""

import io
import json
import zipfile

import numpy as np
import torch
from PIL import Image

from sctd.formats.checked import FormatError, logits, unit_quats
from sctd.scene.gaussians import Gaussians

VERSION, _BOOK, _STEPS, _LARGEST_IS_W = 2, 256, 2**16 - 1, 252
_DATE = 1980, 1, 1, 0, 0, 0  # the earliest of a zip: the same Gaussians give the same bytes


def to_sog(gaussians: Gaussians) -> bytes:
    """Gaussians in the order they have; harmonics of degree 1 and more are left out. FormatError without Gaussians."""
    if not gaussians.num:
        raise FormatError("There is no Gaussian; a .sog holds at least one.")
    means = gaussians.means.double().numpy()
    logs = np.sign(means) * np.log1p(np.abs(means))
    low, high = logs.min(0), logs.max(0)
    fixed = np.rint(_STEPS * (logs - low) / np.where(high > low, high - low, 1)).astype("u2")
    scale_book, scales = _book(gaussians.log_scales.numpy())
    color_book, colors = _book(gaussians.sh[:, 0].numpy())
    opacities = (255 * gaussians.opacities).round().numpy()[:, None]
    pictures = {
        "means_l.webp": _opaque(fixed & 255),
        "means_u.webp": _opaque(fixed >> 8),
        "scales.webp": _opaque(scales),
        "quats.webp": _packed(unit_quats(gaussians).double().numpy()),
        "sh0.webp": np.concatenate([colors, opacities], axis=1),
    }
    meta = {
        "version": VERSION,
        "asset": {"generator": "SegmentDreamer"},
        "count": gaussians.num,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": color_book.tolist(), "files": ["sh0.webp"]},
    }
    files = {"meta.json": json.dumps(meta).encode()} | {name: _webp(rows) for name, rows in pictures.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)
    return file.getvalue()


def from_sog(data: bytes) -> Gaussians:
    """The Gaussians of a bundled file of version 2, their constant harmonics only. FormatError says what is wrong."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        meta = json.loads(archive.read("meta.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise FormatError(
            f"This is no .sog ({error}); expected a zip with meta.json. Export or copy it again."
        ) from error
    if meta.get("version") != VERSION:
        raise FormatError(f"The .sog has version {meta.get('version')}; expected {VERSION}. Export it again.")

    def rows(kind: str, number: int = 0) -> np.ndarray:
        picture = Image.open(io.BytesIO(archive.read(meta[kind]["files"][number])))
        return np.asarray(picture.convert("RGBA")).reshape(-1, 4)[: meta["count"]].astype(int)

    low, high = (np.array(meta["means"][name]) for name in ("mins", "maxs"))
    logs = low + (high - low) * (rows("means", 0) | rows("means", 1) << 8)[:, :3] / _STEPS
    colors = rows("sh0")
    constant = np.array(meta["sh0"]["codebook"])[colors[:, :3]]
    return Gaussians(
        means=torch.from_numpy(np.sign(logs) * np.expm1(np.abs(logs))).float(),
        log_scales=torch.from_numpy(np.array(meta["scales"]["codebook"])[rows("scales")[:, :3]]).float(),
        quats=torch.from_numpy(_unpacked(rows("quats"))).float(),
        logit_opacities=logits(torch.from_numpy(colors[:, 3] / 255).float()),
        sh=torch.from_numpy(constant[:, None]).float(),
    )


def _book(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """256 values, as many numbers near each, and for every number which of them is nearest."""
    book = np.quantile(values.astype(float), (np.arange(_BOOK) + 0.5) / _BOOK)
    book[0], book[-1] = values.min(), values.max()
    return book, np.searchsorted((book[1:] + book[:-1]) / 2, values)


def _packed(wxyz: np.ndarray) -> np.ndarray:
    num = np.arange(len(wxyz))
    largest = np.abs(wxyz).argmax(1)
    wxyz = wxyz * np.where(wxyz[num, largest] < 0, -1, 1)[:, None]
    others = wxyz[np.arange(4) != largest[:, None]].reshape(-1, 3)
    codes = np.rint(255 * (others / np.sqrt(2) + 0.5)).clip(0, 255)
    return np.concatenate([codes, _LARGEST_IS_W + largest[:, None]], axis=1)


def _unpacked(codes: np.ndarray) -> np.ndarray:
    """Unit quaternions (w, x, y, z)."""
    largest, others = codes[:, 3] - _LARGEST_IS_W, (codes[:, :3] / 255 - 0.5) * np.sqrt(2)
    wxyz = np.empty((len(codes), 4))
    wxyz[np.arange(4) != largest[:, None]] = others.reshape(-1)
    wxyz[np.arange(len(codes)), largest] = np.sqrt(np.maximum(0, 1 - (others**2).sum(1)))
    return wxyz


def _opaque(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, np.full((len(rows), 1), 255)], axis=1)


def _webp(rows: np.ndarray) -> bytes:
    """Pixels of four bytes, nearly square; exact, colours under alpha 0 too."""
    width = int(np.ceil(np.sqrt(len(rows))))
    pixels = np.zeros((-(-len(rows) // width) * width, 4), "u1")
    pixels[: len(rows)] = rows
    file = io.BytesIO()
    Image.fromarray(pixels.reshape(-1, width, 4)).save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()
