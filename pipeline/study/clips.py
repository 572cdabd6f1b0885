"""Re-encodes turntables as anonymous clips: the files of two methods differ in their images only.

All clips have the same frame size, duration, frame rate and number of bytes, and no metadata.
"""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import UserError

SIDE_PIXELS, FRAMES_PER_SECOND, SECONDS = 384, 24, 5
EMPTY_BOX = 8  # bytes of an empty MP4 box


def clip(turntable: Path) -> bytes:
    """One turn in `SECONDS`, on white. Raises UserError for an unreadable video."""
    import imageio_ffmpeg

    try:
        frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(turntable))
    except RuntimeError as error:
        raise UserError(f"{turntable} is not a readable video; generate the asset again.") from error
    if not frames or not seconds:
        raise UserError(f"{turntable} is not a readable video; generate the asset again.")
    side = SIDE_PIXELS
    scaled = f"scale={side}:{side}:force_original_aspect_ratio=decrease:flags=bicubic,pad={side}:{side}:-1:-1:white"
    filters = f"setpts=PTS*{SECONDS / seconds:.9f},fps={FRAMES_PER_SECOND},{scaled},setsar=1,format=yuv420p"
    encoded = ["-c:v", "libx264", "-crf", "18", "-threads", "1", "-frames:v", str(SECONDS * FRAMES_PER_SECOND)]
    silent = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", "-an"]
    anonymous = ["-bsf:v", "filter_units=remove_types=6"]  # removes the encoder's version and settings
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(turntable), "-vf", filters]
        subprocess.run([*command, *encoded, *silent, *anonymous, str(path)], capture_output=True, check=True)
        return path.read_bytes()


def padded(clips: Sequence[bytes]) -> list[bytes]:
    """The clips padded to equal size with a final MP4 box that players skip."""
    length = max(map(len, clips)) + EMPTY_BOX
    return [clip + _empty_box(length - len(clip)) for clip in clips]


def _empty_box(length: int) -> bytes:
    return length.to_bytes(4, "big") + b"free" + bytes(length - EMPTY_BOX)
