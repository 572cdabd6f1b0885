"""Assets of a run turning side by side, the picture of the README: `python -m pipeline.assets.turntable_strip RUN --out FILE.webp`."""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.assets import images as pictures
from pipeline.assets.export import ELEVATION_DEGREES, FOV_Y_RADIANS
from pipeline.store import manifest
from pipeline.store.run_folder import ASSET, Store

RADIUS = 3.9  # whole assets, also from their widest side
SUPERSAMPLED = 2  # pixels are rendered so many times finer, then averaged
QUALITY, MILLISECONDS_A_TURN = 80, 6000


def strip(run: Path, pixels: int, views: int) -> np.ndarray:
    """Bytes [views, pixels, assets · pixels, 3] of all assets of a run folder, in the order of its jobs, over white."""
    from sctd.formats import ply
    from sctd.scene.cameras import orbit

    store = Store(run)
    assets = [store.item(job["job_id"]) / ASSET for job in manifest.read(store)["jobs"]]
    cameras = orbit(
        views,
        elevation_degrees=ELEVATION_DEGREES,
        radius=RADIUS,
        fov_y_radians=FOV_Y_RADIANS,
        size=SUPERSAMPLED * pixels,
    )
    turning = [pictures.on_white(ply.from_ply(asset.read_bytes()), cameras) for asset in assets]
    fine = np.concatenate(turning, axis=2).astype(np.float32)
    blocks = fine.reshape(views, pixels, SUPERSAMPLED, len(assets) * pixels, SUPERSAMPLED, 3)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def animated_webp(frames: np.ndarray) -> bytes:
    """A .webp that repeats for ever, a turn in 6 s."""
    images = [Image.fromarray(frame) for frame in frames]
    file = io.BytesIO()
    duration = MILLISECONDS_A_TURN // len(images)
    images[0].save(
        file, "WEBP", save_all=True, append_images=images[1:], duration=duration, loop=0, quality=QUALITY, method=6
    )
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--out", type=Path, required=True, help="a .webp")
    parser.add_argument("--size", type=int, default=240, help="pixels of each asset along each side")
    parser.add_argument("--views", type=int, default=60, help="pictures of a turn")
    given = parser.parse_args()
    given.out.write_bytes(animated_webp(strip(given.run, given.size, given.views)))


if __name__ == "__main__":
    main()
