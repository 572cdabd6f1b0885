"""Digests of JSON-like values."""

import hashlib
import json
from typing import Any


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON of `content`, as 64 hexadecimal digits. Raises ValueError for NaN and infinity."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
