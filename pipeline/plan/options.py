"""`RunOptions`: what a user chooses that determines the results of a run."""

from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.option import option
from pipeline.plan import recipes, sweep
from pipeline.plan.protocol import PAPER_VIEWS, Protocol
from pipeline.plan.run import Run
from pipeline.prompts import prompts as prompts_of
from pipeline.prompts import suite as read_suite
from pipeline.prompts import suite_name
from pipeline.prompts.prompt import Prompt
from pipeline.weights import models
from sctd.recipe import names

DEFAULT_SUITE, DEFAULT_LIMIT = "embedded40", 4
ONE_OBJECTIVE = "Distillation objective, or FILE.py:FUNCTION."


@dataclass(frozen=True)
class RunOptions:
    """The options of `Run`."""

    suite: str | None = option(
        None,
        metavar="NAME|FILE",
        complete="pipeline.prompts:bundled",
        help="Prompt suite: embedded40, dreamfusion40, dreamfusion415, or a text file with one prompt per line. "
        "dreamfusion40 is reconstructed: the authors' list is not public.",
        show_default=DEFAULT_SUITE,
    )
    prompt: list[str] | None = option(None, metavar="TEXT", help="Prompt, instead of a suite. Repeatable.")
    limit: int | None = option(
        None,
        metavar="N",
        help="Maximum number of prompts.",
        show_default=f"all; without --suite and --prompt, {DEFAULT_LIMIT} of {DEFAULT_SUITE}",
    )
    objective: str = option(
        "sctd",
        metavar="NAME",
        complete="objectives",
        help=f"{ONE_OBJECTIVE} Separate several with commas: sctd,sds.",
    )
    recipe: str = option(
        "embedded",
        metavar="NAME|FILE",
        complete="sctd.recipe.presets:RECIPES",
        help="Recipe: a preset (embedded, paper, embedded-avatar, …), or a YAML or JSON file.",
    )
    representation: str | None = option(
        None,
        metavar="NAME",
        complete="pipeline.plan.recipes:REPRESENTATIONS",
        help="3D representation: gaussians, nerf, or FILE.py:CLASS.",
        show_default="that of the recipe",
    )
    weights: str | None = option(
        None,
        metavar="NAME|DIR",
        help="Model weights: embedded (bundled models), published (see `weights fetch`), or a folder with prior/, "
        "scorer/, reward/ and reference.npz.",
        show_default="embedded; published for the paper's recipes",
    )
    seed: int = option(0, metavar="N", help="Random seed.")
    views: int = option(PAPER_VIEWS, metavar="N", help="Number of views to score per asset; the paper uses 120.")
    set_: list[str] | None = option(
        None,
        "--set",
        metavar="KEY=VALUE",
        complete="settings",
        help="Override a recipe key: guidance.scale=10. Repeatable.",
    )
    sweep: list[str] | None = option(
        None,
        metavar="KEY=VALUES",
        complete="settings",
        help="Sweep a recipe key, with a leaderboard row per value: times.num_segments=1,3,5. Several sweeps form "
        "a Cartesian product. Separate values that contain commas with semicolons: "
        "'cameras.radius=2.8,3.5;2.6,3.2'.",
    )
    out: str | None = option(
        None,
        metavar="DIR|URL",
        help="Run folder: runs/a or s3://bucket/a.",
        show_default="runs/SUITE-OBJECTIVES-DIGEST",
    )

    def run(self, default_limit: int = DEFAULT_LIMIT, *, is_scored: bool = True) -> Run:
        """The run of these options. Raises UserError for options with which it could not run.

        `default_limit`: the number of prompts of the default suite, if the options name neither suite nor prompts.
        """
        name, prompts = self._prompts(default_limit)
        objectives = recipes.objectives(self.objective)
        base, saved = self.base
        if saved and not is_scored:
            raise UserError(f"{self.recipe} contains a sweep; run it with bench.")
        sweeps = sweep.combined(saved, sweep.from_options(self.sweep or [], base))
        methods = sweep.methods(base, objectives, recipes.settings(self.set_ or []), sweeps)
        weights = models.resolve(self.weights or models.default_for(self.recipe))
        run = Run(name, prompts, methods, self.seed, weights, Protocol(self.views))
        run.check(scored=is_scored)
        return run

    @property
    def base(self) -> recipes.Base:
        """The recipe that all methods derive from, and the sweeps in its file. Raises UserError."""
        base, saved = recipes.named(self.recipe)
        if self.representation is not None:
            base = recipes.on_representation(base, self.representation)
        return recipes.Base(base, saved)

    def sets(self, key: str) -> bool:
        """Whether --set, --sweep or the recipe file sets this recipe key. Raises UserError."""
        base, saved = self.base
        swept = [*saved, sweep.from_options(self.sweep or [], base)]
        found = recipes.keys_of_file(self.recipe) | recipes.settings(self.set_ or []).keys()
        return key in map(names.current, found.union(*swept))

    def _prompts(self, default_limit: int) -> tuple[str, list[Prompt]]:
        """The run's default name and its prompts."""
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit is {self.limit}; expected at least 1, or omit it to run all prompts.")
        if self.suite is not None and self.prompt:
            raise UserError("--suite and --prompt were both passed; pass one of them.")
        if self.prompt:
            found = prompts_of(self.prompt)
            return found[0].id if len(found) == 1 else "prompts", found[: self.limit]
        if self.suite is None:
            return DEFAULT_SUITE, read_suite(DEFAULT_SUITE)[: self.limit or default_limit]
        return suite_name(self.suite), read_suite(self.suite)[: self.limit]
