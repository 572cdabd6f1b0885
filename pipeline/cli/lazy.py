"""`LazyCommand`: a command or group of commands whose module is imported when it is called or completed.

So `segmentdreamer --help` and the completion of a command's name import no code of any command.
"""

import importlib
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand
from typer.main import get_command, get_group

from pipeline.cli.error_handling import handle_errors
from pipeline.cli.examples import epilog
from pipeline.cli.help_format import format_arguments


class LazyCommand(TyperCommand):
    """A command of which only the name and the summary are known.

    `target` is "room.module:name" in `pipeline`: a function, or a typer.Typer that is a group. `settings`: hidden and
    context_settings.
    """

    def __init__(self, name: str, target: str, summary: str, **settings: Any):
        super().__init__(name, help=summary, **settings)
        self.target, self.settings = target, settings

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        return self.loaded.make_context(*arguments, **options)

    @cached_property
    def loaded(self) -> Any:
        """The command or group itself."""
        module, _, name = self.target.partition(":")
        found = getattr(importlib.import_module(f"pipeline.{module}"), name)
        if isinstance(found, typer.Typer):
            found.rich_markup_mode = None
            found.info.no_args_is_help = found.registered_callback is None
            if found.registered_callback is None:
                found.info.help = self.help
            command: Any = get_group(found)
            command.name = self.name
        else:
            app = typer.Typer(rich_markup_mode=None, add_completion=False)
            app.command(self.name, **self.settings)(found)
            command = get_command(app)
        return _finished(command, str(self.name))


def _finished(command: Any, words: str) -> Any:
    """The command or group with examples, the format of arguments and the handling of errors."""
    command.epilog = epilog(words)
    format_arguments(command)
    if command.callback is not None:
        command.callback = handle_errors(command.callback)
    for name, sub in getattr(command, "commands", {}).items():
        _finished(sub, f"{words} {name}")
    return command
