"""Jobs: one per prompt and method, identified by the digest of everything that can change its asset."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.digests import digest
from pipeline.prompts.prompt import Prompt
from sctd.recipe import custom_objective
from sctd.recipe.names import stored_tree
from sctd.recipe.recipe import Recipe

METHOD_VERSION = 2  # increase whenever the same job would generate a different asset


@dataclass(frozen=True)
class Method:
    """A row of the leaderboard: its label in tables, its recipe, and the keys that a sweep has set in the recipe."""

    label: str
    recipe: Recipe
    swept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One asset to generate. `weights` is the digest of the models that generate it, without those that score it."""

    prompt: Prompt
    recipe: Recipe
    seed: int
    weights: str
    label: str = ""

    @property
    def method(self) -> str:
        """The leaderboard row of the job: its label or, without one, its objective."""
        return self.label or self.objective

    @property
    def objective(self) -> str:
        return self.recipe.objective.display_name

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits. The prompt's id, the recipe's name and the label change no asset and do not count."""
        content = {
            "text": self.prompt.text,
            "shape_text": self.prompt.shape_text if self.recipe.initialization.kind == "point_e" else None,
            "recipe": without_machine(self.recipe),
            "seed": self.seed,
            "weights": self.weights,
            "method_version": METHOD_VERSION,
        }
        return digest(content)[:16]


@dataclass(frozen=True)
class GeneratedAsset:
    """A generated asset in its item's folder: its job and prompt, for the evaluator, and facts about its generation."""

    job_id: str
    prompt: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class ScoredAsset:
    """An asset and its scores: per metric the mean, standard deviation and lowest tenth over its views.

    Defined here and not beside the evaluator, so that the driver can receive it without loading model libraries.
    """

    asset: GeneratedAsset
    scores: dict[str, dict[str, float]]
    seconds: float


def plan(prompts: Sequence[Prompt], methods: Iterable[Method], seed: int, weights: str) -> list[Job]:
    """Every prompt with every method, ordered by prompt, so that an unfinished run still compares the same prompts."""
    methods = list(methods)
    return [Job(prompt, method.recipe, seed, weights, method.label) for prompt in prompts for method in methods]


def without_machine(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values, without its name and the keys that only choose a machine; files by their digests."""
    tree = recipe.model_dump(mode="json", exclude={"name": True, "compute": {"min_gpu_gib"}})
    path = tree["initialization"]["path"]
    if path and Path(path).is_file():
        tree["initialization"]["path"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if own := tree["objective"].pop("function"):
        tree["objective"]["function"] = custom_objective.reference(own).identity
    return stored_tree(tree)
