"""Virtual environments for the originals, made by uv in a folder, and their scripts run in them.

Three environments hold all originals. Both sides share files only.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.parity.inputs import STAMP

SCRIPTS = Path(__file__).parent / "originals"
FREE = ("setuptools", "segmentdreamer")
"""Installed here, but not held at their versions: no library that computes anything."""


class OriginalFailedError(RuntimeError):
    """An original cannot be installed, imported or run: the last line that it wrote."""


@dataclass(frozen=True)
class Environment:
    """`requirements` as of the day `newest`; without a day, beside this program's own versions, except those `without`.

    `alone`: beside nothing.
    """

    name: str
    requirements: tuple[str, ...]
    newest: str | None = None
    without: tuple[str, ...] = ()
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    alone: bool = False

    def constraints(self) -> list[str]:
        """The versions that are installed here, as far as they are to be kept."""
        if self.newest or self.alone:
            return []
        found = {dist.metadata["Name"]: dist.version for dist in distributions()}
        skipped = {*FREE, *self.without}
        return sorted(f"{name}=={version}" for name, version in found.items() if name.lower() not in skipped)


class Made(NamedTuple):
    """An environment on disk."""

    environment: Environment
    python: Path
    constraints: Path

    def install(self, *requirements: str, dependencies: bool = True) -> None:
        """Raise OriginalFailedError with the first reason if the requirements conflict."""
        options = ["--constraint", self.constraints] if dependencies else ["--no-deps"]
        if newest := self.environment.newest:
            # A cache of its own: the packages of another day are of no use to anything else on this machine.
            options += ["--exclude-newer", newest, "--cache-dir", self.constraints.parent / "cache"]
        _uv("pip", "install", "--quiet", "--python", self.python, *options, *requirements)

    def made_of(self, script: str, inputs: Path) -> str:
        """A digest of all that determines what a script gives."""
        versions = json.dumps(self.versions(), sort_keys=True)
        parts = (SCRIPTS / f"{script}.py").read_bytes(), (inputs / STAMP).read_bytes(), versions.encode()
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def versions(self) -> dict[str, str]:
        listed = _uv("pip", "list", "--python", self.python, "--format", "json")
        return {each["name"].lower().replace("_", "-"): each["version"] for each in json.loads(listed)}

    def run(self, script: str, *arguments: Path) -> None:
        """Run `originals/<script>.py`, offline. Raises OriginalFailedError."""
        offline = {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": ""}
        command = [self.python, SCRIPTS / f"{script}.py", *(argument.resolve() for argument in arguments)]
        done = subprocess.run(command, env=os.environ | offline, capture_output=True, text=True)
        if done.returncode:
            raise OriginalFailedError(reason(done.stderr))

    def scores(self, script: str, inputs: Path, out: Path) -> dict[str, np.ndarray]:
        """What `originals/<script>.py` makes of the inputs; read from `out` if the same script has made it of them."""
        stamp, made_of = out.with_suffix(".made_of"), self.made_of(script, inputs)
        if not (stamp.is_file() and stamp.read_text() == made_of):
            out.parent.mkdir(parents=True, exist_ok=True)
            self.run(script, inputs, out)
            stamp.write_text(made_of)
        with np.load(out) as arrays:
            return dict(arrays)


def make(environment: Environment, folder: Path) -> Made:
    """Make the environment in `folder`, or find it there if its requirements have not changed."""
    place, python = folder / environment.name, folder / environment.name / "bin" / "python"
    made = Made(environment, python, folder / f"{environment.name}.txt")
    wanted = "\n".join([*environment.requirements, "", *environment.constraints()])
    stamp = place / "requirements.txt"
    if not stamp.is_file() or stamp.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        _uv("venv", "--quiet", "--clear", "--python", environment.python, place)
        made.constraints.write_text("\n".join(environment.constraints()))
        made.install(*environment.requirements)
        stamp.write_text(wanted)
    return made


def reason(stderr: str) -> str:
    """The last line of a traceback, or the requirement in conflict, without paths of this machine."""
    if pinned := re.search(r"Because (\S+?)[<>=]\S+ depends on (\S+) and", " ".join(stderr.split())):
        return f"pins `{pinned[2]}`"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = re.sub(r"\s*\(/[^)]*\)", "", lines[-1] if lines else "no output")
    return f"`{last[:120]}`".replace("|", "/")


def _uv(*arguments: str | Path) -> str:
    done = subprocess.run(["uv", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OriginalFailedError(reason(done.stderr))
    return done.stdout
