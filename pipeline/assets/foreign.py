"""Reads other people's assets: splats of any format, meshes, and folders of views, in our axes.

A .ply or .glb is read as splats or as a mesh by what it contains. Nothing is read beyond the file, and beyond those
beside a mesh that belong to it.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.assets.export import FORMATS
from pipeline.assets.objects import Splats, StoredViews, Surface
from pipeline.errors import UserError, shortened
from pipeline.plan.import_files import MESHES, SUFFIXES, views_in
from sctd.errors import one_line

MOST_BYTES = 2**28  # of a file: 1.1 million Gaussians of SH degree 3, which take 2 GiB of memory
MOST_GAUSSIANS = 1_000_000  # of a compressed file, which announces their number
MOST_VIEWS, MOST_PIXELS = 1000, 2**26  # of a folder of views, and of each of its images
UP = {"gltf": "y", "usdc": "y", "obj": "y", "stl": "z", "off": "z"} | {kind: up for kind, up in FORMATS.items() if up}


class Foreign(NamedTuple):
    """An object in our axes, its format, the axis of the file that points up, and what could not be honoured."""

    object: Splats | Surface | StoredViews
    format: str
    up: str | None
    notes: tuple[str, ...] = ()


def read(path: Path, up: str | None, size: int) -> Foreign:
    """The object in a file or a folder of views, resized to `size` pixels. Raises UserError or FormatError, OSError."""
    if path.is_dir():
        return Foreign(StoredViews(_views(path, size)), "views", None)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"Files {path.suffix or 'without an extension'} are not read; convert it to {', '.join(SUFFIXES)}."
        )
    kind = path.suffix[1:].lower()
    if (bytes_ := path.stat().st_size) > MOST_BYTES:
        raise UserError(
            f"The file has {bytes_ / 2**20:,.0f} MiB; at most {MOST_BYTES / 2**20:g} are read. Reduce the asset, for "
            "example with segmentdreamer export FILE --to ply --sh-degree 0."
        )
    data = path.read_bytes()
    if path.suffix.lower() in MESHES or (kind in ("ply", "glb") and not _has_gaussians(data, kind)):
        from sctd.formats.triangles import read_mesh

        up, mesh = up or UP[kind], read_mesh(path)
        return Foreign(Surface(mesh.transformed(_to_ours(up).numpy())), kind, up, mesh.notes)
    from sctd.formats import ply
    from sctd.formats.axes import rotated

    name = "compressed.ply" if kind == "ply" and ply.is_compressed(data) else kind
    up, gaussians = up or UP[name], _gaussians(data, kind)
    if not gaussians.num:
        raise UserError("The file has no Gaussians; export the asset again.")
    return Foreign(Splats(rotated(gaussians, _to_ours(up))), name, up)


def _gaussians(data: bytes, kind: str) -> Any:
    from sctd.formats import gltf, ply, sog, splat, spz, usd

    readers: dict[str, Callable[[bytes], Any]] = {
        "ply": ply.from_ply,
        "splat": splat.from_splat,
        "spz": partial(spz.from_spz, most=MOST_GAUSSIANS),
        "sog": partial(sog.from_sog, most=MOST_GAUSSIANS),
        "glb": gltf.from_glb,
        **dict.fromkeys(("usda", "usdc", "usdz"), usd.from_usd),
    }
    return readers[kind](data)


def _has_gaussians(data: bytes, kind: str) -> bool:
    from sctd.formats import gltf, ply

    return ply.has_gaussians(data) if kind == "ply" else gltf.has_gaussians(data)


def _to_ours(up: str) -> Any:
    from sctd.formats.axes import axes

    return axes(up).T


def _views(folder: Path, size: int) -> np.ndarray:
    """The views of a folder on white, uint8 [views, size, size, 3]."""
    paths = views_in(folder)
    if not paths:
        raise UserError("The folder has neither views nor exactly one asset; keep the one that is meant.")
    if len(paths) > MOST_VIEWS:
        raise UserError(f"The folder has {len(paths)} views; at most {MOST_VIEWS} are read.")
    return np.stack([_image(path, size) for path in paths])


def _image(path: Path, size: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=["PNG", "JPEG", "WEBP"])
            if image.width != image.height or image.width * image.height > MOST_PIXELS:
                raise UserError(
                    f"The view {shortened(path.name)} has {image.width} × {image.height} pixels; expected a square of "
                    f"at most {MOST_PIXELS:,}."
                )
            rgba = image.convert("RGBA")
    except UserError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"The view {shortened(path.name)} is no readable image ({one_line(error)}); render it again."
        ) from error
    white = Image.new("RGBA", rgba.size, "white")
    rgb = Image.alpha_composite(white, rgba).convert("RGB")
    return np.asarray(rgb if rgb.width == size else rgb.resize((size, size), Image.Resampling.BICUBIC))
