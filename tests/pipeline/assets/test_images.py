import io
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from pipeline.assets import images as pictures


@pytest.fixture
def views() -> np.ndarray:
    """16 plain views of 20 pixels, each a little brighter."""
    return np.stack([np.full((20, 20, 3), 10 * i, np.uint8) for i in range(16)])


def test_a_contact_sheet_shows_eight_views_all_round_under_the_prompt(views):
    sheet = Image.open(io.BytesIO(pictures.contact_sheet(views, "a grey wall")))
    size, top = pictures.THUMBNAIL_PIXELS, pictures.CAPTION_PIXELS
    assert sheet.size == (8 * size, size + top)
    middles = [sheet.getpixel((size * column + size // 2, top + size // 2))[0] for column in range(8)]
    assert middles == [20 * column for column in range(8)]
    assert np.asarray(sheet)[:top].min() < 128, "the caption is written in black"


def test_sheets_are_stacked(views):
    sheets = [pictures.contact_sheet(views, name) for name in ("one", "two", "three")]
    whole = Image.open(io.BytesIO(pictures.stacked(sheets)))
    assert whole.height == 3 * Image.open(io.BytesIO(sheets[0])).height


def test_headings_are_wrapped_to_the_width_of_their_column():
    width = 120
    lines = pictures._wrapped("sctd prompt_template='a DSLR photo of {prompt}' " + "x" * 60, width)
    assert " ".join(lines).replace(" ", "").count("x") == 60
    assert lines[0].startswith("sctd")
    assert all(pictures._font().getlength(line) <= width for line in lines)
    assert pictures._wrapped("short", width) == ["short"]


def test_a_turntable_plays_anywhere_and_is_large_enough(views, tmp_path):
    (tmp_path / "t.mp4").write_bytes(pictures.video(views))
    read = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "t.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(read, capture_output=True, check=True)
    stream = next(line for line in done.stderr.decode().splitlines() if "Video: h264" in line)
    assert "yuv420p" in stream
    assert "260x260" in stream
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, 260, 260, 3)
    assert len(frames) == len(views)
    assert abs(int(frames[8].mean()) - 80) <= 3


def test_views_are_bytes_over_white():
    import torch

    from sctd.scene.cameras import orbit
    from sctd.scene.gaussians import Gaussians

    red = Gaussians(
        means=torch.zeros(1, 3),
        log_scales=torch.full((1, 3), -1.5),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        logit_opacities=torch.tensor([9.0]),
        sh=torch.tensor([[[1.77, -1.77, -1.77]]]),
    )
    seen = pictures.on_white(red, orbit(31, 0.0, 3.5, 0.55, 16))
    assert seen.shape == (31, 16, 16, 3)
    assert seen.dtype == np.uint8
    assert (seen[:, 0, 0] == 255).all()
    assert (seen[:, 8, 8, 0] > 250).all()
    assert (seen[:, 8, 8, 1:] < 30).all()


def test_an_animation_repeats_for_ever_at_the_speed_of_a_turntable(views):
    gif = Image.open(io.BytesIO(pictures.animation(views)))
    assert (gif.n_frames, gif.size) == (16, (20, 20))
    assert gif.info["loop"] == 0
    assert gif.info["duration"] == 1000 * pictures.GIF_SECONDS / 16
    gif.seek(8)
    assert abs(gif.convert("RGB").getpixel((10, 10))[0] - 80) <= 1


def test_a_picture_is_the_view_itself(views):
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(pictures.picture(views[3])))), views[3])
