"""The format of help pages: an argument is shown by its metavar, without braces and without a Python type."""

from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand


class Argument(TyperArgument):
    """An argument in the usual notation: NAME, or [NAME] if it is optional."""

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        name = self.metavar or self.name
        return [name if self.required else f"[{name}]"]

    def get_help_record(self, ctx: Any) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return None if record is None else (self.metavar or self.name, record[1])


class Command(TyperCommand):
    """A command whose arguments are `Argument`s."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        for parameter in self.params:
            if type(parameter) is TyperArgument:  # typer has no option for the class of an argument
                parameter.__class__ = Argument


def add_to(app: typer.Typer) -> None:
    """Use this format in all commands of the app."""
    for command in app.registered_commands:
        command.cls = Command
    for group in app.registered_groups:
        assert group.typer_instance is not None
        add_to(group.typer_instance)
