"""What every verb ends with: an exit status, one line for an error, and how to go on after Ctrl-C."""

import functools
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

# docs/errors.md has their meanings; 70 is what sysexits.h calls an error of the software itself.
OK, NOT_ALL_THERE, WRONG_INPUT, SOME_FAILED, WORSE, BROKEN, INTERRUPTED = 0, 1, 2, 3, 5, 70, 130
OURS = {"pipeline", "sctd", "evaluation", "cluster"}
DEBUG = "SEGMENTDREAMER_DEBUG"  # set by --debug, too, so that what is started from here knows of it


def guarded(command: Callable[..., int | None]) -> Callable[..., None]:
    """An error becomes one line, with its traceback above where that was asked for; an interruption says how to go on.

    Status 2 for what the user can mend, 70 for what only we can.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            status = command(*arguments, **options)
        except (KeyboardInterrupt, SystemExit):  # the latter is what Ray makes of SIGTERM while it starts
            print(f"Interrupted. Start the same command again to go on: {_command()}", file=sys.stderr)
            status = INTERRUPTED
        except Exception as error:
            if os.environ.get(DEBUG):
                traceback.print_exc()
            is_ours = type(error).__module__.partition(".")[0] in OURS or isinstance(error, OSError)
            print(f"Error: {_line(str(error)) if is_ours else _unexpected(error)}", file=sys.stderr)
            status = WRONG_INPUT if is_ours else BROKEN
        if status is not None:
            raise typer.Exit(status)

    return run


def _unexpected(error: Exception) -> str:
    what = _line(f"{type(error).__name__}: {error}").rstrip(".: ")
    return (
        f"{what}. This is a fault of the program, not of the command: {_command('--debug')} shows where; please report "
        "that."
    )


def _command(*options: str) -> str:
    """The one that was given, to be given again."""
    words = [word for word in sys.argv[1:] if word not in options]
    return shlex.join(["segmentdreamer", *options, *words])


def _line(text: str) -> str:
    return " ".join(text.split())


def hear_signals() -> None:
    """SIGTERM, by which Kubernetes ends a pod, and Ctrl-C give back what is held; a second Ctrl-C kills at once."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in a background job of a shell
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(*_: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt
