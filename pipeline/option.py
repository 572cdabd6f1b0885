"""`option`: a field of a frozen dataclass that the command line offers as an option."""

from dataclasses import MISSING, field
from typing import Any


def option(default: Any = MISSING, *flags: str, help: str, **attributes: Any) -> Any:
    """A dataclass field with the description of its option. Without a default, the option is required.

    `flags`: other names than that of the field. `attributes`: metavar, show_default or hidden, as of typer.Option, and
    `complete`: where to find the possible values, as `pipeline.cli.completion.named` describes.
    """
    return field(default=default, metadata={"flags": flags, "help": help} | attributes)
