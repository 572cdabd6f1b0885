"""Sweeps: lists of values for recipe keys, their product, and a method for every cell of the product.

The `--sweep KEY=VALUE,VALUE` options form one product. A recipe file may hold several products, whose cells are listed
one after another. The product of the command line multiplies each of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.digests import digest
from pipeline.errors import UserError, shortened
from pipeline.plan.jobs import Method, without_machine
from sctd.recipe import names
from sctd.recipe.custom_file import CustomFileError
from sctd.recipe.effects import with_settings
from sctd.recipe.methods import ON_NERF, for_objective
from sctd.recipe.recipe import Recipe, RecipeError, keys, value_of, with_overrides

Sweep = Mapping[str, Sequence[Any]]  # from a dotted key to its values


def from_options(options: Iterable[str], recipe: Recipe) -> dict[str, list[str]]:
    """The product of `--sweep key=value,value` options. Raises UserError.

    Separate values that contain commas (pairs, texts) with `;`, which is also allowed after the last one. Each value is
    read like a value of `--set`.
    """
    sweep: dict[str, list[str]] = {}
    for option in options:
        key, equals, text = (part.strip() for part in option.partition("="))
        if not equals:
            raise UserError(
                f"--sweep {shortened(option, 200)!r} has no values; write --sweep key=value,value, as in --sweep "
                "times.num_segments=1,3,5."
            )
        if key in sweep:
            raise UserError(f"--sweep {key} was passed twice; pass it once, with all its values.")
        _check_key(key, recipe, "--sweep")
        if _is_pair(key, recipe) and ";" not in text:
            raise UserError(
                f"Values of {key} are pairs; separate them with ';' and quote the argument, as in --sweep "
                f"'{key}=1,2;3,4', or '{key}=1,2;' for one pair."
            )
        sweep[key] = [value.strip() for value in text.removesuffix(";").split(";" if ";" in text else ",")]
    return sweep


def from_file(path: Path, tree: Any, recipe: Recipe) -> list[Sweep]:
    """The products under `sweep` in a recipe file. Raises UserError.

    `tree` is a mapping from nested or dotted keys to values, or a list of such mappings.
    """
    sweeps: list[Sweep] = []
    for mapping in tree if isinstance(tree, list) and tree else [tree]:
        if not isinstance(mapping, dict) or not mapping:
            found = shortened(repr(mapping), 200)
            raise UserError(
                f"{path}: sweep is {found}; expected keys with lists of values, as in 'times.num_segments: [1, 3, "
                "5]', or a list of such mappings."
            )
        sweep = {key: value if isinstance(value, list) else [value] for key, value in names.leaves(mapping)}
        for key, values in sweep.items():
            _check_key(key, recipe, str(path))
            if not values or (_is_pair(key, recipe) and not all(isinstance(value, list | str) for value in values)):
                found = shortened(repr(values), 200)
                raise UserError(f"{path}: sweep {key} is {found}; expected a list of values of the recipe key's type.")
        sweeps.append(sweep)
    return sweeps


def combined(saved: Sequence[Sweep], asked: Sweep) -> list[Sweep]:
    """The products of the file, each multiplied by the command line's. Raises UserError if both sweep the same key."""
    for key in asked:
        if any(_has(sweep, key) for sweep in saved):
            raise UserError(f"--sweep {key} is also swept in the recipe file; remove one of them.")
    return [{**sweep, **asked} for sweep in saved or [{}]]


def methods(
    base: Recipe, objectives: Iterable[str], settings: Mapping[str, Any], sweeps: Sequence[Sweep] = ({},)
) -> list[Method]:
    """A method for each objective and each cell of each product: the base recipe fitted to the objective.

    `settings` (of `--set`) apply to every cell. Without swept keys, the label is the name as chosen, such as
    `ism-authors`. Raises UserError for an unknown key, an invalid cell, a key without effect in a cell, and identical
    cells.
    """
    for key in settings:
        _check_key(key, base, "--set")
        if any(_has(sweep, key) for sweep in sweeps):
            raise UserError(f"--set {key} is also swept; remove one of them.")
    short = short_names({key for sweep in sweeps for key in sweep})
    cells = [dict(zip(sweep, values, strict=True)) for sweep in sweeps for values in product(*sweep.values())]
    found = [_method(name, _fitted(base, name), settings, cell, short) for name in objectives for cell in cells]
    _check_different(found)
    return found


def short_names(swept: Iterable[str]) -> dict[str, str]:
    """The shortest suffix of each key that no other key has: `times.num_segments` → `num_segments`."""
    tails = {key: [key.split(".", start)[-1] for start in range(key.count("."), -1, -1)] for key in swept}
    return {
        key: next((tail for tail in own if sum(tail in other for other in tails.values()) == 1), key)
        for key, own in tails.items()
    }


def formatted(value: Any) -> str:
    """A value as text for labels and tables; quoted if it could be misread."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list | tuple):
        return ",".join(map(formatted, value))
    text = str(value)
    return text if text and not any(mark.isspace() or mark in "='\"" for mark in text) else repr(text)


def _fitted(base: Recipe, name: str) -> Recipe:
    try:
        return for_objective(base, name)
    except RecipeError as error:
        raise UserError(f"--objective {name} is incompatible with the recipe: {error}.") from error
    except CustomFileError as error:
        raise UserError(f"--objective: {error}.") from error


def _method(
    name: str, base: Recipe, settings: Mapping[str, Any], cell: Mapping[str, Any], short: Mapping[str, str]
) -> Method:
    try:
        recipe = with_settings(base, {**settings, **cell})
    except (RecipeError, CustomFileError) as error:
        if not cell:
            raise UserError(f"--set: {error}.") from error
        label = _label(name, cell, short)
        raise UserError(f"The sweep cell {shortened(label, 200)!r} is invalid: {error}.") from error
    swept = {key: value_of(recipe, key) for key in cell}
    objective = recipe.objective.display_name
    authors = ON_NERF.get(name, name)
    name = name if recipe.representation.kind == "nerf" else authors
    is_as_chosen = objective == base.objective.display_name and f"{authors}-".startswith(f"{objective}-")
    return Method(_label(name if is_as_chosen else objective, swept, short), recipe, swept)


def _label(name: str, cell: Mapping[str, Any], short: Mapping[str, str]) -> str:
    return " ".join([name, *(f"{short[key]}={formatted(value)}" for key, value in cell.items())])


def _has(sweep: Sweep, key: str) -> bool:
    return names.current(key) in map(names.current, sweep)


def _check_key(key: str, recipe: Recipe, where: str) -> None:
    if where != "--set" and key == "objective.name":
        raise UserError(
            f"{where}: objective.name cannot be swept, because objectives change other keys, too; use --objective, as "
            "in --objective sctd,sds."
        )
    if names.current(key).startswith("representation."):
        raise UserError(f"{where}: {key} changes other keys, too; use --representation, as in --representation nerf.")
    if names.current(key) not in keys(recipe):
        try:
            with_overrides(recipe, {key: ""})
        except RecipeError as error:
            raise UserError(f"{where}: {error}.") from error


def _check_different(found: Sequence[Method]) -> None:
    by_content: dict[str, Method] = {}
    by_label: dict[str, Method] = {}
    for method in found:
        same = by_content.setdefault(digest(without_machine(method.recipe)), method)
        if same is not method:
            raise UserError(f"{same.label!r} and {method.label!r} would generate the same assets; remove one of them.")
        if by_label.setdefault(method.label, method) is not method:
            raise UserError(
                f"Two methods have the same label {method.label!r}; use --objective instead of --set objective.name, "
                "and give custom objectives different function names."
            )


def _is_pair(key: str, recipe: Recipe) -> bool:
    return isinstance(value_of(recipe, key), tuple)
