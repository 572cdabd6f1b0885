"""Custom objectives: functions in Python files outside this package, with the signature of `sctd.objectives`.

In the file, `LIKE` names the objective whose recipe it starts from, and `SETTINGS` has the keys that differ. A recipe
refers to it as FILE.py:FUNCTION@DIGEST (`custom_file`).
"""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple

from sctd.recipe.custom_file import CustomFileError, Reference, module

ARGUMENTS = "z_0", "denoise", "text", "noise", "times", "schedule"
OFFERED = {
    "state": "what `init` returned, or the last `update` (not in `init`)",
    "cameras": "the cameras of the views (not in `init`)",
    "progress": "share of the iterations that are done (not in `init`)",
    "unguided": "the denoiser without guidance (in the objective)",
    "alpha": "rendered opacity, views × height × width pixels (in the objective)",
    "depth": "rendered depth in world units, views × height × width pixels (in the objective)",
    "positions": "rendered positions in the world, views × 3 × height × width pixels (in the objective)",
    "adapted": "ε_ψ(ψ, z_t, t, text, cameras): the prior with adapters (LoRA) ψ, differentiable in ψ",
    "negative": "embedding of `objective.negative_prompt`, as `text`",
    "decode": "z_0 → images in [0, 1]",
    "generator": "the run's random numbers, on the CPU (`init` and `update`)",
    "recipe": "the recipe (`init` only)",
    "prior": "the prior (`init` only)",
}
"""What the functions of an objective get if they name it as an argument."""
OF_INIT = {"recipe", "prior", "adapted", "negative", "schedule", "decode", "generator"}
OF_RESIDUAL = {*ARGUMENTS, *OFFERED} - {"recipe", "prior", "generator"}
OF_UPDATE = OF_RESIDUAL - {"denoise", "unguided", "noise", "times", "alpha", "depth", "positions"} | {"generator"}
OPTIONS_OF = {"adapted": "objective.adapter_rank", "negative": "objective.negative_prompt"}
"""The recipe keys that determine what is offered."""


class Loaded(NamedTuple):
    """What a file defines, checked."""

    function: Callable[..., Any]
    """Rejects a residual that does not have the shape of z_0."""
    init: Callable[..., Any] | None
    update: Callable[..., Any] | None
    like: str
    settings: dict[str, Any]


def load(named: Reference) -> Loaded:
    """Run the file. Raises CustomFileError unless it has the function, with the right arguments, and LIKE."""
    found = module(named)
    function = getattr(found, named.name, None)
    if not callable(function):
        raise CustomFileError(f"{named.path} has no function {named.name!r}; define it, or name another")
    parameters = inspect.signature(function).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    missing = [name for name in ARGUMENTS if name not in parameters and not takes_any]
    if missing:
        raise CustomFileError(
            f"{named.name} of {named.path} does not accept {', '.join(missing)}; expected the signature "
            f"{named.name}(z_0, *, {', '.join(ARGUMENTS[1:])})"
        )
    like, settings = getattr(found, "LIKE", ""), getattr(found, "SETTINGS", {})
    if not isinstance(like, str) or not like:
        raise CustomFileError(
            f"{named.path} has no LIKE, the objective whose recipe it starts from; add, for example, LIKE = 'sds'"
        )
    if not isinstance(settings, Mapping):
        raise CustomFileError(f"{named.path}: SETTINGS is {settings!r}; expected a dict of recipe keys and values")
    is_stateful = "state" in parameters
    init, update = (getattr(found, name, None) if is_stateful else None for name in ("init", "update"))
    if is_stateful and not callable(init):
        raise CustomFileError(
            f"{named.name} of {named.path} asks for a state, which the file does not make; add a function init"
        )
    return Loaded(_with_checked_shape(function, named), init, update, like, dict(settings))


def _with_checked_shape(function: Callable[..., Any], named: Reference) -> Callable[..., Any]:
    @wraps(function)
    def residual_of(z_0: Any, **given: Any) -> Any:
        residual = function(z_0, **given)
        found = getattr(residual, "latents", residual)
        if getattr(found, "shape", None) != z_0.shape:
            what = tuple(found.shape) if hasattr(found, "shape") else type(found).__name__
            raise CustomFileError(
                f"{named.name} of {named.path} returned {what}; expected a residual of the shape of z_0, "
                f"{tuple(z_0.shape)}"
            )
        return residual

    return residual_of
