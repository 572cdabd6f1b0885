"""The command `warmup`."""

from json import dumps

from pipeline.cli.messages import message
from pipeline.cli.options import AsJson
from pipeline.cli.values import with_options
from pipeline.errors import UserError
from pipeline.plan import recipes, sweep
from pipeline.plan.options import ONE_OBJECTIVE, RunOptions
from pipeline.weights import models
from pipeline.work import devices


@with_options("recipe", "representation", "objective", "weights", "set_", "json", objective={"help": ONE_OBJECTIVE})
def warmup(options: RunOptions, json: AsJson = False) -> None:
    """Compile the kernels of a recipe ahead of a run.

    On a GPU: the networks and the renderer, for the recipe's batch sizes. On a CPU: the renderer. Runs of this user on
    this machine find them in the cache that is printed.
    """
    names = recipes.objectives(options.objective)
    if len(names) != 1:
        raise UserError(f"--objective is {options.objective!r}; expected one objective.")
    (method,) = sweep.methods(options.base.recipe, names, recipes.settings(options.set_ or []))
    weights = models.resolve(options.weights or models.default_for(options.recipe))
    weights.require(models.GENERATION)
    with devices.loading():
        from pipeline.work.warm_up import ahead
    device = devices.prepare()
    seconds = ahead(method.recipe, weights, device, message)
    if json:
        found = {"device": devices.name(device), "recipe": method.recipe.name, "seconds": seconds}
        print(dumps(found | {"cache": devices.cache(device)}, indent=2))
        return
    for note, taken in seconds.items():
        print(f"{taken:6.1f} s  {note}")
    print(f"{sum(seconds.values()):6.1f} s  in all for {method.recipe.name} on {devices.name(device)}")
    print(f"Cache: {devices.cache(device)}")
