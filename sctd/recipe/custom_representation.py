"""Custom representations: classes in Python files outside this package. `sctd.train.custom_representation` trains them.

A recipe refers to one as FILE.py:CLASS@DIGEST (`custom_file`). Its `SETTINGS` are the recipe keys that it changes.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sctd.recipe.custom_file import CustomFileError, Reference, module

METHODS = {"start": ("initial", "generator"), "render": ("tensors", "cameras", "background")}
_RATE = "a positive number, or two: at the start and at the end"
OPTIONAL = {"penalty": ("tensors", "rendering", "progress"), "bounded": ("tensors",)}


class Loaded(NamedTuple):
    """What a file defines, checked: the class, and the recipe keys that it changes."""

    made: Callable[[], Any]
    settings: dict[str, Any]


def load(named: Reference) -> Loaded:
    """Run the file. Raises CustomFileError unless it has the class, with the right methods and learning rates."""
    found = getattr(module(named), named.name, None)
    if not isinstance(found, type):
        raise CustomFileError(f"{named.path} has no class {named.name!r}; define it, or name another")
    for name, arguments in {**METHODS, **OPTIONAL}.items():
        method = getattr(found, name, None)
        if method is None and name in OPTIONAL:
            continue
        expected = f"{name}(self, {', '.join(arguments)})"
        if not callable(method):
            raise CustomFileError(f"{named.name} of {named.path} has no method {name}; define {expected}")
        try:
            inspect.signature(method).bind(None, *arguments)
        except TypeError:
            raise CustomFileError(
                f"{name} of {named.name} in {named.path} takes other arguments; expected {expected}"
            ) from None
    try:
        inspect.signature(found).bind()
    except TypeError:
        raise CustomFileError(f"{named.name} of {named.path} is made without arguments; give them defaults") from None
    rates = getattr(found, "rates", None)
    if not isinstance(rates, Mapping) or not rates:
        raise CustomFileError(
            f"{named.name} of {named.path} has no learning rates; expected rates, a dict from names of tensors to "
            f"{_RATE}"
        )
    for name, rate in rates.items():
        if not isinstance(name, str) or not _is_rate(rate):
            raise CustomFileError(
                f"{named.name} of {named.path} has the learning rate {name!r}: {rate!r}; expected a name and {_RATE}"
            )
    settings = getattr(found, "SETTINGS", {})
    if not isinstance(settings, Mapping):
        raise CustomFileError(f"{named.path}: SETTINGS is {settings!r}; expected a dict of recipe keys and values")
    if own := [key for key in settings if str(key).startswith("representation")]:
        raise CustomFileError(f"{named.path}: SETTINGS has {own[0]!r}, which names the class itself; leave it out")
    return Loaded(found, dict(settings))


def _is_rate(value: object) -> bool:
    numbers = value if isinstance(value, tuple | list) and len(value) == 2 else (value,)
    return all(isinstance(each, int | float) and each is not True and 0 < each < math.inf for each in numbers)
