"""A prompt of a suite."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """A text to generate an asset from. `shape_text` is the short text that Point-E initializes the asset from."""

    id: str
    text: str
    shape_text: str
