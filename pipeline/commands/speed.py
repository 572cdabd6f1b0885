"""The command `benchmark speed`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.messages import message
from pipeline.cli.options import AsJson
from pipeline.cli.values import with_options
from pipeline.errors import UserError
from pipeline.plan import recipes, sweep
from pipeline.plan.options import ONE_OBJECTIVE, RunOptions
from pipeline.store.run_folder import Store
from pipeline.weights import models
from pipeline.work import devices

FEWEST_ITERATIONS, MOST_ITERATIONS = 2, 1000
MOST_GAUSSIANS = 10_000_000
PUBLISHED_GAUSSIANS, EMBEDDED_GAUSSIANS = 150_000, 3_000

benchmark = typer.Typer()


@benchmark.command()
@with_options(
    *("recipe", "representation", "objective", "weights", "gaussians", "iterations", "set_", "out", "json"),
    objective={"help": ONE_OBJECTIVE},
)
def speed(
    options: RunOptions,
    gaussians: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of Gaussians.", show_default="150,000; 3,000 with the bundled models"),
    ] = None,
    iterations: Annotated[
        int, typer.Option(metavar="N", help="Number of iterations to time, after 5 warm-up iterations.")
    ] = 20,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write all measurements to a JSON file.")] = None,
    json: AsJson = False,
) -> None:
    """Time a training iteration and its stages.

    Times eager execution and CUDA graphs, and compares both with the roofline lower bound.
    """
    names = recipes.objectives(options.objective)
    if len(names) != 1:
        raise UserError(f"--objective is {options.objective!r}; expected one objective.")
    if not FEWEST_ITERATIONS <= iterations <= MOST_ITERATIONS:
        raise UserError(f"--iterations is {iterations}; expected {FEWEST_ITERATIONS} to {MOST_ITERATIONS}.")
    base = options.base.recipe
    (method,) = sweep.methods(base, names, recipes.settings(options.set_ or []))
    weights = models.resolve(options.weights or models.default_for(options.recipe))
    gaussians = gaussians or (EMBEDDED_GAUSSIANS if weights.name == models.EMBEDDED else PUBLISHED_GAUSSIANS)
    if not 1 <= gaussians <= MOST_GAUSSIANS:
        raise UserError(f"--gaussians is {gaussians}; expected 1 to {MOST_GAUSSIANS:,}.")
    weights.require(models.GENERATION)
    with devices.loading():
        from pipeline.benchmarks.speed import measure, table

    found = measure(method.recipe, weights, gaussians, iterations, message)
    print(found.to_json() if json else table(found), end="\n" * json)
    if out is not None:
        Store(out.parent).write(out, found.to_json().encode())
