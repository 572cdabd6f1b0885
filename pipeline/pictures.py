"""Pictures of assets: the views that are judged, a turntable, contact sheets. Values in, bytes out."""

import io
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WATCHABLE_PIXELS = 256  # small views are enlarged to at least this
SHEET_VIEWS, THUMBNAIL_PIXELS, CAPTION_PIXELS = 8, 128, 22
FRAMES_PER_SECOND = 24
VIEWS_AT_ONCE = 30


def on_white(gaussians: Any, cameras: Any) -> np.ndarray:
    """Bytes [views, height, width, 3] of `sctd.Gaussians` from `sctd.Cameras` over white, on the Gaussians' device."""
    import torch

    from evaluation.views import to_bytes
    from sctd.render import render

    parts = [cameras.select(slice(i, i + VIEWS_AT_ONCE)) for i in range(0, cameras.num, VIEWS_AT_ONCE)]
    with torch.no_grad():
        return np.concatenate([to_bytes(render(gaussians, part, torch.ones(3)).rgb) for part in parts])


def video(views: np.ndarray) -> bytes:
    """An H.264 .mp4 of the views in turn that any player opens (yuv420p, even sides), small ones enlarged."""
    import imageio_ffmpeg

    factor = max(1, -(-WATCHABLE_PIXELS // views.shape[2]))
    width, height = (side * factor // 2 * 2 for side in (views.shape[2], views.shape[1]))
    frames = b"".join(_resized(view, width, height).tobytes() for view in views)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FRAMES_PER_SECOND), "-i", "-"]
    encoded = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-threads", "1", "-movflags", "+faststart"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turntable.mp4"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *raw, *encoded, str(path)]
        subprocess.run(command, input=frames, capture_output=True, check=True)
        return path.read_bytes()


def contact_sheet(views: np.ndarray, caption: str) -> bytes:
    """A .png of views all round, side by side under their caption."""
    chosen = views[np.arange(SHEET_VIEWS) * len(views) // SHEET_VIEWS]
    size = THUMBNAIL_PIXELS
    sheet = Image.new("RGB", (SHEET_VIEWS * size, size + CAPTION_PIXELS), "white")
    for column, view in enumerate(chosen):
        sheet.paste(_resized(view, size, size), (column * size, CAPTION_PIXELS))
    ImageDraw.Draw(sheet).text((6, 3), caption, fill="black", font=ImageFont.load_default(size=14))
    return _png(sheet)


def stacked(sheets: Sequence[bytes]) -> bytes:
    """Sheets of one width, one below the other."""
    images = [Image.open(io.BytesIO(sheet)) for sheet in sheets]
    whole = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    return _png(whole)


def _resized(view: np.ndarray, width: int, height: int) -> Image.Image:
    return Image.fromarray(view).resize((width, height), Image.Resampling.BICUBIC)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()
