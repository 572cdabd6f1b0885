"""Commands that receive a signal at a named point, without the seconds a new process takes to import torch.

`python -m tests.support.zygote` reads lines of JSON, {"arguments": […], "at": POINT, "signal": NUMBER}. It runs the
first command itself, which imports all that commands import when they need it: 4,700 modules, 5 of a command's 7
seconds. It runs each later one in a fork of itself, which receives the signal at that point. It replies with the exit
status and standard error of the command.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from typing import NamedTuple

POINTS = (
    "boot", "before the first checkpoint", "during a checkpoint", "before a checkpoint", "after the asset",
    "accepted, not moved", "half moved", "during evaluation", "after the last record",
)  # fmt: skip


class Result(NamedTuple):
    status: int  # negative: the signal number
    stderr: str


class Zygote:
    """The test's handle of the forking process."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"AWS_EC2_METADATA_DISABLED": "true"},
        )

    def run(self, arguments: list[str], at: str | None = None, number: int = signal.SIGKILL) -> Result:
        request = {"arguments": arguments, "at": at, "signal": int(number)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return Result(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def signal_at(point: str, number: int) -> None:
    """Make this process send itself the signal at `point`."""
    from pipeline.store import files
    from pipeline.work import evaluate, flow
    from pipeline.work.generate import AssetGenerator

    seen = []

    def send() -> None:
        os.kill(os.getpid(), number)
        threading.Event().wait(5)  # the signal handler runs between two Python instructions

    def before(where, name, matches, *, written=False):
        """Send it before a call of `where.name` whose path `matches`; `written`: after half a file on a disk."""
        real = getattr(where, name)

        def called(path, *rest):
            if matches(path):
                if written and files.is_local(path):
                    files.put(path.with_name(f".{path.name}.half.new"), rest[0][: len(rest[0]) // 2])
                send()
            return real(path, *rest)

        setattr(where, name, called)

    def nth(count, name):
        return lambda path: path.name == name and (seen.append(path) or len(seen) == count)

    if point == "boot":
        real = flow._generator
        flow._generator = lambda *arguments: (send(), real(*arguments))[1]
    elif point == "before the first checkpoint":
        before(files, "put", nth(1, "checkpoint"))
    elif point == "during a checkpoint":
        before(files, "put", nth(3, "checkpoint"), written=True)
    elif point == "before a checkpoint":
        before(files, "copy", lambda path: path.name == "checkpoint" and (seen.append(path) or len(seen) == 2))
    elif point == "after the asset":
        real_outputs = AssetGenerator._write_images
        AssetGenerator._write_images = lambda self, *arguments: (send(), real_outputs(self, *arguments))[1]
    elif point == "accepted, not moved":
        before(files, "move", lambda path: path.name == "asset.ply")
    elif point == "half moved":
        before(files, "move", lambda path: path.name == "contact.png")
    elif point == "during evaluation":
        real_npz = evaluate._npz
        evaluate._npz = lambda *arguments: (send(), real_npz(*arguments))[1]
    else:
        before(files, "put", lambda path: path.name == "distances.json")


def status_of(arguments: list[str]) -> int:
    """The exit status of a command in this process."""
    from pipeline.cli import app as cli

    sys.argv[1:] = arguments
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 1


def here(arguments: list[str]) -> Result:
    """Run a command in this process."""
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        status = status_of(arguments)
    return Result(status, stderr.getvalue())


def forked(arguments: list[str], at: str | None, number: int) -> Result:
    """Run a command in a fork that receives the signal at the point."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        os.dup2(writable, 2)
        if at:
            signal_at(at, number)
        status = 1
        try:
            status = status_of(arguments)
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        stderr = pipe.read()
    _, ended = os.waitpid(pid, 0)
    return Result(os.waitstatus_to_exitcode(ended), stderr)


def main() -> None:
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        arguments, at = request["arguments"], request["at"]
        result = forked(arguments, at, request["signal"]) if number or at else here(arguments)
        print(json.dumps(result._asdict()), flush=True)


if __name__ == "__main__":
    main()
