"""One interface to files in a folder or an object store (`s3://bucket/run`). Only this module uses fsspec and upath.

A path in a store is a `UPath`. It has `/`, `exists`, `read_bytes`, `glob` and `stat` like `Path`, so readers need not
tell them apart. Writers use the functions here. Object stores cannot rename atomically, but their PUT is atomic.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from pipeline.errors import UserError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # this package's extra for each URL scheme
NOT_ATOMIC = {"ftp", "sftp", "ssh", "smb", "hdfs", "webhdfs", "http", "https"}  # a reader could get a partial file
WAITS_SECONDS = (
    0.5,
    1.0,
    2.0,
    4.0,
)  # between retries after a transient error of a store; errors of a folder are not retried

T = TypeVar("T")


def place(text: str | Path) -> Path:
    """The path that an option names, in a folder or an object store. Raises UserError."""
    if not isinstance(text, str):
        return text
    if "://" not in text:
        return Path(text)
    protocol, _, rest = text.partition("://")
    if protocol in ("file", "local"):
        return Path("/" + rest.lstrip("/"))
    if protocol in NOT_ATOMIC:
        raise UserError(
            f"{text} cannot store runs, because {protocol} does not write files atomically; use a folder or an "
            "s3:// or gs:// URL."
        )
    from fsspec import get_filesystem_class
    from upath import UPath

    try:
        get_filesystem_class(protocol)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        what = (
            f"install it with pip install 'segmentdreamer[{extra}]'"
            if extra
            else "install the package that fsspec names"
        )
        raise UserError(f"{text} needs a package that is not installed ({error}); {what}.") from error
    except ValueError as error:
        raise UserError(
            f"{text} starts with {protocol}://, which fsspec does not support; use an s3:// or gs:// URL."
        ) from error
    return cast(Path, UPath(text, use_listings_cache=False))  # other processes write there, too


def is_local(path: Path) -> bool:
    return not hasattr(path, "fs")


def put(path: Path, content: bytes) -> None:
    """Write a file atomically: on failure the previous content stays. Raises OSError.

    A device or a pipe, such as /dev/stdout, is written to, not replaced.
    """
    if not is_local(path):
        _with_retries(path, lambda fs, name: fs.pipe_file(name, content))
        return
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            path.write_bytes(content)
            return
        with _beside(path, content) as beside:
            os.replace(beside, path)
    except OSError as error:  # of `path`, not of the temporary file beside it
        raise OSError(error.errno, error.strerror, str(path)) from error


def create(path: Path, content: bytes) -> bool:
    """Write a file unless it exists. Of several concurrent calls, exactly one returns True. Raises OSError."""
    try:
        if is_local(path):
            with _beside(path, content) as beside:
                os.link(beside, path)
        else:  # no retry: after an error the file may exist, and a retry would return False
            with _as_os_errors(path):
                cast(Any, path).fs.pipe_file(cast(Any, path).path, content, mode="create")
    except FileExistsError:
        return False
    return True


def read(path: Path) -> bytes:
    """A whole file. Raises FileNotFoundError, OSError."""
    if not is_local(path):
        return _with_retries(path, lambda fs, name: fs.cat_file(name))
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def read_each(paths: Sequence[Path]) -> Iterator[bytes | None]:
    """The content of each file, None if it is missing. Stores are asked for 500 at a time. Raises OSError."""
    for first in range(0, len(paths), 500):
        part = paths[first : first + 500]
        found = {} if is_local(part[0]) else _requested(part)
        for path in part:
            content = found.get(str(path))
            try:
                yield content if isinstance(content, bytes) else read(path)
            except (FileNotFoundError, NotADirectoryError):
                yield None


def _requested(paths: Sequence[Path]) -> dict[str, Any]:
    """The content of these files of a store, or the error that each gave."""
    names = [cast(Any, path).path for path in paths]
    found = _with_retries(paths[0], lambda fs, _: fs.cat(names, on_error="return"))
    return {str(path): found.get(name) for path, name in zip(paths, names, strict=True)}


def head(path: Path, count: int) -> bytes:
    """The first bytes of a file. Raises FileNotFoundError, OSError."""
    if is_local(path):
        with open(path, "rb") as file:
            return file.read(count)
    return _with_retries(path, lambda fs, name: fs.cat_file(name, start=0, end=count))


def move(source: Path, target: Path) -> None:
    """Move a file. A concurrent move of the same file is no error. Raises OSError."""
    try:
        if is_local(source):
            os.replace(source, target)
        else:
            _with_retries(source, lambda fs, name: fs.mv(name, cast(Any, target).path))
    except FileNotFoundError:
        if not target.exists():
            raise


def copy(source: Path, target: Path) -> None:
    """Copy a file over `target`, in a folder by a hard link. Raises FileNotFoundError, OSError."""
    if not is_local(source):
        _with_retries(source, lambda fs, name: fs.cp_file(name, cast(Any, target).path))
        return
    beside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    os.link(source, beside)
    os.replace(beside, target)
    beside.unlink(missing_ok=True)  # a rename between two names of one file does nothing


def remove(path: Path) -> None:
    """Remove a file if it exists. Raises OSError."""
    try:
        if is_local(path):
            path.unlink()
        else:
            _with_retries(path, lambda fs, name: fs.rm_file(name))
    except FileNotFoundError:
        pass


def names(folder: Path) -> set[str]:
    """The names in a folder, none if it is missing; in an object store a request for each thousand. Raises OSError."""

    def listed(fs: Any, name: str) -> list[str]:
        fs.invalidate_cache(name)
        return fs.ls(name, detail=False)

    try:
        if is_local(folder):
            return set(os.listdir(folder))
        return {each.rstrip("/").rpartition("/")[2] for each in _with_retries(folder, listed)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


class Listed(NamedTuple):
    """A file of a listing."""

    bytes: int
    changed: float  # seconds since the epoch; 0 if the store does not say


def listing(root: Path) -> dict[str, Listed]:
    """Every file under `root` by its path below it, with `/`. Raises OSError.

    A file that is removed meanwhile may be missing.
    """
    if not is_local(root):
        found = _with_retries(root, lambda fs, name: fs.find(name, detail=True))
        start = len(cast(Any, root).path.rstrip("/")) + 1
        return {name[start:]: Listed(about["size"], _changed(about)) for name, about in found.items()}
    files: dict[str, Listed] = {}
    folders = [""]
    while folders:
        below = folders.pop()
        try:
            with os.scandir(f"{root}/{below}") as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{below}{entry.name}/")
                    elif entry.is_file():
                        about = entry.stat(follow_symlinks=False)
                        files[below + entry.name] = Listed(about.st_size, about.st_mtime)
        except FileNotFoundError:
            continue
    return files


def _changed(about: dict[str, Any]) -> float:
    """When a file of a store was last written, from the key that each client has for it."""
    for key in ("LastModified", "updated", "mtime", "modified", "created"):
        if (value := about.get(key)) is not None:
            value = datetime.fromisoformat(value) if isinstance(value, str) else value
            return value.timestamp() if isinstance(value, datetime) else float(value)
    return 0.0


@contextmanager
def _beside(path: Path, content: bytes) -> Iterator[Path]:
    """A temporary file beside `path` with the content, synced, to be renamed or linked. It is removed on exit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield beside
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    beside.unlink(missing_ok=True)


def _with_retries(path: Path, call: Callable[[Any, str], T]) -> T:
    """Call a store's client, with retries if the store fails. Errors about the file itself are raised at once."""
    for wait in WAITS_SECONDS:
        try:
            with _as_os_errors(path):
                return call(cast(Any, path).fs, cast(Any, path).path)
        except (FileNotFoundError, FileExistsError, PermissionError):
            raise
        except OSError:
            time.sleep(wait)
    with _as_os_errors(path):
        return call(cast(Any, path).fs, cast(Any, path).path)


@contextmanager
def _as_os_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a store's client, such as missing credentials, into OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
