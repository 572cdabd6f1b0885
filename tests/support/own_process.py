"""Run scripts in a separate process, because Ray connects once per process and reads its environment then."""

import os
import subprocess
import sys
from pathlib import Path

TIMEOUT_SECONDS = 300  # generous, for a busy machine; no test depends on it
KEPT = "RAY_worker_niceness"  # see tests/conftest.py


def without_ray() -> dict[str, str]:
    """This environment without the variables that Ray reads, except the niceness of its workers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name == KEPT}


def run(module: str, argument: Path | str, environment: dict[str, str] | None = None) -> None:
    """Run a module with an argument, by default in `without_ray()`. It must exit with status 0."""
    done = subprocess.run(
        [sys.executable, "-m", module, argument],
        env=environment or without_ray(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
