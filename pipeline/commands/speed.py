"""The command `benchmark speed`."""

import sys
from pathlib import Path

from pipeline.errors import UserError
from pipeline.plan import recipes
from pipeline.store.run_folder import Store
from pipeline.weights import models
from sctd.recipe.methods import for_objective
from sctd.recipe.recipe import with_overrides

FEWEST_ITERATIONS, MOST_ITERATIONS = 2, 1000
MOST_GAUSSIANS = 10_000_000
PUBLISHED_GAUSSIANS, EMBEDDED_GAUSSIANS = 150_000, 3_000


def speed(
    recipe_name: str,
    objective: str,
    where: str | None,
    gaussians: int | None,
    iterations: int,
    settings: list[str] | None,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print the measurements of `pipeline.benchmarks.speed`, and write them to `out`."""
    (name,) = names if len(names := recipes.objectives(objective)) == 1 else _one(objective)
    if not FEWEST_ITERATIONS <= iterations <= MOST_ITERATIONS:
        raise UserError(f"--iterations is {iterations}; expected {FEWEST_ITERATIONS} to {MOST_ITERATIONS}.")
    base = recipes.named(recipe_name).recipe
    recipe = with_overrides(for_objective(base, name), recipes.settings(settings or []))
    weights = models.resolve(where or models.default_for(recipe_name))
    gaussians = gaussians or (EMBEDDED_GAUSSIANS if weights.name == models.EMBEDDED else PUBLISHED_GAUSSIANS)
    if not 1 <= gaussians <= MOST_GAUSSIANS:
        raise UserError(f"--gaussians is {gaussians}; expected 1 to {MOST_GAUSSIANS:,}.")
    weights.require(models.GENERATION)
    from pipeline.benchmarks.speed import measure, table

    found = measure(recipe, weights, gaussians, iterations, lambda line: print(line, file=sys.stderr, flush=True))
    print(found.to_json() if as_json else table(found), end="" if not as_json else "\n")
    if out is not None:
        Store(out.parent).write(out, found.to_json().encode())


def _one(objective: str) -> list[str]:
    raise UserError(f"--objective is {objective!r}; expected one objective.")
