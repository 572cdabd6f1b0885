"""Images of assets: views on white, turntable videos, contact sheets and grids. Values in, bytes out."""

import io
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_VIDEO_PIXELS = 256  # smaller views are enlarged
SHEET_VIEWS, THUMBNAIL_PIXELS, CAPTION_PIXELS = 8, 128, 22
GRID_VIEWS = 0, 3  # of a contact sheet: the front, and the view at 135°, which shows a side and the back
FONT_PIXELS, LINE_PIXELS, PROMPT_PIXELS, GAP_PIXELS = 14, 18, 140, 12
FRAMES_PER_SECOND = 24
GIF_SECONDS = 4.8
VIEWS_PER_BATCH = 30


def on_white(gaussians: Any, cameras: Any) -> np.ndarray:
    """Render `sctd.Gaussians` from `sctd.Cameras` on white: uint8 [views, height, width, 3]. Runs on their device."""
    from sctd.render.rasterize import render_on_white

    return rendered(partial(render_on_white, gaussians), cameras)


def rendered(shown: Callable[[Any], Any], cameras: Any) -> np.ndarray:
    """The views of a function from cameras to images in [0, 1], some at a time: uint8 [views, height, width, 3]."""
    from evaluation.views import to_bytes

    return np.concatenate([to_bytes(shown(part)) for part in _batches(cameras)])


def with_opacity(gaussians: Any, cameras: Any) -> tuple[np.ndarray, np.ndarray]:
    """Render `sctd.Gaussians` on black, without clamping: float32 [views, height, width, 3]; and their opacity."""
    import torch

    from sctd.render.rasterize import render

    with torch.no_grad():
        found = [render(gaussians, part, torch.zeros(3)) for part in _batches(cameras)]
    light = np.concatenate([part.rgb.permute(0, 2, 3, 1).cpu().numpy() for part in found])
    return light, np.concatenate([part.alpha.cpu().numpy() for part in found])


def _batches(cameras: Any) -> list[Any]:
    return [cameras.select(slice(i, i + VIEWS_PER_BATCH)) for i in range(0, cameras.num, VIEWS_PER_BATCH)]


def video_pixels(size: int) -> int:
    """The side of the video of square views: even, and a multiple of a side below `MIN_VIDEO_PIXELS`."""
    return size * max(1, -(-MIN_VIDEO_PIXELS // size)) // 2 * 2


def video(views: np.ndarray) -> bytes:
    """An H.264 .mp4 of square views, playable everywhere (yuv420p, even sides); small views are enlarged."""
    import imageio_ffmpeg

    width = height = video_pixels(views.shape[2])
    frames = b"".join(_resized(view, width, height).tobytes() for view in views)
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FRAMES_PER_SECOND), "-i", "-"]
    encoded = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-threads", "1", "-movflags", "+faststart"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "turntable.mp4"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", *raw, *encoded, str(path)]
        subprocess.run(command, input=frames, capture_output=True, check=True)
        return path.read_bytes()


def gif(views: np.ndarray) -> bytes:
    """A looping .gif of the views, `GIF_SECONDS` per turn, with 256 colours per view."""
    frames = [Image.fromarray(view).quantize(256, dither=Image.Dither.NONE) for view in views]
    file = io.BytesIO()
    milliseconds = 10 * round(100 * GIF_SECONDS / len(frames))  # the format counts in hundredths
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return file.getvalue()


def png(view: np.ndarray) -> bytes:
    """A .png of one view."""
    return _png(Image.fromarray(view))


def contact_sheet(views: np.ndarray, caption: str) -> bytes:
    """A .png of `SHEET_VIEWS` evenly spaced views side by side under a caption."""
    chosen = views[np.arange(SHEET_VIEWS) * len(views) // SHEET_VIEWS]
    size = THUMBNAIL_PIXELS
    sheet = Image.new("RGB", (SHEET_VIEWS * size, size + CAPTION_PIXELS), "white")
    for column, view in enumerate(chosen):
        sheet.paste(_resized(view, size, size), (column * size, CAPTION_PIXELS))
    ImageDraw.Draw(sheet).text((6, 3), caption, fill="black", font=_font())
    return _png(sheet)


def stacked(sheets: Sequence[bytes]) -> bytes:
    """Contact sheets stacked vertically as one .png; one of hundreds takes seconds, and optimized thrice as many."""
    opened = [Image.open(io.BytesIO(sheet)) for sheet in sheets]
    whole = Image.new("RGB", (max(image.width for image in opened), sum(image.height for image in opened)), "white")
    top = 0
    for image in opened:
        whole.paste(image, (0, top))
        top += image.height
    return _png(whole, optimize=False)


class Tile(NamedTuple):
    """An asset in a grid: its contact sheet (None: no asset), and a caption."""

    sheet: bytes | None
    caption: str


def grid(columns: Sequence[str], rows: Sequence[str], tiles: Sequence[Sequence[Tile]]) -> bytes:
    """A .png of `tiles[row][column]` with column and row headings; a tile shows the front and back of an asset."""
    tile_width, tile_height = len(GRID_VIEWS) * THUMBNAIL_PIXELS, THUMBNAIL_PIXELS + LINE_PIXELS
    headings = [_wrapped(heading, tile_width) for heading in columns]
    top = GAP_PIXELS + LINE_PIXELS * max(len(lines) for lines in headings)
    lefts = [PROMPT_PIXELS + column * (tile_width + GAP_PIXELS) for column in range(len(columns))]
    tops = [top + row * (tile_height + GAP_PIXELS) for row in range(len(rows))]
    whole = Image.new("RGB", (lefts[-1] + tile_width + GAP_PIXELS, tops[-1] + tile_height + GAP_PIXELS), "white")
    for left, lines in zip(lefts, headings, strict=True):
        _write(whole, lines, left, top - GAP_PIXELS // 2 - LINE_PIXELS * len(lines))
    for y, row, row_tiles in zip(tops, rows, tiles, strict=True):
        _write(whole, _wrapped(row, PROMPT_PIXELS - 2 * GAP_PIXELS)[: tile_height // LINE_PIXELS], GAP_PIXELS, y)
        for x, tile in zip(lefts, row_tiles, strict=True):
            if tile.sheet is not None:
                whole.paste(_some_views(tile.sheet), (x, y))
            _write(whole, [tile.caption], x, y + THUMBNAIL_PIXELS)
    return _png(whole)


def _some_views(sheet: bytes) -> Image.Image:
    """The `GRID_VIEWS` of a contact sheet."""
    image, size = Image.open(io.BytesIO(sheet)), THUMBNAIL_PIXELS
    views = Image.new("RGB", (len(GRID_VIEWS) * size, size))
    for column, number in enumerate(GRID_VIEWS):
        box = number * size, CAPTION_PIXELS, (number + 1) * size, CAPTION_PIXELS + size
        views.paste(image.crop(box), (column * size, 0))
    return views


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` pixels; a longer word is broken."""
    lines, fits = [""], lambda line: _font().getlength(line) <= width
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if fits(longer):
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if not fits(lines[-1] + letter):
                lines.append("")
            lines[-1] += letter
    return lines


def _write(image: Image.Image, lines: Sequence[str], left: int, top: int) -> None:
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((left, top + number * LINE_PIXELS), line, fill="black", font=_font())


@cache
def _font() -> Any:
    return ImageFont.load_default(size=FONT_PIXELS)


def _resized(view: np.ndarray, width: int, height: int) -> Image.Image:
    return Image.fromarray(view).resize((width, height), Image.Resampling.BICUBIC)


def _png(image: Image.Image, *, optimize: bool = True) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=optimize)
    return file.getvalue()
