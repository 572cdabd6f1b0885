"""Python files outside this package that a recipe refers to: custom objectives and custom representations.

A recipe refers to a function or class of a file as FILE.py:NAME@DIGEST. The digest covers the file and its relative
imports from the same folder, so a change to any of them is another method; relative imports find no other files.
Reading a recipe runs no code; `module` runs the file.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from sctd.errors import SctdError

NAME = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)(@(?P<digest>[0-9a-f]{16}))?", re.ASCII)


class CustomFileError(SctdError):
    """Raised for a file without what is expected of it: one sentence with what was found and what was expected."""


class Reference(NamedTuple):
    """A function or class in a file, and the first 16 hex digits of the SHA-256 of the file and its imports."""

    path: str
    name: str
    digest: str

    def __str__(self) -> str:
        return f"{self.path}:{self.name}@{self.digest}"

    @property
    def identity(self) -> str:
        """Its name and the digest, independent of the path of the file."""
        return f"{self.name}@{self.digest}"


def is_custom(name: str) -> bool:
    """Whether a name has the form FILE.py:NAME, with or without a digest."""
    return NAME.fullmatch(name) is not None


def reference(name: str) -> Reference:
    """Parse FILE.py:NAME; without a digest, compute it from the file. Raises CustomFileError."""
    found = NAME.fullmatch(name)
    if found is None:
        raise CustomFileError(f"{name!r} names nothing in a file; expected FILE.py:NAME")
    path, named, digest = found["path"], found["name"], found["digest"]
    return Reference(path, named, digest or _digest(_sources(path)))


@cache
def module(named: Reference) -> ModuleType:
    """Run the file. Raises CustomFileError if it cannot be read or run, or has another digest."""
    sources = _sources(named.path)
    if _digest(sources) != named.digest:
        changed = named.path if len(sources) == 1 else f"{named.path}, or one of its relative imports,"
        raise CustomFileError(
            f"{changed} has changed since this run was planned; restore it, or run the command again to generate "
            "assets with the changed file"
        )
    package = f"custom_{named.digest}"
    finder = _DigestFinder(package, Path(named.path), sources)
    sys.meta_path.append(finder)
    try:
        return import_module(package)
    except Exception as error:
        sys.meta_path.remove(finder)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise CustomFileError(f"{named.path} cannot be run ({reason}); correct the file") from error


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise CustomFileError(f"{path} cannot be read ({error.strerror}); expected the path of a Python file") from None


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
