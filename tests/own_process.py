"""Scripts in a process of their own, because Ray connects once a process, and by its environment."""

import os
import subprocess
import sys
from pathlib import Path

PATIENCE_SECONDS = 300  # for a crowded machine; nothing is asserted of it


def without_ray() -> dict[str, str]:
    """This environment less what Ray reads."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def run(script: Path, folder: Path) -> None:
    """Let the script work in a folder; it must end well."""
    done = subprocess.run(
        [sys.executable, script, folder], env=without_ray(), capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
