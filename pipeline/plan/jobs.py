"""What there is to do: one job per prompt and method, known by the digest of all that can change its asset."""

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

METHOD_VERSION = 2  # one more whenever the same job would make another asset than before


@dataclass(frozen=True)
class Method:
    """A row of the leaderboard: a recipe, what tables call it, and the keys that a sweep has set in it."""

    label: str
    recipe: Recipe
    swept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One asset to make. `weights` is the digest of the models that make it (not of those that judge it)."""

    prompt: Prompt
    recipe: Recipe
    seed: int
    weights: str
    label: str = ""

    @property
    def method(self) -> str:
        """The row it counts in: its label or, without one, its objective."""
        return self.label or self.objective

    @property
    def objective(self) -> str:
        return self.recipe.objective.display_name

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits; the prompt's id, the recipe's name and the label, which change no asset, stay out."""
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
class Asset:
    """A made asset in its item's folder: what the evaluator needs to find and to judge it, and facts of its making."""

    job_id: str
    prompt: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class ScoredAsset:
    """An asset and its scores: per metric the mean, standard deviation and lowest tenth over its views.

    Here, not with the evaluator, so that the driver, which is told of it, loads no models' libraries.
    """

    asset: Asset
    scores: dict[str, dict[str, float]]
    seconds: float


def plan(prompts: Sequence[Prompt], methods: Iterable[Method], seed: int, weights: str) -> list[Job]:
    """Every prompt by every method, prompt by prompt, so that an unfinished run compares like with like."""
    methods = list(methods)
    return [Job(prompt, method.recipe, seed, weights, method.label) for prompt in prompts for method in methods]


def without_machine(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, its name and what only chooses a machine left out, files by their digests."""
    tree = recipe.model_dump(mode="json", exclude={"name": True, "compute": {"min_gpu_gib"}})
    path = tree["initialization"]["path"]
    if path and Path(path).is_file():
        tree["initialization"]["path"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if own := tree["objective"].pop("function"):
        tree["objective"]["function"] = custom_objective.reference(own).identity
    return stored_tree(tree)
