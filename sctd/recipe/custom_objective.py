"""An objective of one's own: a function in a Python file outside this package, called as those in `sctd.objectives`.

The file says in `LIKE` which objective it is like, whose recipe it begins with, and in `SETTINGS` which keys differ. A
recipe names it FILE.py:FUNCTION@DIGEST; the digest is the file's, and that of the files beside it that it names in
relative imports, so a change in one of them is another objective. What the digest does not cover, no relative import
finds. Reading a recipe runs nothing; `settings` and `function` run the file.
"""

import ast
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

CALLED_WITH = "z_0", "denoise", "text", "noise", "times", "schedule"
SIGNATURE = "(z_0, *, denoise, text, noise, times, schedule)"
NAME = re.compile(r"(?P<path>.+\.py):(?P<function>[A-Za-z_]\w*)(@(?P<digest>[0-9a-f]{16}))?", re.ASCII)


class CustomObjectiveError(ValueError):
    """A file that gives no objective: one sentence with what was found and what would be right."""


class Reference(NamedTuple):
    """Where a function is, and the first 16 hexadecimal digits of the SHA-256 of its file and what it imports there."""

    path: str
    function: str
    digest: str

    def __str__(self) -> str:
        return f"{self.path}:{self.function}@{self.digest}"

    @property
    def identity(self) -> str:
        """What makes it an objective, wherever the file lies."""
        return f"{self.function}@{self.digest}"


def is_custom(name: str) -> bool:
    """Whether a name is FILE.py:FUNCTION, with or without a digest."""
    return NAME.fullmatch(name) is not None


def reference(name: str) -> Reference:
    """What FILE.py:FUNCTION names; without a digest, that of the file as it is now. Raises OwnObjectiveError."""
    found = NAME.fullmatch(name)
    if found is None:
        raise CustomObjectiveError(f"{name!r} names no function of a file; write FILE.py:FUNCTION")
    path, function, digest = found["path"], found["function"], found["digest"]
    return Reference(path, function, digest or _digest(_sources(path)))


def settings(named: Reference) -> tuple[str, dict[str, Any]]:
    """The objective it is like, and the keys of a recipe that differ from that one's. Raises OwnObjectiveError."""
    module = _checked(named)
    like, changed = getattr(module, "LIKE", ""), getattr(module, "SETTINGS", {})
    if not isinstance(like, str) or not like:
        raise CustomObjectiveError(f"{named.path} does not say whose times and weights it takes; write LIKE = 'sds'")
    if not isinstance(changed, Mapping):
        raise CustomObjectiveError(f"{named.path}: SETTINGS is {changed!r}; expected keys and values, as of --set")
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
            raise CustomObjectiveError(
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
        raise CustomObjectiveError(f"{named.path} has no function {named.function!r}; define it, or name another")
    parameters = inspect.signature(own).parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    missing = [name for name in CALLED_WITH if name not in parameters and not takes_any]
    if missing:
        raise CustomObjectiveError(
            f"{named.function} of {named.path} does not take {', '.join(missing)}; an objective is called as "
            f"{named.function}{SIGNATURE}"
        )
    return module


@cache
def _module(named: Reference) -> ModuleType:
    sources = _sources(named.path)
    if _digest(sources) != named.digest:
        changed = named.path if len(sources) == 1 else f"{named.path}, or what it imports from beside it,"
        raise CustomObjectiveError(
            f"{changed} has changed since this run was planned; put it back, or start the command again: what it "
            "is now makes other assets"
        )
    package = f"own_objective_{named.digest}"
    beside = _Beside(package, Path(named.path), sources)
    sys.meta_path.append(beside)
    module = module_from_spec(beside.spec(package))
    sys.modules[package] = module  # where dataclasses and pickle look
    try:
        beside.exec_module(module)
    except Exception as error:
        sys.meta_path.remove(beside)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CustomObjectiveError(f"{named.path} cannot be run ({reason}); mend it") from error
    return module


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CustomObjectiveError(
            f"{path} cannot be read ({error.strerror}); give the path of a Python file"
        ) from None


class _Beside(MetaPathFinder, Loader):
    """Finds the files of a digest, which were read once, and no other: the file as a package, those beside it in it."""

    def __init__(self, package: str, path: Path, sources: Mapping[str, bytes]):
        self.sources = {f"{package}.{name}" if name else package: source for name, source in sources.items()}
        self.package, self.path = package, path

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        return self.spec(fullname) if fullname in self.sources else None

    def spec(self, name: str) -> ModuleSpec:
        is_package = name == self.package
        file = self.path if is_package else self.path.with_name(f"{name.rpartition('.')[2]}.py")
        spec = spec_from_file_location(name, file, loader=self)
        assert spec is not None
        spec.submodule_search_locations = [] if is_package else None  # no folder: Python's own finder stays out
        return spec

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.sources[module.__name__], module.__file__ or "", "exec"), module.__dict__)


def _sources(path: str) -> dict[str, bytes]:
    """The file, under "", and what it and they import from beside it, by name."""
    found, todo = {"": _read(path)}, [""]
    while todo:
        for name in _imported(found[todo.pop()]):
            beside = Path(path).with_name(f"{name}.py")
            if name not in found and beside.is_file():
                found[name] = _read(str(beside))
                todo.append(name)
    return found


def _imported(source: bytes) -> Iterator[str]:
    """The names in `from .name import …` and `from . import name`, wherever they stand; some may be no files."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # running it will say so
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module] if node.module else [alias.name for alias in node.names]


def _digest(sources: Mapping[str, bytes]) -> str:
    """Without files beside it, that of the file alone."""
    digest = hashlib.sha256(sources[""])
    for name in sorted(sources.keys() - {""}):
        digest.update(f"\0{name}\0".encode() + hashlib.sha256(sources[name]).digest())
    return digest.hexdigest()[:16]
