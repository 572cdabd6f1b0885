"""Jobs: one per prompt and method, identified by the digest of everything that can change its asset."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.digests import digest
from pipeline.prompts.prompt import Prompt
from sctd.recipe import custom_file
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
        guidance = self.recipe.guidance
        if "!" in self.prompt.text + guidance.prompt_template + guidance.negative_prompt:
            content["tokenizer_version"] = 2  # version 1 lost this character, the padding token of Stable Diffusion 2
        return digest(content)[:16]


def plan(
    prompts: Sequence[Prompt], methods: Sequence[Method], seed: int, weights: Callable[[Recipe], str]
) -> list[Job]:
    """Every prompt with every method, ordered by prompt, so that an unfinished run still compares the same prompts.

    `weights` is the digest of the models that generate a recipe's assets.
    """
    found = [(method, weights(method.recipe)) for method in methods]
    return [Job(prompt, method.recipe, seed, sha, method.label) for prompt in prompts for method, sha in found]


def without_machine(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON values, without its name and the keys that only choose a machine; files by their digests."""
    left_out = recipe.unstored | {"name": True, "compute": {"min_gpu_gib"} | recipe.compute.unstored}
    tree = recipe.model_dump(mode="json", exclude=left_out)
    path = tree["initialization"]["path"]
    if path and Path(path).is_file():
        tree["initialization"]["path"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if own := tree["objective"].pop("function"):
        tree["objective"]["function"] = custom_file.reference(own).identity
    if own := tree.get("representation", {}).pop("function", ""):
        tree["representation"]["function"] = custom_file.reference(own).identity
    return stored_tree(tree)
