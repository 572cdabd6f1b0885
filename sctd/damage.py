"""What is wrong with a file of weights that a library cannot read, as far as its first bytes and its length tell."""

import json
from pathlib import Path

LFS_POINTER = b"version "  # first bytes of the small text file that stands for a file in Git LFS
HEADER_START = 8  # bytes: the length of the JSON header of a safetensors file, a little-endian integer
MOST_HEADER_BYTES = 100_000_000  # as the library allows; the first bytes of another format give a larger number


def damage_of(path: Path) -> str | None:
    """Why the first damaged .safetensors file, of a folder or alone, cannot be read; None if all lengths are right."""
    files = sorted(path.glob("*")) if path.is_dir() else [path]
    return next(filter(None, (_damage(file) for file in files if file.suffix == ".safetensors")), None)


def _damage(path: Path) -> str | None:
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(HEADER_START)
        if start == LFS_POINTER:
            return f"{path.name} is a pointer of Git LFS instead of the file, which git lfs pull fetches"
        header_bytes = int.from_bytes(start, "little")
        if header_bytes > MOST_HEADER_BYTES:
            return f"{path.name} is not a safetensors file"
        expected = HEADER_START + header_bytes
        if len(start) < HEADER_START or size < expected:
            return f"{path.name} is truncated: it ends after {size:,} bytes, within its header"
        try:
            tensors = [value for name, value in json.loads(file.read(header_bytes)).items() if name != "__metadata__"]
            expected += max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            return None  # the library's own message says what is wrong with the header
    return f"{path.name} is truncated: {size:,} of {expected:,} bytes" if size < expected else None
