"""Shell completion: `segmentdreamer completion bash` prints the script, and functions here complete option values.

A completion function takes the incomplete value and returns all possible values. None of them imports torch.
"""

import importlib
import os
from collections.abc import Callable
from typing import Annotated

import typer

from pipeline.errors import UserError, nearest

PROGRAM, VARIABLE = "segmentdreamer", "_SEGMENTDREAMER_COMPLETE"
SHELLS = "bash", "zsh", "fish"

Shell = Annotated[
    str,
    typer.Argument(
        metavar="|".join(SHELLS), help="Shell to generate the script for.", autocompletion=lambda: list(SHELLS)
    ),
]


def script(shell: Shell) -> None:
    """Print the shell completion script.

    It completes commands, options, suites, objectives and recipes.
    """
    from typer.completion import get_completion_script

    if shell not in SHELLS:
        raise UserError(f"Unknown shell {shell!r}; choose from {', '.join(SHELLS)}{nearest(shell, SHELLS)}.")
    print(get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell))


def prepare() -> None:
    """Register typer's completion formats if a shell requests completions."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init

        completion_init()


def named(name: str) -> Callable[[str], list[str]]:
    """Complete from "module:NAME", names or a function that returns them. The module is imported on demand.

    Without a module, it is the completion function of this name in this file.
    """
    module, colon, attribute = name.partition(":")

    def complete(incomplete: str) -> list[str]:
        known = getattr(importlib.import_module(module), attribute)
        return [each for each in (known() if callable(known) else known) if each.startswith(incomplete)]

    return complete if colon else globals()[name]


def objectives(incomplete: str) -> list[str]:
    """Complete the last objective of a list such as sctd,sd."""
    from sctd.recipe.methods import METHODS

    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [f"{before}{comma}{name}" for name in METHODS if name.startswith(last) and name not in taken]


def settings(incomplete: str) -> list[str]:
    """Complete the key of `--set` and `--sweep`, with its =."""
    from sctd.recipe.recipe import Recipe, keys

    return [f"{key}=" for key in keys(Recipe()) if key.startswith(incomplete)]
