"""Completion in a shell: `segmentdreamer completion bash` prints the script, functions here the values of options.

A function gets what has been typed of a value, and returns all that it could become. Nothing here loads torch.
"""

import importlib
import os
from collections.abc import Callable
from typing import Annotated

import typer

from pipeline.errors import UserError, nearest

PROGRAM, VARIABLE = "segmentdreamer", "_SEGMENTDREAMER_COMPLETE"
SHELLS = "bash", "zsh", "fish"

Shell = Annotated[str, typer.Argument(metavar="|".join(SHELLS), help="Which.", autocompletion=lambda: list(SHELLS))]


def script(shell: Shell) -> None:
    """Print what makes the shell complete verbs, options, suites, objectives and recipes."""
    from typer.completion import get_completion_script

    if shell not in SHELLS:
        raise UserError(
            f"There is no completion for {shell!r}; choose from {', '.join(SHELLS)}{nearest(shell, SHELLS)}."
        )
    print(get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell))


def prepare() -> None:
    """Where a shell asks for completions: teach typer to answer as its scripts ask."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init

        completion_init()


def words_of(module: str, name: str) -> Callable[[str], list[str]]:
    """Completes one of the words that a module lists under this name."""

    def complete(incomplete: str) -> list[str]:
        words = getattr(importlib.import_module(module), name)
        return [word for word in words if word.startswith(incomplete)]

    return complete


def suites(incomplete: str) -> list[str]:
    """Of `--suite`."""
    from pipeline.prompts import packaged

    return [name for name in packaged() if name.startswith(incomplete)]


def objectives(incomplete: str) -> list[str]:
    """Of `--objective`: the last of several, as in sctd,sd."""
    from sctd.recipe.methods import FOR_OBJECTIVE

    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return [f"{before}{comma}{name}" for name in FOR_OBJECTIVE if name.startswith(last) and name not in taken]


def settings(incomplete: str) -> list[str]:
    """Of `--set` and `--sweep`: a key and its =."""
    from sctd.recipe.recipe import Recipe, keys

    return [f"{key}=" for key in keys(Recipe()) if key.startswith(incomplete)]
