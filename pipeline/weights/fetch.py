"""Fetching published weights into a folder from the sources of `pipeline.weights.catalogue`.

A file is downloaded as `.<name>.part`, which the next attempt resumes. It is renamed after a check of size and digest.
Repositories of the hub are fetched through the Hugging Face cache (HF_HOME), so cached files are not fetched again.
"""

import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import UserError
from pipeline.weights.catalogue import File, Group, Hub, Role, Source

CHUNK_BYTES = 2**16  # lost at most when a connection breaks
ATTEMPTS = 3
TIMEOUT_SECONDS = 30
HOW_ELSE = "with --weights DIR or SEGMENTDREAMER_WEIGHTS"

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received and the total size, or None if it is unknown."""


class SourceError(Exception):
    """A source cannot provide the file; the message is a short reason. The next source is tried."""


class Downloader(Protocol):
    """Downloads a file of a source to `part`, resuming an existing one; raises SourceError."""

    def __call__(self, source: Source, file: File, part: Path) -> None: ...


@dataclass(frozen=True)
class Network:
    """The downloader for the hub and for HTTP. `offline` uses only the Hugging Face cache."""

    offline: bool = False
    progress: Callable[[str], contextlib.AbstractContextManager[Progress]] | None = None

    def __call__(self, source: Source, file: File, part: Path) -> None:
        if isinstance(source, Hub):
            from_hub(source, file, part, offline=self.offline)
        elif self.offline:
            raise SourceError("not contacted in offline mode")
        else:
            with (self.progress or _silent)(file.path) as progress:
                from_web(f"{source.url}/{file.path}", part, progress)


def fetch(role: Role, weights: Path, download: Downloader, log: Callable[[str], None]) -> int:
    """Fetch every file of a role that is missing or damaged; returns the number of files fetched.

    Raises UserError if no source has a file, or if there is too little free disk space.
    """
    with _locked(weights):
        files = [(group, file, role.place(weights, file)) for group in role.groups for file in group.files]
        todo = [(group, file, place) for group, file, place in files if not _is_intact(place, file)]
        if todo:
            _check_free_space(role, weights)
        for group, file, place in todo:
            _fetch_file(role, group, file, place, download, log)
        return len(todo)


def _fetch_file(
    role: Role, group: Group, file: File, place: Path, download: Downloader, log: Callable[[str], None]
) -> None:
    part = _part(place)
    reasons = []
    for source, following in zip(group.sources, [*group.sources[1:], None], strict=True):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            download(source, file, part)
            if problem := mismatch(part, file):
                part.unlink()  # resuming it would not correct it
                raise SourceError(problem)
        except SourceError as error:
            reasons.append(f"{source}: {error}")
            if following is not None:
                log(f"{role.name}/{file.path}: {source}: {error}; trying {following}")
            continue
        _finish(part, place)
        log(f"{role.name}/{file.path}: {place.stat().st_size:,} bytes from {source}")
        return
    with contextlib.suppress(OSError):  # not empty: it has other files or a partial download
        place.parent.rmdir()
    raise UserError(
        f"{file.path} of the {role.name} ({role.model}) could not be fetched ({'; '.join(reasons)}); run the same "
        f"command again to resume, or put the file at {place}."
    )


def mismatch(path: Path, file: File) -> str | None:
    """How a file differs from the published one, by its size and digest if they are known; None if it does not."""
    num_bytes = path.stat().st_size
    if num_bytes == 0 or (file.num_bytes is not None and num_bytes != file.num_bytes):
        return f"{num_bytes:,} bytes instead of {f'{file.num_bytes:,}' if file.num_bytes else 'some'}"
    if file.sha256 is not None and (found := sha256_of(path)) != file.sha256:
        return f"SHA-256 {found[:12]}… instead of {file.sha256[:12]}…"
    return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def from_web(url: str, part: Path, progress: Progress) -> None:
    """Download `url` to `part` by HTTP, resuming an existing `part` and retrying if the connection breaks.

    A file next to `part` stores the server's version of the download. If the version changes, the download restarts.
    Raises SourceError.
    """
    import requests

    for last in (*[False] * (ATTEMPTS - 1), True):
        try:
            _download_once(url, part, progress)
        except requests.RequestException as error:
            if last:
                raise SourceError(_reason(error)) from error
        else:
            _version_file(part).unlink(missing_ok=True)
            return


def _download_once(url: str, part: Path, progress: Progress) -> None:
    import requests

    version_file = _version_file(part)
    if not version_file.exists():
        part.unlink(missing_ok=True)
    received = part.stat().st_size if part.exists() else 0
    # Ranges count uncompressed bytes.
    headers = {"Accept-Encoding": "identity"}
    if received:
        headers |= {"Range": f"bytes={received}-", "If-Range": version_file.read_text()}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if received and answer.status_code == requests.codes.requested_range_not_satisfiable:
            if answer.headers.get("Content-Range") == f"bytes */{received}":
                return  # it is already complete
            part.unlink()
            raise requests.ConnectionError("the partial file is longer than the file")
        if not answer.ok:
            raise SourceError(f"HTTP status {answer.status_code}")
        is_resumed = answer.status_code == requests.codes.partial_content
        received = received if is_resumed else 0
        if version := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
            version_file.write_text(version)
        length = answer.headers.get("Content-Length")
        total = received + int(length) if length else None
        with open(part, "ab" if is_resumed else "wb") as stream:
            for chunk in answer.iter_content(CHUNK_BYTES):
                stream.write(chunk)
                received += len(chunk)
                progress(received, total)
    if total is not None and received != total:
        raise requests.ConnectionError(f"the connection was cut after {received:,} of {total:,} bytes")


def from_hub(source: Hub, file: File, part: Path, *, offline: bool) -> None:
    """Fetch a file of a hub repository to `part` through the Hugging Face cache. Raises SourceError.

    A cached file is used without a network request unless it differs from the published one.
    """
    from huggingface_hub import hf_hub_download, is_offline_mode

    def downloaded(*, local_files_only: bool, force_download: bool = False) -> Path:
        try:
            return Path(
                hf_hub_download(
                    source.repository,
                    file.path,
                    revision=source.revision,
                    local_files_only=local_files_only,
                    force_download=force_download,
                )
            ).resolve()
        except Exception as error:  # errors of the hub, of its HTTP library and of the file system
            raise SourceError(_hub_reason(error, offline=local_files_only)) from error

    offline = offline or is_offline_mode()
    try:
        cached = downloaded(local_files_only=True)
        is_damaged = mismatch(cached, file) is not None
    except SourceError:
        if offline:
            raise
        cached, is_damaged = None, False
    if cached is None or (is_damaged and not offline):
        if not _hub_is_reachable():  # the library would retry for half a minute at every mirror
            raise SourceError("no connection")
        cached = downloaded(local_files_only=False, force_download=is_damaged)
    part.unlink(missing_ok=True)
    try:
        os.link(cached, part)
    except OSError:  # on another file system
        shutil.copyfile(cached, part)


def _is_intact(place: Path, file: File) -> bool:
    return place.is_file() and mismatch(place, file) is None


def _finish(part: Path, place: Path) -> None:
    with open(part, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(part, place)


def _part(place: Path) -> Path:
    return place.with_name(f".{place.name}.part")


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


@contextlib.contextmanager
def _locked(weights: Path) -> Iterator[None]:
    """Lock the folder, so that no two commands write to the same file. The kernel releases the lock at process exit."""
    import fcntl

    try:
        weights.mkdir(parents=True, exist_ok=True)
        file = open(weights / ".lock", "a")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"{weights} cannot be written ({error.strerror}); choose another folder {HOW_ELSE}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another process is downloading to {weights}; wait for it to finish.") from error
        yield


def _check_free_space(role: Role, weights: Path) -> None:
    places = [role.place(weights, file) for file in role.files]
    present = [path for path in [*places, *map(_part, places)] if path.exists()]
    needed = role.about_bytes - sum(path.stat().st_size for path in present)
    free = shutil.disk_usage(weights).free
    if free < needed:
        raise UserError(
            f"{weights} has {free / 1e9:.1f} GB free and the {role.name} needs {needed / 1e9:.1f} GB; free disk space "
            f"or choose another folder {HOW_ELSE}."
        )


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, requests.Timeout):
        return f"no response within {TIMEOUT_SECONDS} s"
    if isinstance(error, requests.ConnectionError) and "ConnectionPool(" in str(error):
        return "no connection"
    return " ".join(str(error).split())[:120]


@functools.cache
def _hub_is_reachable() -> bool:
    import requests
    from huggingface_hub import constants

    try:
        requests.head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except (requests.ConnectionError, requests.Timeout):
        return False
    return True


def _hub_reason(error: Exception, *, offline: bool) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "requires a login (hf auth login)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the repository does not exist"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the revision does not exist"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository has no such file"
    if offline:
        return "not in the Hugging Face cache; no server is contacted in offline mode"
    if isinstance(error, errors.LocalEntryNotFoundError | OSError):
        return "no connection"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


@contextlib.contextmanager
def _silent(_name: str) -> Iterator[Progress]:
    yield lambda received, total: None
