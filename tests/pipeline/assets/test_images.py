"""Videos, contact sheets and renders of assets."""

import io
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from pipeline.assets import images


@pytest.fixture
def views() -> np.ndarray:
    """16 uniform views of 20 pixels with increasing brightness."""
    return np.stack([np.full((20, 20, 3), 10 * i, np.uint8) for i in range(16)])


def test_contact_sheet_shows_eight_views_under_the_caption(views):
    sheet = Image.open(io.BytesIO(images.contact_sheet(views, "a grey wall")))
    size, top = images.THUMBNAIL_PIXELS, images.CAPTION_PIXELS
    assert sheet.size == (8 * size, size + top)
    middles = [sheet.getpixel((size * column + size // 2, top + size // 2))[0] for column in range(8)]
    assert middles == [20 * column for column in range(8)]
    assert np.asarray(sheet)[:top].min() < 128, "the caption is written in black"


def test_contact_sheets_are_stacked(views):
    sheets = [images.contact_sheet(views, name) for name in ("one", "two", "three")]
    whole = Image.open(io.BytesIO(images.stacked(sheets)))
    assert whole.height == 3 * Image.open(io.BytesIO(sheets[0])).height


def test_headings_are_wrapped_to_the_column_width():
    width = 120
    lines = images._wrapped("sctd prompt_template='a DSLR photo of {prompt}' " + "x" * 60, width)
    assert " ".join(lines).replace(" ", "").count("x") == 60
    assert lines[0].startswith("sctd")
    assert all(images._font().getlength(line) <= width for line in lines)
    assert images._wrapped("short", width) == ["short"]


def test_video_is_yuv420p_and_enlarged(views, tmp_path):
    (tmp_path / "t.mp4").write_bytes(images.video(views))
    read = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "t.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(read, capture_output=True, check=True)
    stream = next(line for line in done.stderr.decode().splitlines() if "Video: h264" in line)
    assert "yuv420p" in stream
    assert "260x260" in stream
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, 260, 260, 3)
    assert len(frames) == len(views)
    assert abs(int(frames[8].mean()) - 80) <= 3


def test_views_are_uint8_on_white():
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
    seen = images.on_white(red, orbit(31, 0.0, 3.5, 0.55, 16))
    assert seen.shape == (31, 16, 16, 3)
    assert seen.dtype == np.uint8
    assert (seen[:, 0, 0] == 255).all()
    assert (seen[:, 8, 8, 0] > 250).all()
    assert (seen[:, 8, 8, 1:] < 30).all()


def test_gif_loops_with_the_duration_of_a_turn(views):
    gif = Image.open(io.BytesIO(images.gif(views)))
    assert (gif.n_frames, gif.size) == (16, (20, 20))
    assert gif.info["loop"] == 0
    assert gif.info["duration"] == 1000 * images.GIF_SECONDS / 16
    gif.seek(8)
    assert abs(gif.convert("RGB").getpixel((10, 10))[0] - 80) <= 1


def test_png_is_lossless(views):
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(images.png(views[3])))), views[3])


def test_views_with_opacity_are_the_unclamped_light_on_black():
    """A wide opaque Gaussian of colour (1.5, 0.5, 0): its light is the colour times the opacity, everywhere."""
    import torch

    from sctd.scene.cameras import orbit
    from sctd.scene.gaussians import Gaussians, rgb_to_sh

    gaussians = Gaussians(
        means=torch.zeros(1, 3),
        log_scales=torch.full((1, 3), -1.5),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        logit_opacities=torch.tensor([9.0]),
        sh=rgb_to_sh(torch.tensor([[[1.5, 0.5, 0.0]]])),
    )
    light, opacity = images.with_opacity(gaussians, orbit(31, 0.0, 3.5, 0.55, 16))
    assert (light.shape, opacity.shape) == ((31, 16, 16, 3), (31, 16, 16))
    assert (opacity[:, 0, 0] == 0).all()
    assert (opacity[:, 8, 8] > 0.9).all()
    np.testing.assert_allclose(light, opacity[..., None] * np.float32([1.5, 0.5, 0]), atol=1e-6)
