"""Methods: an objective with the settings that define it, or with those of its authors, on top of a base recipe.

Both keep trainer, cameras, initialization and prior of the base. A custom objective yields an entry like those of
`sctd.recipe.objective.ENTRIES`.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sctd.recipe import custom_file, custom_objective, custom_representation
from sctd.recipe.custom_file import CustomFileError
from sctd.recipe.objective import ENTRIES, Entry, ObjectiveConfig
from sctd.recipe.recipe import Recipe, with_overrides

BASE = "sctd"
"""The method of every preset: it changes nothing."""

METHODS: dict[str, Mapping[str, Any]] = {
    **{name: {} if name == BASE else {"objective.name": name, **entry.settings} for name, entry in ENTRIES.items()},
    **{
        f"{name}-authors": {"objective.name": name, **entry.settings, **entry.authors}
        for name, entry in ENTRIES.items()
        if entry.authors
    },
}
"""The recipe keys that each method changes, by its name on the command line."""

ON_NERF = {"dreamfusion": "sds-authors", "consistent3d": "cds-authors"}
"""Methods as published: the authors' settings of an objective, on a NeRF in place of Gaussians."""
METHODS |= {
    name: {**METHODS[authors], "representation.kind": "nerf", "initialization.kind": "ball"}
    for name, authors in ON_NERF.items()
}
WITH_GAUSSIANS = [name for name in METHODS if name not in ON_NERF]
FEW_ITERATIONS = 2000
SMALL_NERF = {
    "nerf.levels": 8, "nerf.finest": 128, "nerf.log2_entries": 14, "nerf.hidden": 32, "nerf.steps": 96,
    "nerf.sky_hidden": 0, "nerf.cells": 32, "nerf.table.start": 0.03, "nerf.table.end": 0.006,
    "nerf.network.start": 0.01, "nerf.network.end": 0.002,
}  # fmt: skip
"""A NeRF for the bundled prior: five minutes per asset on one CPU thread. Its rates are above the usual ones."""


def on_representation(base: Recipe, name: str) -> Recipe:
    """The base with another 3D representation: gaussians, nerf, or FILE.py:CLASS, which runs the file.

    Raises RecipeError, or CustomFileError for a file without a valid representation.
    """
    changes: dict[str, Any] = {"representation.kind": name, "representation.function": ""}
    if custom_file.is_custom(name):
        named = custom_file.reference(name)
        settings = custom_representation.load(named).settings
        changes = {**settings, "representation.kind": "custom", "representation.function": str(named)}
    elif name == "nerf" and base.representation.kind != name:
        small = SMALL_NERF if base.iterations < FEW_ITERATIONS else {}
        changes = {**small, **changes, "initialization.kind": "ball"}
    return with_overrides(base, changes)


def for_objective(base: Recipe, objective: str) -> Recipe:
    """The base adapted to an objective: a name in METHODS, or FILE.py:FUNCTION, which runs the file.

    A method on a NeRF makes it small if the base has fewer than `FEW_ITERATIONS` and Gaussians. Raises RecipeError for
    incompatible settings, CustomFileError for a file without a valid objective.
    """
    changes = custom(objective).settings if custom_file.is_custom(objective) else METHODS[objective]
    is_small = base.iterations < FEW_ITERATIONS and base.representation.kind == "gaussians"
    if objective in ON_NERF and is_small:
        changes = {**SMALL_NERF, **changes}
    return with_overrides(base, changes) if changes else base


def entry_of(config: ObjectiveConfig) -> Entry:
    """The entry of a recipe's objective; runs the file of a custom one. Raises CustomFileError."""
    return custom(config.function) if config.function else ENTRIES[config.name]


def custom(name: str) -> Entry:
    """The entry of FILE.py:FUNCTION; runs the file. Raises CustomFileError.

    Its settings are those of LIKE, then SETTINGS. Its options are the parameters of the function that have the name of
    a key of `objective`, and `threshold`.
    """
    named = custom_file.reference(name)
    if named.name in METHODS:
        raise CustomFileError(f"{name} has the name of a built-in objective; rename the function")
    found = custom_objective.load(named)
    if found.like not in METHODS:
        known = ", ".join(METHODS)
        raise CustomFileError(f"{named.path}: LIKE is {found.like!r}; expected one of {known}")
    changes = {**METHODS[found.like], **found.settings, "objective.function": str(named)}
    keys = {name: f"objective.{name}" for name in ObjectiveConfig.model_fields} | {"threshold": "times.threshold"}
    keys |= custom_objective.OPTIONS_OF
    parameters = [
        *_parameters(found.function, f"{named.name} of {named.path}", custom_objective.OF_RESIDUAL, keys),
        *_parameters(found.init, f"init of {named.path}", custom_objective.OF_INIT, keys),
        *_parameters(found.update, f"update of {named.path}", custom_objective.OF_UPDATE, keys),
    ]
    return Entry(
        named.name,
        str(named),
        rules=ENTRIES[METHODS[found.like].get("objective.name", BASE)].rules,
        settings=changes,
        options=tuple(dict.fromkeys(keys[parameter] for parameter in parameters if parameter in keys)),
    )


def _parameters(
    function: Callable[..., Any] | None, what: str, given: Collection[str], options: Collection[str]
) -> list[str]:
    """The names of a function's parameters. Raises CustomFileError for one that it would not get."""
    parameters = inspect.signature(function).parameters if function else {}
    for each in parameters.values():
        if each.default is each.empty and each.kind is not each.VAR_KEYWORD and each.name not in {*given, *options}:
            raise CustomFileError(
                f"{what} needs {each.name!r}, which it does not get; expected a recipe key, a default value, or "
                f"one of {', '.join(sorted(given))}"
            )
    return list(parameters)
