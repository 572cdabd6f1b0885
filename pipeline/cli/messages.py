"""`message`: prints a line to standard error, so that standard output has only what scripts read."""

import sys


def message(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
