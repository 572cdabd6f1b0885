"""The settings of a run and their checks: prompts, methods, models and protocol. Does not import Ray.

torch is imported only if an initialization is read from a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.digests import digest
from pipeline.errors import UserError, shortened
from pipeline.plan.jobs import Job, Method, plan
from pipeline.plan.metrics import UNNAMED, measured
from pipeline.plan.protocol import PAPER_VIEWS, Protocol
from pipeline.plan.text_limits import token_counter
from pipeline.prompts.prompt import Prompt
from pipeline.weights.models import EVALUATION, GENERATION, Weights
from sctd.recipe.recipe import Recipe

METRIC_VERSION = 1  # increase whenever the same asset would get different scores
MAX_VIEWS = 1000
LONGEST_VIEW_TEXT = ", overhead view"
BYTES_PER_NUMBER, COPIES = 4, 5  # the asset, and two checkpoints with Adam's moments and statistics
IMAGE_BYTES = 6 * 2**20  # turntable, contact sheet, evaluation with features of every network


@dataclass(frozen=True)
class Run:
    """Everything that determines the results of a run."""

    suite: str
    prompts: Sequence[Prompt]
    methods: Sequence[Method]  # one per objective and sweep cell
    seed: int
    weights: Weights
    protocol: Protocol

    @property
    def recipes(self) -> list[Recipe]:
        return [method.recipe for method in self.methods]

    @cached_property
    def jobs(self) -> list[Job]:
        """One per prompt and method."""
        return plan(self.prompts, self.methods, self.seed, self._generation_digest)

    def _generation_digest(self, recipe: Recipe) -> str:
        return self.weights.generation_digest(with_shape=self._with_shape, with_control=_is_controlled(recipe))

    @property
    def _with_shape(self) -> bool:
        return any(recipe.initialization.kind == "point_e" for recipe in self.recipes)

    @cached_property
    def evaluation(self) -> str:
        return evaluation_digest(self.weights, self.protocol, [prompt.text for prompt in self.prompts])

    @property
    def name(self) -> str:
        """The default name of the run folder. It does not depend on which optional distances are measured.

        So a run with a metric network added later still finds its assets.
        """
        texts = [prompt.text for prompt in self.prompts]
        evaluation = evaluation_digest(self.weights, self.protocol, texts, required_only=True)
        objectives = "+".join(dict.fromkeys(recipe.objective.display_name for recipe in self.recipes))
        sweep = "-sweep" if any(method.swept for method in self.methods) else ""
        return f"{self.suite}-{objectives}{sweep}-{digest([[job.id for job in self.jobs], evaluation])[:10]}"

    def check(self, *, scored: bool) -> None:
        """Raise UserError if the run cannot succeed. `scored`: the assets are scored, so the scorers are needed."""
        if not self.prompts:
            raise UserError("There is no prompt to run; pass one with --prompt, or a larger --limit.")
        check_views(self.protocol.num_views)
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}; expected a whole number from 0 to 2^63 - 1.")
        added = {"shape": self._with_shape, "control": any(map(_is_controlled, self.recipes))}
        parts = [part for part, is_needed in added.items() if is_needed]
        self.weights.require([*GENERATION, *parts, *(EVALUATION if scored else [])])
        self._check_tokens()
        self._check_files()
        views = self.protocol.num_views
        if PAPER_VIEWS % views and any(recipe.representation.function for recipe in self.recipes):
            raise UserError(
                f"--views is {views}, but assets of a custom representation have {PAPER_VIEWS} views; pass a number "
                "that divides them."
            )

    def _check_tokens(self) -> None:
        """Raise UserError for prompts longer than the prior's limit, which it would silently truncate."""
        count, most = token_counter(self.weights)
        for recipe in self.recipes:
            ending = "" if recipe.guidance.view_text == "none" else LONGEST_VIEW_TEXT
            for prompt in self.prompts:
                whole = recipe.guidance.prompt_template.replace("{prompt}", prompt.text) + ending
                if (found := count(whole)) > most:
                    raise UserError(
                        f"The prompt {shortened(prompt.text)!r} has {found} tokens with its view-dependent suffix, but "
                        f"the text encoder accepts at most {most}; shorten it."
                    )

    def _check_files(self) -> None:
        """Read initialization files as a worker does. Only this check needs torch."""
        shapes = dict.fromkeys(recipe.initialization for recipe in self.recipes if recipe.initialization.path)
        if not shapes:
            return
        from torch import Generator

        from sctd.train.initialization import InitializationError, initial_gaussians

        for shape in shapes:
            try:
                initial_gaussians(shape, "", Generator())
            except InitializationError as error:
                raise UserError(f"Initialization failed: {str(error).rstrip('.')}.") from error

    def needed_bytes(self, jobs: Sequence[Job], snapshots: int = 0) -> int:
        """An upper estimate of the bytes that these jobs, with so many snapshots each, add to the run folder."""
        return sum(IMAGE_BYTES + (COPIES + snapshots) * _asset_bytes(job.recipe) for job in jobs)


def check_views(num_views: int) -> None:
    """Raise UserError for a number of views out of range."""
    if not 1 <= num_views <= MAX_VIEWS:
        raise UserError(f"--views is {num_views}; expected 1 to {MAX_VIEWS} (the paper uses 120).")


def evaluation_digest(
    scorers: Weights, protocol: Protocol, texts: Sequence[str], *, required_only: bool = False
) -> str:
    """The digest of everything that can change scores: scorers, views, and the prompts that R-precision ranks."""
    scorers_digest = scorers.evaluation_digest(required_only=required_only)
    # Metrics of later releases are named, so that assets are scored again when one is added.
    added = [] if required_only else [metric.id for metric in measured(scorers) if metric.id not in UNNAMED]
    return digest([scorers_digest, protocol.name, METRIC_VERSION, sorted(texts), *added])[:16]


def _is_controlled(recipe: Recipe) -> bool:
    return recipe.guidance.control != "none"


def _asset_bytes(recipe: Recipe) -> int:
    """The most bytes of an asset."""
    if recipe.representation.kind == "nerf":
        field = recipe.nerf
        width = field.levels * field.features
        weights = width * 2**field.log2_entries + width * field.hidden + 4 * field.hidden
        return BYTES_PER_NUMBER * (weights + field.cells**3)
    numbers = 11 + 3 * (recipe.sh_degree + 1) ** 2
    grows = recipe.densify.enabled
    shape = recipe.initialization
    replicas = 1 if shape.kind in ("ball", "sphere", "box") else shape.replicas
    count = recipe.bounds.max_gaussians if grows else shape.count * replicas
    return BYTES_PER_NUMBER * numbers * count
