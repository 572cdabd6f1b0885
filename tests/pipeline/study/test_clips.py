"""Clips of unlike turntables differ in their picture alone."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.study.clips import FRAMES_PER_SECOND, SECONDS, SIDE_PIXELS, alike, clip
from tests.support.study_fixtures import turntable

FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error"]


def frames(path, side):
    raw = subprocess.run(
        [*FFMPEG, "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    )
    return np.frombuffer(raw.stdout, np.uint8).reshape(-1, side, side, 3)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Of a short small one, and of a long one that says whose it is."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "short.mp4").write_bytes(turntable(1, frames=12, side=32))
    (folder / "plain.mp4").write_bytes(turntable(2, frames=150, side=64))
    told = ["-metadata", "title=secret-method", "-metadata", "comment=secret-method"]
    subprocess.run(
        [*FFMPEG, "-i", str(folder / "plain.mp4"), "-c", "copy", *told, str(folder / "long.mp4")], check=True
    )
    assert b"secret-method" in (folder / "long.mp4").read_bytes()
    clips = alike([clip(folder / "short.mp4"), clip(folder / "long.mp4")])
    for number, content in enumerate(clips):
        (folder / f"clip{number}.mp4").write_bytes(content)
    return folder, clips


def test_same_frames_same_size_same_bytes(both):
    folder, clips = both
    assert len(clips[0]) == len(clips[1])
    for number in (0, 1):
        assert len(frames(folder / f"clip{number}.mp4", SIDE_PIXELS)) == SECONDS * FRAMES_PER_SECOND


def test_nothing_is_told_but_the_picture(both):
    _, clips = both
    for content in clips:
        assert b"secret" not in content
        assert b"x264 - core" not in content  # with its settings, which a version of this program could change
    assert clips[0][:32] == clips[1][:32]


def test_it_is_still_the_same_turn(both):
    """The first and the last frame are those of the turntable, within what compression changes."""
    folder, _ = both
    before = frames(folder / "short.mp4", 256)
    after = frames(folder / "clip0.mp4", SIDE_PIXELS)
    for number in (0, -1):
        small = before[number].reshape(32, 8, 32, 8, 3).mean((1, 3))
        large = after[number].reshape(32, 12, 32, 12, 3).mean((1, 3))
        assert np.abs(small - large).mean() < 5
    assert np.abs(after[0].astype(float) - after[-1]).mean() > 5


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "turntable.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"turntable\.mp4 is not a video that can be read"):
        clip(tmp_path / "turntable.mp4")
