"""What there is to do: one job per prompt and recipe, known by the digest of all that can change its asset."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sctd.recipe import Recipe

METHOD_VERSION = 1  # one more whenever the same job would make another asset than before


@dataclass(frozen=True)
class Prompt:
    """What to make. `shape_text` is the short text that the seed shape is made from."""

    id: str
    text: str
    shape_text: str


@dataclass(frozen=True)
class Job:
    """One asset to make. `weights` is the digest of the models that make it (not of those that judge it)."""

    prompt: Prompt
    recipe: Recipe
    seed: int
    weights: str

    @property
    def objective(self) -> str:
        return self.recipe.objective.name

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits; the prompt's id and the recipe's name, which change no asset, do not enter."""
        content = {
            "text": self.prompt.text,
            "shape_text": self.prompt.shape_text if self.recipe.seed_shape.kind == "point_e" else None,
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


def plan(prompts: Sequence[Prompt], recipes: Iterable[Recipe], seed: int, weights: str) -> list[Job]:
    """Every prompt by every recipe, prompt by prompt, so that an unfinished run compares like with like."""
    recipes = list(recipes)
    return [Job(prompt, recipe, seed, weights) for prompt in prompts for recipe in recipes]


def without_machine(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, its name left out and a file it starts from replaced by the file's digest."""
    tree = recipe.model_dump(mode="json", exclude={"name"})
    path = tree["seed_shape"]["path"]
    if path and Path(path).is_file():
        tree["seed_shape"]["path"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return tree


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON of plain values."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
