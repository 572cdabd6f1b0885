"""Renders the README's turntable strip: `python -m pipeline.assets.turntable_strip RUN --out FILE.webp`."""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.assets import images
from pipeline.assets.export import ELEVATION_DEGREES, FOV_Y_RADIANS
from pipeline.store import manifest
from pipeline.store.run_folder import ASSET, Store

RADIUS = 3.9  # shows assets completely, even from their widest side
SUPERSAMPLING = 2  # renders per pixel and axis, averaged
QUALITY, MILLISECONDS_PER_TURN = 80, 6000


def turntable_strip(run: Path, pixels: int, views: int) -> np.ndarray:
    """All assets of a run folder side by side on white, in job order: uint8 [views, pixels, assets · pixels, 3]."""
    from sctd.formats import ply
    from sctd.scene.cameras import orbit

    store = Store(run)
    assets = [store.item(job.job_id) / ASSET for job in manifest.read(store).jobs]
    cameras = orbit(
        views,
        elevation_degrees=ELEVATION_DEGREES,
        radius=RADIUS,
        fov_y_radians=FOV_Y_RADIANS,
        size=SUPERSAMPLING * pixels,
    )
    turning = [images.on_white(ply.from_ply(asset.read_bytes()), cameras) for asset in assets]
    fine = np.concatenate(turning, axis=2).astype(np.float32)
    blocks = fine.reshape(views, pixels, SUPERSAMPLING, len(assets) * pixels, SUPERSAMPLING, 3)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def animated_webp(frames: np.ndarray) -> bytes:
    """A looping .webp with 6 s per turn."""
    encoded = [Image.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    duration = MILLISECONDS_PER_TURN // len(encoded)
    encoded[0].save(
        file, "WEBP", save_all=True, append_images=encoded[1:], duration=duration, loop=0, quality=QUALITY, method=6
    )
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--out", type=Path, required=True, help="a .webp")
    parser.add_argument("--size", type=int, default=240, help="size of each asset in pixels")
    parser.add_argument("--views", type=int, default=60, help="views per turn")
    given = parser.parse_args()
    given.out.write_bytes(animated_webp(turntable_strip(given.run, given.size, given.views)))


if __name__ == "__main__":
    main()
