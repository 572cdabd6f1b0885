"""Jobs of this program, whose commands are parsed as by `submit`."""

from typing import Any

from typer.main import get_command

from cluster.jobs.description import Command
from pipeline.cli.app import app
from pipeline.launch.program import ProgramJob, parsed


def job(command: tuple[str, ...] = ("bench",), **fields: Any) -> ProgramJob:
    """A job of a command. Raises ManifestError."""
    return ProgramJob(command=command_of(*command), **{"name": "night"} | fields)


def command_of(*words: str) -> Command:
    """Parse a command."""
    return parsed(get_command(app), words) if words else Command()
