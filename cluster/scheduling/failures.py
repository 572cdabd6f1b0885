"""What can go wrong with an item or a worker, and what is done about it: the table of docs/cluster.md."""

import traceback
from dataclasses import dataclass
from typing import NamedTuple


class Policy(NamedTuple):
    """How often an item may meet one kind of failure, how often in a row a birth may, and what else follows."""

    attempts: int
    boots: int = 1
    replace_worker: bool = False
    strikes: bool = False  # it counts against the slot: after some in a row the slot is given up
    backs_off: bool = False  # the next attempt waits, each time twice as long


POLICIES = {
    "input": Policy(1),  # the same prompt fails the same way
    "numeric": Policy(2),  # once more, with other random numbers
    "error": Policy(1),
    "storage": Policy(6, backs_off=True),
    "out_of_memory": Policy(2, 3, replace_worker=True),  # fragmented memory of a long-lived worker is the usual cause
    "device": Policy(2, 3, replace_worker=True, strikes=True),  # after it every later call in the process fails
    "died": Policy(3, 3, replace_worker=True, strikes=True),
    "stalled": Policy(2, 2, replace_worker=True, strikes=True),
    "node_lost": Policy(10, 10, replace_worker=True),  # nobody's fault: the cap only keeps a run from going on for ever
    "preempted": Policy(10, 10, replace_worker=True),
}


@dataclass(frozen=True)
class Failure:
    """Why an item failed: a kind of `POLICIES`, one sentence, and for the unexpected the traceback."""

    kind: str
    message: str
    details: str = ""

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        kind = kind_of(error)
        text = " ".join(str(error).split())
        if kind == "input" and text:  # written for the user: the class name would only be in the way
            return cls(kind, text)
        return cls(kind, f"{type(error).__name__}: {text}" if text else type(error).__name__, _traceback(error))


def kind_of(error: BaseException) -> str:
    """The row of `POLICIES` an exception belongs to. Names stand in for classes we must not import here."""
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


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
