"""The command `benchmark speed`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.error_handling import OK, handle_errors
from pipeline.cli.options import AsJson, Objective, RecipeName, Settings, WeightsFolder


def speed(
    recipe: RecipeName = "embedded",
    objective: Objective = "sctd",
    weights: WeightsFolder = None,
    gaussians: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of Gaussians.", show_default="150,000; 3,000 with the bundled models"),
    ] = None,
    iterations: Annotated[
        int, typer.Option(metavar="N", help="Number of iterations to time, after 5 warm-up iterations.")
    ] = 20,
    set_: Settings = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all measurements to a JSON file.")] = None,
    json: AsJson = False,
) -> int:
    """Time a training iteration and its stages.

    Times eager execution and CUDA graphs, and compares both with the roofline lower bound.
    """
    from pipeline.commands import speed as commands

    commands.speed(recipe, objective, weights, gaussians, iterations, set_, out, as_json=json)
    return OK


def add_to(app: typer.Typer) -> None:
    """Add the group `benchmark`."""
    group = typer.Typer(help="Measure the iteration time on this machine.", no_args_is_help=True, rich_markup_mode=None)
    group.command()(handle_errors(speed))
    app.add_typer(group, name="benchmark")
