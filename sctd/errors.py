"""The base class of the errors of `sctd`, and the texts of other libraries' errors in them."""

import re

# Errors of parsers that meet content which they do not expect, and words of others: they are about Python's values.
_ABOUT_CODE = ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError
_WORDS = re.compile(r"\bunpack|\breshape\b|\brecursion\b|numpy|\bnp\.|\bobject at 0x|allow_pickle|\bPyObject|NoneType")


class SctdError(ValueError):
    """Base of all errors that `sctd` raises itself: what was found, what was expected and what to do."""


def one_line(error: object, length: int = 160) -> str:
    """The text of a library's error in one line, shortened; a general one if it is about Python's values."""
    text = " ".join(str(error).split())
    if isinstance(error, RecursionError) or re.search("recursion (depth|limit)", text):
        return "it is nested too deeply"
    if not text or isinstance(error, _ABOUT_CODE) or _WORDS.search(text):
        return "its content does not follow the format"
    return shortened(text, length)


def shortened(text: str, length: int = 160) -> str:
    """The text, truncated to `length` characters for a message."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
