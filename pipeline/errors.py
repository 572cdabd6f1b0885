"""Errors that the user can fix, with exit status 2. The message says what was found, expected, and what to do."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The command, its options or its files are invalid; nothing has been computed yet."""


def port_in_use(port: int, option: str, error: Exception) -> UserError:
    """The error about a port that a server cannot use; `option` sets the port."""
    return UserError(f"Port {port} is not available ({error}); pass another port with {option}, or 0 for a free one.")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word, such as "; the nearest is 'sctd'"; empty if no known word is similar."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; the nearest is {close[0]!r}" if close else ""


def shortened(text: str, length: int = 40) -> str:
    """The text, truncated to `length` characters for a message."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
