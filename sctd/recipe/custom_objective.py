"""Custom objectives: functions in Python files outside this package, with the signature of `sctd.objectives`.

In the file, `LIKE` names the objective whose recipe it starts from, and `SETTINGS` has the keys that differ. A recipe
refers to it as FILE.py:FUNCTION@DIGEST. The digest covers the file and its relative imports from the same folder, so a
change to any of them is another objective; relative imports find no other files. Reading a recipe runs no code;
`load` runs the file.
"""

import ast
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sctd.errors import SctdError

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
NAME = re.compile(r"(?P<path>.+\.py):(?P<function>[A-Za-z_]\w*)(@(?P<digest>[0-9a-f]{16}))?", re.ASCII)


class CustomObjectiveError(SctdError):
    """Raised for a file without a valid objective: one sentence with what was found and what was expected."""


class ObjectiveReference(NamedTuple):
    """A function in a file, and the first 16 hex digits of the SHA-256 of the file and its relative imports."""

    path: str
    function: str
    digest: str

    def __str__(self) -> str:
        return f"{self.path}:{self.function}@{self.digest}"

    @property
    def identity(self) -> str:
        """The function's name and the digest, independent of the path of the file."""
        return f"{self.function}@{self.digest}"


def is_custom(name: str) -> bool:
    """Whether a name has the form FILE.py:FUNCTION, with or without a digest."""
    return NAME.fullmatch(name) is not None


def reference(name: str) -> ObjectiveReference:
    """Parse FILE.py:FUNCTION; without a digest, compute it from the file. Raises CustomObjectiveError."""
    found = NAME.fullmatch(name)
    if found is None:
        raise CustomObjectiveError(f"{name!r} is no function of a file; expected FILE.py:FUNCTION")
    path, function, digest = found["path"], found["function"], found["digest"]
    return ObjectiveReference(path, function, digest or _digest(_sources(path)))


class Loaded(NamedTuple):
    """What a file defines, checked."""

    function: Callable[..., Any]
    """Rejects a residual that does not have the shape of z_0."""
    init: Callable[..., Any] | None
    update: Callable[..., Any] | None
    like: str
    settings: dict[str, Any]


def load(named: ObjectiveReference) -> Loaded:
    """Run the file. Raises CustomObjectiveError unless it has the function, with the right arguments, and LIKE."""
    module = _module(named)
    function = getattr(module, named.function, None)
    if not callable(function):
        raise CustomObjectiveError(f"{named.path} has no function {named.function!r}; define it, or name another")
    parameters = inspect.signature(function).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    missing = [name for name in ARGUMENTS if name not in parameters and not takes_any]
    if missing:
        raise CustomObjectiveError(
            f"{named.function} of {named.path} does not accept {', '.join(missing)}; expected the signature "
            f"{named.function}(z_0, *, {', '.join(ARGUMENTS[1:])})"
        )
    like, settings = getattr(module, "LIKE", ""), getattr(module, "SETTINGS", {})
    if not isinstance(like, str) or not like:
        raise CustomObjectiveError(
            f"{named.path} has no LIKE, the objective whose recipe it starts from; add, for example, LIKE = 'sds'"
        )
    if not isinstance(settings, Mapping):
        raise CustomObjectiveError(f"{named.path}: SETTINGS is {settings!r}; expected a dict of recipe keys and values")
    is_stateful = "state" in parameters
    init, update = (getattr(module, name, None) if is_stateful else None for name in ("init", "update"))
    if is_stateful and not callable(init):
        raise CustomObjectiveError(
            f"{named.function} of {named.path} asks for a state, which the file does not make; add a function init"
        )
    return Loaded(_with_checked_shape(function, named), init, update, like, dict(settings))


def _with_checked_shape(function: Callable[..., Any], named: ObjectiveReference) -> Callable[..., Any]:
    @wraps(function)
    def residual_of(z_0: Any, **given: Any) -> Any:
        residual = function(z_0, **given)
        found = getattr(residual, "latents", residual)
        if getattr(found, "shape", None) != z_0.shape:
            what = tuple(found.shape) if hasattr(found, "shape") else type(found).__name__
            raise CustomObjectiveError(
                f"{named.function} of {named.path} returned {what}; expected a residual of the shape of z_0, "
                f"{tuple(z_0.shape)}"
            )
        return residual

    return residual_of


@cache
def _module(named: ObjectiveReference) -> ModuleType:
    sources = _sources(named.path)
    if _digest(sources) != named.digest:
        changed = named.path if len(sources) == 1 else f"{named.path}, or one of its relative imports,"
        raise CustomObjectiveError(
            f"{changed} has changed since this run was planned; restore it, or run the command again to generate "
            "assets with the changed objective"
        )
    package = f"custom_objective_{named.digest}"
    finder = _DigestFinder(package, Path(named.path), sources)
    sys.meta_path.append(finder)
    try:
        return import_module(package)
    except Exception as error:
        sys.meta_path.remove(finder)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CustomObjectiveError(f"{named.path} cannot be run ({reason}); correct the file") from error


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CustomObjectiveError(
            f"{path} cannot be read ({error.strerror}); expected the path of a Python file"
        ) from None


class _DigestFinder(MetaPathFinder, Loader):
    """Import finder for the files of a digest only: the file as a package, its neighbours as submodules."""

    def __init__(self, package: str, path: Path, sources: Mapping[str, bytes]):
        self.sources = {f"{package}.{name}" if name else package: source for name, source in sources.items()}
        self.package, self.path = package, path

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in self.sources:
            return None
        is_package = fullname == self.package
        file = self.path if is_package else self.path.with_name(f"{fullname.rpartition('.')[2]}.py")
        spec = ModuleSpec(fullname, self, origin=str(file), is_package=is_package)  # no folder for Python's own finder
        spec.has_location = True
        return spec

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.sources[module.__name__], module.__file__ or "", "exec"), module.__dict__)


def _sources(path: str) -> dict[str, bytes]:
    """Sources by module name: the file under "", and its direct and indirect relative imports."""
    found, todo = {"": _read(path)}, [""]
    while todo:
        for name in _imported(found[todo.pop()]):
            neighbour = Path(path).with_name(f"{name}.py")
            if name not in found and neighbour.is_file():
                found[name] = _read(str(neighbour))
                todo.append(name)
    return found


def _imported(source: bytes) -> Iterator[str]:
    """Names in all `from .name import …` and `from . import name` statements; some may not be files."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return  # the error is reported when the file runs
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module] if node.module else [alias.name for alias in node.names]


def _digest(sources: Mapping[str, bytes]) -> str:
    """Digest of all sources; without relative imports, that of the file alone."""
    digest = hashlib.sha256(sources[""])
    for name in sorted(sources.keys() - {""}):
        digest.update(f"\0{name}\0".encode() + hashlib.sha256(sources[name]).digest())
    return digest.hexdigest()[:16]
