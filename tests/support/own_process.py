"""Scripts in a process of their own, because Ray connects once a process, and by its environment."""

import os
import subprocess
import sys
from pathlib import Path

PATIENCE_SECONDS = 300  # for a crowded machine; nothing is asserted of it


KEPT = "RAY_worker_niceness"  # tests/conftest.py says why


def without_ray() -> dict[str, str]:
    """This environment less what Ray reads, but for how much its workers stand back."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name == KEPT}


def run(module: str, argument: Path | str, environment: dict[str, str] | None = None) -> None:
    """Let the script do its work, by default without anything that Ray reads; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", module, argument],
        env=environment or without_ray(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
