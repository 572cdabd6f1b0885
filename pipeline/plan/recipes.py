"""Recipes from the command line: a name or a file, names of objectives, and single keys set by `--set`.

A recipe file is YAML or JSON with the nested keys of a recipe. Missing keys are those of `base` (default: embedded).
`sweep` may hold a mapping from keys to lists of values, or a list of such mappings (`pipeline.plan.sweep`).
"""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pipeline.errors import UserError, nearest, shortened
from pipeline.plan.sweep import Sweep, from_file
from sctd.recipe import methods
from sctd.recipe.custom_file import CustomFileError, is_custom
from sctd.recipe.methods import METHODS
from sctd.recipe.names import current, leaves
from sctd.recipe.presets import RECIPES
from sctd.recipe.recipe import Recipe, RecipeError, from_json

REPRESENTATIONS = "gaussians", "nerf"
MOST_PARTS = 20_000  # keys, values and marks between them


class Base(NamedTuple):
    """The recipe that all methods of a run derive from, and the sweeps in its file."""

    recipe: Recipe
    sweeps: list[Sweep]


def named(name_or_path: str) -> Base:
    """A recipe by its name or from a file. Raises UserError."""
    if name_or_path in RECIPES:
        return Base(RECIPES[name_or_path](), [])
    path = Path(name_or_path)
    if not path.is_file():
        raise UserError(
            f"Unknown recipe or file {name_or_path!r}; pass a YAML or JSON file, or one of "
            f"{', '.join(RECIPES)}{nearest(name_or_path, RECIPES)}."
        )
    return _from_file(path)


def keys_of_file(name_or_path: str) -> set[str]:
    """The dotted keys that a recipe file sets in place of its base; none of a preset. Raises UserError."""
    if name_or_path in RECIPES:
        return set()
    tree = _tree(Path(name_or_path))
    return {current(key) for key, _ in leaves(tree) if key.partition(".")[0] not in ("base", "sweep")}


def objectives(text: str) -> list[str]:
    """The names in `sctd,my.py:mine`, without duplicates. Raises UserError for an unknown name. Files are not read."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name.endswith(".py"):
            raise UserError(f"--objective {name} names a file without a function; write {name}:FUNCTION.")
        if name not in METHODS and not is_custom(name):
            hint = nearest(name, METHODS)
            raise UserError(f"Unknown objective {shortened(name)!r}; choose from {', '.join(METHODS)}{hint}.")
    return names


def on_representation(base: Recipe, name: str) -> Recipe:
    """The recipe with another 3D representation, by its name or as FILE.py:CLASS. Raises UserError."""
    if name.endswith(".py"):
        raise UserError(f"--representation {name} names a file without a class; write {name}:CLASS.")
    if name not in REPRESENTATIONS and not is_custom(name):
        known = ", ".join(REPRESENTATIONS)
        hint = nearest(name, REPRESENTATIONS)
        raise UserError(
            f"Unknown representation {shortened(name)!r}; choose from {known}, or pass FILE.py:CLASS{hint}."
        )
    try:
        return methods.on_representation(base, name)
    except RecipeError as error:
        raise UserError(f"--representation {name} is incompatible with the recipe: {error}.") from error
    except CustomFileError as error:
        raise UserError(f"--representation: {error}.") from error


def settings(options: Iterable[str]) -> dict[str, Any]:
    """The keys and values of `--set key=value` options; the last value of a key wins. Raises UserError."""
    found = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(
                f"--set {shortened(option, 200)!r} has no value; write --set key=value, as in --set guidance.scale=10."
            )
        found[key.strip()] = value.strip()
    return found


def _plain(tree: Any) -> Any:
    """The tree as JSON stores it. Raises ValueError or TypeError if it cannot, or if aliases make it very large."""
    parts = list(islice(json.JSONEncoder().iterencode(tree), MOST_PARTS + 1))
    if len(parts) > MOST_PARTS:
        raise ValueError(f"it has more than {MOST_PARTS:,} keys and values")
    return json.loads("".join(parts))


def _tree(path: Path) -> dict[str, Any]:
    try:
        tree = _plain(yaml.safe_load(path.read_text(encoding="utf-8")))  # JSON is a subset of YAML
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(
            f"{path} cannot be read as a recipe ({shortened(reason, 200)}); write keys and values in YAML."
        ) from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} contains no keys; write a recipe's keys and values in YAML, as in 'iterations: 300'.")
    return tree


def _from_file(path: Path) -> Base:
    tree = _tree(path)
    base = tree.pop("base", "embedded")
    if not isinstance(base, str) or base not in RECIPES:
        raise UserError(f"{path}: unknown base {shortened(repr(base))}; choose from {', '.join(RECIPES)}.")
    sweep = tree.pop("sweep", None)
    try:
        recipe = from_json(json.dumps({"name": path.stem, **tree}), RECIPES[base]())
    except RecipeError as error:
        raise UserError(f"{path}: {error}.") from error
    return Base(recipe, [] if sweep is None else from_file(path, sweep, recipe))
