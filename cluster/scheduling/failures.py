"""Failures of items and workers, and the classification of exceptions; the retry policy is in `retries.py`."""

import traceback
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """Why an item failed: a kind of `retries.POLICIES`, a one-sentence message, and a traceback if unexpected."""

    kind: str
    message: str
    details: str = ""

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        kind = kind_of(error)
        text = " ".join(str(error).split())
        if kind == "input" and text:  # the message is written for the user, so the class name is left out
            return cls(kind, text)
        details = "".join(traceback.format_exception(error))
        return cls(kind, f"{type(error).__name__}: {text}" if text else type(error).__name__, details)


def kind_of(error: BaseException) -> str:
    """The kind of failure of an exception. Compares names for classes of libraries that `cluster` may not import."""
    name, text = type(error).__name__, str(error)
    if isinstance(error, MemoryError) or "OutOfMemory" in name:
        return "out_of_memory"
    if "AcceleratorError" in name or "CUDA error" in text or "cuInit" in text:
        return "device"
    if isinstance(error, ArithmeticError):
        return "numeric"
    if isinstance(error, OSError):
        return "storage"
    return "input" if isinstance(error, ValueError) else "error"
