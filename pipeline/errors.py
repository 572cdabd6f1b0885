"""What a user can mend: one sentence with what was found, what was expected and what to do. Exit status 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The command, its options or its files are wrong; nothing has been computed yet."""


def nearest(word: str, known: Iterable[str]) -> str:
    """What to choose instead of an unknown word: '; the nearest is 'sctd'', or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; the nearest is {close[0]!r}" if close else ""


def shortened(text: str, length: int = 40) -> str:
    """The beginning of a long text, for a message."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
