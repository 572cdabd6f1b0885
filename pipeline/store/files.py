"""Files of a folder or of an object store (`s3://bucket/run`), by the same words. The only fsspec and upath.

A store's path is a `UPath`: it has `/`, `exists`, `read_bytes`, `glob` and `stat` as `Path` does, so that readers need
not know which they have. Writers use the functions here. Object stores have no rename: their PUT is whole
or not at all.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from pipeline.errors import UserError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # of this package, by the beginning of the URL
WRITTEN_IN_PIECES = {"ftp", "sftp", "ssh", "smb", "hdfs", "webhdfs", "http", "https"}  # a reader could see half a file
WAITS_SECONDS = 0.5, 1.0, 2.0, 4.0  # between attempts at a store that stutters; a folder's errors are not of that kind

T = TypeVar("T")


def place(text: str | Path) -> Path:
    """The path that an option means: of a folder, or of an object store. Raises UserError."""
    if not isinstance(text, str):
        return text
    if "://" not in text:
        return Path(text)
    protocol, _, rest = text.partition("://")
    if protocol in ("file", "local"):
        return Path("/" + rest.lstrip("/"))
    if protocol in WRITTEN_IN_PIECES:
        raise UserError(
            f"{text} is no place for runs, as {protocol} writes files in pieces; give a folder or s3://, gs://."
        )
    from fsspec import get_filesystem_class
    from upath import UPath

    try:
        get_filesystem_class(protocol)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        what = f"pip install 'segmentdreamer[{extra}]'" if extra else "install what fsspec asks for"
        raise UserError(f"{text} needs a package that is not installed ({error}); {what}.") from error
    except ValueError as error:
        raise UserError(
            f"{text} begins with {protocol}://, which fsspec does not know; give s3:// or gs://."
        ) from error
    return cast(Path, UPath(text, use_listings_cache=False))  # others write there, too


def is_local(path: Path) -> bool:
    return not hasattr(path, "fs")


def put(path: Path, content: bytes) -> None:
    """Write a file at once, or leave what is there. Raises OSError."""
    if not is_local(path):
        _patiently(path, lambda fs, name: fs.pipe_file(name, content))
        return
    with _beside(path, content) as beside:
        os.replace(beside, path)


def create(path: Path, content: bytes) -> bool:
    """Write a file that nobody has written yet: of several who try at once, True is given to one. Raises OSError."""
    try:
        if is_local(path):
            with _beside(path, content) as beside:
                os.link(beside, path)
        else:  # tried once: after an error nobody knows whether it was written, and a second try would find it there
            with _as_os_errors(path):
                cast(Any, path).fs.pipe_file(cast(Any, path).path, content, mode="create")
    except FileExistsError:
        return False
    return True


def read(path: Path) -> bytes:
    """A whole file. Raises FileNotFoundError, OSError."""
    return path.read_bytes() if is_local(path) else _patiently(path, lambda fs, name: fs.cat_file(name))


def head(path: Path, count: int) -> bytes:
    """The first bytes of a file. Raises FileNotFoundError, OSError."""
    if is_local(path):
        with open(path, "rb") as file:
            return file.read(count)
    return _patiently(path, lambda fs, name: fs.cat_file(name, start=0, end=count))


def move(source: Path, target: Path) -> None:
    """Whoever else moves the same file may have been faster. Raises OSError."""
    try:
        if is_local(source):
            os.replace(source, target)
        else:
            _patiently(source, lambda fs, name: fs.mv(name, cast(Any, target).path))
    except FileNotFoundError:
        if not target.exists():
            raise


def copy(source: Path, target: Path) -> None:
    """Also under another name, in place of what had it. Raises FileNotFoundError, OSError."""
    if not is_local(source):
        _patiently(source, lambda fs, name: fs.cp_file(name, cast(Any, target).path))
        return
    beside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    os.link(source, beside)
    os.replace(beside, target)
    beside.unlink(missing_ok=True)  # a rename between two names of one file does nothing


def remove(path: Path) -> None:
    """Take a file away, if it is there. Raises OSError."""
    try:
        if is_local(path):
            path.unlink()
        else:
            _patiently(path, lambda fs, name: fs.rm_file(name))
    except FileNotFoundError:
        pass


def sizes(root: Path) -> list[int]:
    """Bytes of every file below. Raises OSError."""
    if is_local(root):
        return [path.lstat().st_size for path in root.rglob("*") if path.is_file()]
    found = _patiently(root, lambda fs, name: fs.find(name, detail=True))
    return [about["size"] for about in found.values()]


@contextmanager
def _beside(path: Path, content: bytes) -> Iterator[Path]:
    """The content, synced, in a file of its own beside `path`, to be renamed or linked; it does not stay."""
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


def _patiently(path: Path, call: Callable[[Any, str], T]) -> T:
    """Do something to a file of a store; again after some time if the store, and not the file, is what is wrong."""
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
    """Clients of stores have errors of their own, as for credentials that are missing."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
