"""Whole commands as separate processes that tests can kill."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline.store.attempts import Checkpoint

PROMPTS = ["--prompt", "a red cube", "--prompt", "a blue ball"]
BALL = ["--set", "initialization.kind=ball", "--set", "initialization.count=150"]
ITERATIONS = 40  # two kills interrupt the first job
SMALL = ["--set", f"iterations={ITERATIONS}", *BALL, "--views", "4", "--checkpoint-seconds", "0", "--no-report"]
SMALL += ["--score-at", "0.1,0.5"]
TIMEOUT_SECONDS = 900  # generous, for a busy machine; no test depends on it


class Command:
    """A `segmentdreamer` process, and the lines it has printed on standard error so far.

    `setup` is Python code that runs before the command.
    """

    def __init__(self, *arguments: str, setup: str = ""):
        code = f"{setup}\nfrom pipeline.cli.app import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stderr.readline, "")))
        self.reader.start()

    def pids(self, stage: str = "generate") -> list[int]:
        """The process ids of the workers of a stage, in the order in which they started."""
        found = (re.search(rf"{stage} \d+: ready \(process (\d+)\)", line) for line in list(self.lines))
        return [int(match[1]) for match in found if match]

    def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until the condition is true and return its value; fail if the process exits before."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (found := condition()):
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < deadline, "".join(self.lines)
            time.sleep(0.01)
        return found

    def end(self) -> int:
        """Wait for the process to exit and return its status."""
        status = self.process.wait(TIMEOUT_SECONDS)
        self.reader.join()
        self.process.stderr.close()
        return status


def survivors(pids: Iterable[int]) -> set[int]:
    """The processes that have not exited after 20 seconds: Ray ends workers a moment after their command."""
    deadline = time.monotonic() + 20
    while (alive := {pid for pid in pids if Path(f"/proc/{pid}").exists()}) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive


def iteration(out: Path) -> int:
    """The iteration of the current item's checkpoint; 0 without one."""
    return max((Checkpoint.read(path).iteration for path in out.glob("items/*/checkpoint")), default=0)
