"""Whole commands in processes of their own, to be killed."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.work.generate import Checkpoint

PROMPTS = ["--prompt", "a red cube", "--prompt", "a blue ball"]
BALL = ["--set", "initialization.kind=ball", "--set", "initialization.count=150"]
ITERATIONS = 40  # of which two kills interrupt the first job
SMALL = ["--set", f"iterations={ITERATIONS}", *BALL, "--views", "4", "--checkpoint-seconds", "0", "--no-report"]
PATIENCE_SECONDS = 900  # for a crowded machine; nothing is asserted of it


class Command:
    """A `segmentdreamer` process, and the lines it has printed on standard error so far."""

    def __init__(self, *arguments: str):
        code = "from pipeline.cli.app import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(iter(self.process.stderr.readline, "")))
        self.reader.start()

    def pids(self) -> list[int]:
        """The processes of the generation workers, in the order of their births."""
        found = (re.search(r"generate \d+: ready \(process (\d+)\)", line) for line in list(self.lines))
        return [int(match[1]) for match in found if match]

    def until(self, condition: Callable[[], Any]) -> Any:
        """What the condition says once that is true, while the process lives."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := condition()):
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < deadline, "".join(self.lines)
            time.sleep(0.01)
        return found

    def end(self) -> int:
        status = self.process.wait(PATIENCE_SECONDS)
        self.reader.join()
        self.process.stderr.close()
        return status


def iteration(out: Path) -> int:
    """How far the item in work is, by its checkpoint."""
    return max((Checkpoint.read(path).iteration for path in out.glob("items/*/checkpoint")), default=0)
