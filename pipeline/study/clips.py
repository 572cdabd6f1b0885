"""Turntables as volunteers get them: nothing tells one method's file from another's but the picture.

Same size, same length, same frame rate, no metadata, and as many bytes: a file's size would tell a method apart.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError

SIDE_PIXELS, FRAMES_PER_SECOND, SECONDS = 384, 24, 5
EMPTY_BOX = 8  # bytes of an MP4 box that holds nothing


def clip(turntable: Path) -> bytes:
    """One turn in `SECONDS`, on white. Raises UserError for what is no video."""
    import imageio_ffmpeg

    try:
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(turntable))
    except RuntimeError as error:
        raise UserError(f"{turntable} is not a video that can be read; make the asset again.") from error
    if not frames or not seconds:
        raise UserError(f"{turntable} is not a video that can be read; make the asset again.")
    side = SIDE_PIXELS
    picture = f"scale={side}:{side}:force_original_aspect_ratio=decrease:flags=bicubic,pad={side}:{side}:-1:-1:white"
    filters = f"setpts=PTS*{SECONDS / seconds:.9f},fps={FRAMES_PER_SECOND},{picture},setsar=1,format=yuv420p"
    encoded = ["-c:v", "libx264", "-crf", "18", "-threads", "1", "-frames:v", str(SECONDS * FRAMES_PER_SECOND)]
    silent = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", "-an"]
    untold = ["-bsf:v", "filter_units=remove_types=6"]  # the encoder's note of itself
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(turntable), "-vf", filters]
        subprocess.run([*command, *encoded, *silent, *untold, str(path)], capture_output=True, check=True)
        return path.read_bytes()


def alike(clips: Sequence[bytes]) -> list[bytes]:
    """All as long as the longest, by a box at the end that players skip."""
    length = max(map(len, clips)) + EMPTY_BOX
    return [clip + _empty_box(length - len(clip)) for clip in clips]


def _empty_box(length: int) -> bytes:
    return length.to_bytes(4, "big") + b"free" + bytes(length - EMPTY_BOX)
