"""Clips of different turntables differ in their images only."""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.study.clips import FRAMES_PER_SECOND, SECONDS, SIDE_PIXELS, clip, padded
from tests.support.study_fixtures import turntable

FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error"]


def frames(path, side):
    raw = subprocess.run(
        [*FFMPEG, "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, check=True
    )
    return np.frombuffer(raw.stdout, np.uint8).reshape(-1, side, side, 3)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Clips of a short small turntable and of a long one with identifying metadata."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "short.mp4").write_bytes(turntable(1, frames=12, side=32))
    (folder / "plain.mp4").write_bytes(turntable(2, frames=150, side=64))
    metadata = ["-metadata", "title=secret-method", "-metadata", "comment=secret-method"]
    subprocess.run(
        [*FFMPEG, "-i", str(folder / "plain.mp4"), "-c", "copy", *metadata, str(folder / "long.mp4")], check=True
    )
    assert b"secret-method" in (folder / "long.mp4").read_bytes()
    clips = padded([clip(folder / "short.mp4"), clip(folder / "long.mp4")])
    for number, content in enumerate(clips):
        (folder / f"clip{number}.mp4").write_bytes(content)
    return folder, clips


def test_clips_have_equal_frame_counts_sizes_and_lengths(both):
    folder, clips = both
    assert len(clips[0]) == len(clips[1])
    for number in (0, 1):
        assert len(frames(folder / f"clip{number}.mp4", SIDE_PIXELS)) == SECONDS * FRAMES_PER_SECOND


def test_clips_have_no_metadata(both):
    _, clips = both
    for content in clips:
        assert b"secret" not in content
        assert b"x264 - core" not in content  # the encoder's settings, which may differ between versions
    assert clips[0][:32] == clips[1][:32]


def test_clip_shows_the_same_turn(both):
    """The first and last frames equal those of the turntable up to compression."""
    folder, _ = both
    before = frames(folder / "short.mp4", 256)
    after = frames(folder / "clip0.mp4", SIDE_PIXELS)
    for number in (0, -1):
        small = before[number].reshape(32, 8, 32, 8, 3).mean((1, 3))
        large = after[number].reshape(32, 12, 32, 12, 3).mean((1, 3))
        assert np.abs(small - large).mean() < 5
    assert np.abs(after[0].astype(float) - after[-1]).mean() > 5


def test_unreadable_video_is_an_error(tmp_path):
    (tmp_path / "turntable.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"turntable\.mp4 is not a readable video"):
        clip(tmp_path / "turntable.mp4")
