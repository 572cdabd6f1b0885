"""Fuzzing of readers: damaged files from hypothesis end in a value or in one sentence, never in anything else.

Each reader gets `CASES` files: 2,000 by default, always the same ones; as many random ones as the environment variable
SEGMENTDREAMER_FUZZ_CASES says (`make fuzz`: 100,000).
"""

import logging
import os
import random
import re
import resource
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pipeline.cli.error_handling import FILE_ERRORS, text_of

T = TypeVar("T")
FIRST = 2_000  # cases, the same in each run
CASES = int(os.environ.get("SEGMENTDREAMER_FUZZ_CASES", FIRST))
MEMORY_BYTES = 2**30  # that a reader may allocate for a file of a few KiB
LONGEST_SENTENCE = 1_000
# Names of Python, and values that no user has written.
INTERNALS = re.compile(
    r"object at 0x|<class|<function|Traceback|NoneType|not subscriptable|has no attribute|unpack|recursion"
    r"|positional argument|keyword argument|out of range\b.*\bindex|index \d+ is out|unhashable type"
    r"|ufunc|torch\.|numpy\.|np\.|list index|dict index|errors\.pydantic|not supported between"
)


def put(path: Path, content: bytes) -> None:
    """Write a file anew: ext4 sends one that is truncated to the disk at once, which takes ten times as long."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


class Refused(str):
    """The sentence of a reader that refused a file."""

    __slots__ = ()


def fuzz(files: st.SearchStrategy[T], check: Callable[[T], None]) -> None:
    """Run `check` on `CASES` files, with limited memory and without any output of libraries."""
    for start in range(0, CASES, FIRST):  # hypothesis keeps all cases of a run in memory

        @seed(random.getrandbits(64) if start else 0)
        @settings(
            max_examples=min(FIRST, CASES - start),
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(files)
        def run(file: T) -> None:
            check(file)

        with _limited_memory():
            run()


def outcome(reader: Callable[[], T], *errors: type[Exception], internals: re.Pattern[str] = INTERNALS) -> T | Refused:
    """The value of `reader`, or the sentence of one of these errors. Everything else fails the test."""
    with warnings.catch_warnings(record=True) as warned, _logged() as logged:
        warnings.simplefilter("always")
        try:
            result: T | Refused = reader()
        except errors as error:
            result = _sentence(error, internals)
        except OSError as error:
            if error.errno not in FILE_ERRORS or not error.filename:  # the command would print it as it is
                raise AssertionError(f"{type(error).__name__}: {error}") from error
            result = _sentence(error, internals)
    assert not warned, [str(each.message) for each in warned]
    assert not logged, logged
    return result


def _sentence(error: Exception, internals: re.Pattern[str]) -> Refused:
    text = text_of(error)
    assert text.strip(), f"{type(error).__name__} says nothing"
    assert "\n" not in text, f"more than one line: {text!r}"
    assert "\r" not in text, f"more than one line: {text!r}"
    assert len(text) <= LONGEST_SENTENCE, f"{len(text)} characters: {text[:200]!r}…"
    assert not (found := internals.search(text)), f"{found} in {text!r}"
    return Refused(text)


@contextmanager
def _limited_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + MEMORY_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _data_bytes() -> int:
    """Private memory of this process, reserved or used."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmData"))


@contextmanager
def _logged() -> Iterator[list[str]]:
    """What Python would print of the records of libraries: warnings of loggers without handlers."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logger: logging.Logger | None = logging.getLogger(record.name)
            while logger is not None and logger.parent is not None:
                if logger.handlers:
                    return
                logger = logger.parent
            found.append(f"{record.name}: {record.getMessage()}")

    handler = Collector(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(handler)


# --- Damage to bytes, text and JSON.

PIECES = (
    b"", b"\0", b"\xff\xff\xff\xff", b"\n", b"\r\n", b" ", b"-1", b"4294967295", b"99999999999999999999", b"nan",
    b"inf", b"1e400", b"\xef\xbb\xbf", b"\x1b[31m", b"{", b"[", b'"', b",", b"\t", b"null", b"\xc3\xa9",
    b"\xe2\x80\xa8", b"[" * 20_000, b"#", b"=", b":", b"\x85", b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"|",
)  # fmt: skip


class Choices:
    """Choices that are read from bytes of hypothesis: a file takes one draw, and shrinks to the first of each."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def below(self, most: int) -> int:
        """A number from 0 to `most` - 1, of two bytes; 0 after the last byte."""
        found = self.data[self.position : self.position + 2]
        self.position += 2
        return int.from_bytes(found, "big") * most >> 16

    def of(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def some(self, values: Sequence[T], most: int) -> list[T]:
        """At most `most` of these values, perhaps repeated."""
        return [self.of(values) for _ in range(self.below(most + 1))]


def made(make: Callable[[Choices], T], num_bytes: int = 64) -> st.SearchStrategy[T]:
    """What a function makes of choices."""
    return st.binary(min_size=num_bytes, max_size=num_bytes).map(lambda data: make(Choices(data)))


def chosen(values: Sequence[T]) -> st.SearchStrategy[T]:
    """One of these values; unlike that of `sampled_from`, its description is short."""
    return st.integers(0, len(values) - 1).map(lambda number: values[number])


def damaged(files: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The files with up to three damages, and perhaps in another encoding or archive."""
    return st.builds(damage, files, made(lambda choices: choices, 22))


def damage(data: bytes, choices: Choices) -> bytes:
    for _ in range(1 + choices.below(3)):
        at, number = choices.below(len(data) + 1), choices.below(2**16)
        piece, end = PIECES[number % len(PIECES)], at + 1 + number % 64
        match choices.of(["cut", "flip", "set", "insert", "delete", "repeat", "overwrite"]):
            case "cut":
                data = data[:at]
            case "flip":
                data = data[:at] + bytes(byte ^ (1 << number % 8) for byte in data[at : at + 1]) + data[at + 1 :]
            case "set":
                data = data[:at] + bytes([number % 256]) + data[at + 1 :]
            case "insert":
                data = data[:at] + piece + data[at:]
            case "delete":
                data = data[:at] + data[end:]
            case "repeat":
                data = data[:end] + data[at:]
            case "overwrite":
                data = data[:at] + piece + data[at + len(piece) :]
    return wrapped(
        data, choices.of([None] * 12 + ["bom", "crlf", "utf-16", "latin-1", "gzip", "zip", "twice", "empty"])
    )


def wrapped(data: bytes, wrap: str | None) -> bytes:
    """The content in another encoding, or in an archive."""
    match wrap:
        case "bom":
            return b"\xef\xbb\xbf" + data
        case "crlf":
            return data.replace(b"\n", b"\r\n")
        case "utf-16":
            return data.decode("latin-1").encode("utf-16")
        case "latin-1":
            return data + b"\xe9"
        case "gzip":
            import gzip

            return gzip.compress(data, 1, mtime=0)
        case "zip":
            return zipped({"file": data})
        case "twice":
            return data + data
        case "empty":
            return b""
    return data


def zipped(files: dict[str, bytes]) -> bytes:
    """A zip archive, with the same bytes each time."""
    import io
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return file.getvalue()


ODD = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, -1e308, float("inf"), float("nan"),
    "", "a", "1", "NaN", "1e400", "\x1b[31m", "\ud800", "é", "a\nb", "../../x", "/", "x" * 3_000,
    [], {}, [[]], [None], {"": None}, {"a": {"b": {}}}, [1, 2, 3], ["a"], [0.0] * 4, [{}],
)  # fmt: skip
CHANGES = "set", "set", "set", "delete", "rename", "wrap", "copy", "add", "text"


def changed_trees(trees: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """JSON values with up to three changes: other types, missing, renamed or additional keys, other nesting."""
    return st.builds(changed, trees, made(lambda choices: choices, 20))


def changed(tree: Any, choices: Choices) -> Any:
    holder = {"root": tree}
    for _ in range(1 + choices.below(3)):
        if paths := list(_paths(holder, ())):
            holder = _with_change(holder, choices.of(paths), choices.of(CHANGES), choices.of(ODD))
    return holder.get("root")


def json_files(trees: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Files of these JSON values, of changed ones, and with damaged text."""
    intact = trees.map(to_json)
    return st.one_of(
        changed_trees(trees).map(to_json),
        changed_trees(trees).map(to_json),
        damaged(intact),
        chosen(NOT_OBJECTS),
    )


NOT_OBJECTS = tuple(
    text.encode()
    for text in (
        "", "null", "[]", "{}", "0", '"a"', "true", "NaN", "[{}]", "{", "[" * 100_000, '{"a":' * 50_000, "1" * 5_000,
        '{"a": 1, "a": 2}', "[null]", "Infinity", "\ufeff{}", '"\\ud800"',
    )
)  # fmt: skip


def to_json(tree: Any) -> bytes:
    import json

    return json.dumps(tree).encode()


def _with_change(parent: Any, path: tuple[Any, ...], kind: str, odd: Any) -> Any:
    """A copy of the value, changed at this path."""
    key, parent = path[0], parent.copy()
    value = parent[key]
    if len(path) > 1:
        parent[key] = _with_change(value, path[1:], kind, odd)
    elif kind == "set":
        parent[key] = odd
    elif kind == "delete":
        del parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        parent[f"{key}s"] = parent.pop(key)
    elif kind == "wrap":
        parent[key] = [value] if odd else {str(key): value}
    elif kind == "copy" and isinstance(parent, list):
        parent.insert(key, value)
    elif kind == "add" and isinstance(value, dict):
        parent[key] = value | {str(odd)[:20]: odd}
    elif kind == "add" and isinstance(value, list):
        parent[key] = [*value, odd]
    elif kind == "text":
        parent[key] = str(value)
    return parent


def _paths(parent: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value, with the first ones of long lists only."""
    for key, value in list(parent.items()) if isinstance(parent, dict) else list(enumerate(parent[:8])):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _paths(value, (*path, key))
