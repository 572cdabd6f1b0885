"""The format of help pages: an argument is shown by its metavar, without braces and without a Python type."""

from typing import Any

from typer.core import TyperArgument


class Argument(TyperArgument):
    """An argument in the usual notation: NAME, or [NAME] if it is optional."""

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        name = self.metavar or self.name
        return [name if self.required else f"[{name}]"]

    def get_help_record(self, ctx: Any) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return None if record is None else (self.metavar or self.name, record[1])


def format_arguments(command: Any) -> None:
    """Use this format in a command. (typer has no option for the class of an argument.)"""
    for parameter in command.params:
        if type(parameter) is TyperArgument:
            parameter.__class__ = Argument
