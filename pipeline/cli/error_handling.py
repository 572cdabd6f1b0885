"""Exit statuses, one-line errors and signal handlers of all commands."""

import errno
import functools
import os
import re
import shlex
import signal
import sys
import traceback
import unicodedata
from collections.abc import Callable
from typing import Any

import typer

# docs/errors.md explains them. 70 is EX_SOFTWARE of sysexits.h.
OK, CHECK_FAILED, INVALID_INPUT, JOBS_FAILED, REGRESSION, INTERNAL_ERROR, INTERRUPTED = 0, 1, 2, 3, 5, 70, 130
OWN_PACKAGES = {"pipeline", "sctd", "evaluation", "cluster"}
DEBUG = "SEGMENTDREAMER_DEBUG"  # --debug sets it, so that child processes inherit it


def status_of(failed_jobs: int) -> int:
    """The exit status of a run with this number of failed jobs."""
    return JOBS_FAILED if failed_jobs else OK


def handle_errors(command: Callable[..., int | None]) -> Callable[..., None]:
    """Make a command exit with its status and print an exception as one line.

    Exceptions of this program and OSError exit with status 2, other exceptions with 70, an interruption with 130.
    Debug mode prints the traceback before the error.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            status = command(*arguments, **options)
        except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into SystemExit while it starts
            print(f"Interrupted. To resume, run: {_command()}", file=sys.stderr)
            status = INTERRUPTED
        except Exception as error:
            if os.environ.get(DEBUG):
                traceback.print_exc()
            is_own = type(error).__module__.partition(".")[0] in OWN_PACKAGES or isinstance(error, OSError)
            print(f"Error: {_line(text_of(error)) if is_own else _internal(error)}", file=sys.stderr)
            status = INVALID_INPUT if is_own else INTERNAL_ERROR
        if status is not None:
            raise typer.Exit(status)

    return run


# What is wrong with a file that cannot be written, and what to do.
FILE_ERRORS = {
    errno.ENOSPC: "is on a full disk; free some space or choose another place.",
    errno.EDQUOT: "exceeds a disk quota; free some space or choose another place.",
    errno.EROFS: "is on a read-only disk; choose another place.",
    errno.EACCES: "cannot be accessed (Permission denied); choose another place, or change its permissions.",
    errno.EPERM: "cannot be accessed (Operation not permitted); choose another place, or change its permissions.",
    errno.EISDIR: "is a folder; pass the path of a file.",
    errno.ENOTDIR: "is below a file, not a folder; choose another place.",
    errno.EEXIST: "is below a file, not a folder; choose another place.",
    errno.ENAMETOOLONG: "has too long a name; choose a shorter one.",
}


def text_of(error: Exception) -> str:
    """The message of an error. Those of `cluster` name arguments, `gpus_per_worker`, which are options here."""
    if isinstance(error, OSError) and error.errno and error.filename:
        other = f"cannot be read or written ({error.strerror}); check the path."
        return f"{error.filename} {FILE_ERRORS.get(error.errno, other)}"
    if type(error).__module__.startswith("cluster."):
        return re.sub(r"`(\w+)`", lambda found: f"--{found[1].replace('_', '-')}", str(error))
    return str(error)


def _internal(error: Exception) -> str:
    text = _line(f"{type(error).__name__}: {error}").rstrip(".: ")
    return f"{text}. This is a bug of this program. For the traceback, run {_command('--debug')}; please report it."


def _command(*options: str) -> str:
    """The command line of this process, with these global options."""
    words = [word for word in sys.argv[1:] if word not in options]
    return shlex.join(["segmentdreamer", *options, *words])


def _line(text: str) -> str:
    """One line, in which control characters, perhaps of a file that the error quotes, cannot control the terminal."""
    line = " ".join(text.split())
    return "".join(f"\\x{ord(mark):02x}" if unicodedata.category(mark) in ("Cc", "Cs") else mark for mark in line)


def install_signal_handlers() -> None:
    """Make SIGTERM, which ends a Kubernetes pod, and Ctrl-C stop cleanly; a second Ctrl-C kills the process."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # shells ignore it for background jobs
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(*_: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt
