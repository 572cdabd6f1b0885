"""An objective of one's own: a function in a Python file outside this package, called as those in `sctd.objectives`.

The file says in `LIKE` which objective it is like, whose recipe it begins with, and in `SETTINGS` which keys differ. A
recipe names it FILE.py:FUNCTION@DIGEST; the digest is the file's, so a changed file is another objective. Reading a
recipe runs nothing; `settings` and `function` run the file.
"""

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

CALLED_WITH = "z_0", "denoise", "text", "noise", "times", "schedule"
SIGNATURE = "(z_0, *, denoise, text, noise, times, schedule)"
NAME = re.compile(r"(?P<path>.+\.py):(?P<function>[A-Za-z_]\w*)(@(?P<digest>[0-9a-f]{16}))?", re.ASCII)


class OwnObjectiveError(ValueError):
    """A file that gives no objective: one sentence with what was found and what would be right."""


class Reference(NamedTuple):
    """Where a function is, and the first 16 hexadecimal digits of the SHA-256 of its file."""

    path: str
    function: str
    digest: str

    def __str__(self) -> str:
        return f"{self.path}:{self.function}@{self.digest}"

    @property
    def called(self) -> str:
        """What makes it an objective, wherever the file lies."""
        return f"{self.function}@{self.digest}"


def is_own(name: str) -> bool:
    """Whether a name is FILE.py:FUNCTION, with or without a digest."""
    return NAME.fullmatch(name) is not None


def reference(name: str) -> Reference:
    """What FILE.py:FUNCTION names; without a digest, that of the file as it is now. Raises OwnObjectiveError."""
    found = NAME.fullmatch(name)
    if found is None:
        raise OwnObjectiveError(f"{name!r} names no function of a file; write FILE.py:FUNCTION")
    path, function, digest = found["path"], found["function"], found["digest"]
    return Reference(path, function, digest or _digest(_read(path)))


def settings(named: Reference) -> tuple[str, dict[str, Any]]:
    """The objective it is like, and the keys of a recipe that differ from that one's. Raises OwnObjectiveError."""
    module = _checked(named)
    like, changed = getattr(module, "LIKE", ""), getattr(module, "SETTINGS", {})
    if not isinstance(like, str) or not like:
        raise OwnObjectiveError(f"{named.path} does not say whose times and weights it takes; write LIKE = 'sds'")
    if not isinstance(changed, Mapping):
        raise OwnObjectiveError(f"{named.path}: SETTINGS is {changed!r}; expected keys and values, as of --set")
    return like, dict(changed)


def function(named: Reference) -> Callable[..., Any]:
    """The function, its residuals checked for their shape. Raises OwnObjectiveError."""
    own = getattr(_checked(named), named.function)

    @wraps(own)
    def residual_of(z_0: Any, **given: Any) -> Any:
        residual = own(z_0, **given)
        found = getattr(residual, "latents", residual)
        if getattr(found, "shape", None) != z_0.shape:
            what = tuple(found.shape) if hasattr(found, "shape") else type(found).__name__
            raise OwnObjectiveError(
                f"{named.function} of {named.path} returned {what}; expected a residual of the shape of z_0, "
                f"{tuple(z_0.shape)}"
            )
        return residual

    return residual_of


def _checked(named: Reference) -> ModuleType:
    """The file's module, with a function of that name which can be called as objectives are."""
    module = _module(named)
    own = getattr(module, named.function, None)
    if not callable(own):
        raise OwnObjectiveError(f"{named.path} has no function {named.function!r}; define it, or name another")
    parameters = inspect.signature(own).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    missing = [name for name in CALLED_WITH if name not in parameters and not takes_any]
    if missing:
        raise OwnObjectiveError(
            f"{named.function} of {named.path} does not take {', '.join(missing)}; an objective is called as "
            f"{named.function}{SIGNATURE}"
        )
    return module


@cache
def _module(named: Reference) -> ModuleType:
    source = _read(named.path)
    if _digest(source) != named.digest:
        raise OwnObjectiveError(
            f"{named.path} has changed since this run was planned; put it back, or start the command again: what it "
            "is now makes other assets"
        )
    module = ModuleType(f"own_objective_{named.digest}")
    module.__file__ = named.path
    sys.modules[module.__name__] = module  # where dataclasses and pickle look
    try:
        exec(compile(source, named.path, "exec"), module.__dict__)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise OwnObjectiveError(f"{named.path} cannot be run ({reason}); mend it") from error
    return module


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OwnObjectiveError(f"{path} cannot be read ({error.strerror}); give the path of a Python file") from None


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:16]
