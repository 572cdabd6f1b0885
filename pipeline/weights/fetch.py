"""Published weights into a folder, from the sources of `pipeline.weights.catalogue`: resumed, checked, then renamed.

A file has its name only once it is whole and right; until then it is `.<name>.part` beside it, which the next try goes
on with. A repository of the hub goes through the Hugging Face cache (HF_HOME), so what is there is not fetched again.
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

CHUNK_BYTES = 2**16  # the most that a cut connection costs
TRIES = 3
SECONDS_WITHOUT_ANSWER = 30
HOW_ELSE = "by --weights DIR or SEGMENTDREAMER_WEIGHTS"

Progress = Callable[[int, int | None], None]
"""Told how many bytes of a file are there, of how many if that is known."""


class SourceError(Exception):
    """This source does not have the file, or not now; the reason in a few words. The next one may."""


class Downloader(Protocol):
    """Brings a file of a source to `part`, going on with what is there; raises SourceError."""

    def __call__(self, source: Source, file: File, part: Path) -> None: ...


@dataclass(frozen=True)
class Network:
    """The real downloader. `offline` asks nothing of the network: what the Hugging Face cache has is all there is."""

    offline: bool = False
    progress: Callable[[str], contextlib.AbstractContextManager[Progress]] | None = None

    def __call__(self, source: Source, file: File, part: Path) -> None:
        if isinstance(source, Hub):
            from_hub(source, file, part, offline=self.offline)
        elif self.offline:
            raise SourceError("not asked, because of offline mode")
        else:
            with (self.progress or _silent)(file.path) as progress:
                from_web(f"{source.url}/{file.path}", part, progress)


def fetch(role: Role, weights: Path, download: Downloader, say: Callable[[str], None]) -> int:
    """Bring every file of a role that is not there and right; how many were brought.

    Raises UserError where no source has one, or where there is no room.
    """
    with _alone(weights):
        wanted = [(group, file, role.place(weights, file)) for group in role.groups for file in group.files]
        todo = [(group, file, place) for group, file, place in wanted if not _is_right(place, file)]
        if todo:
            _check_room(role, weights)
        for group, file, place in todo:
            _fetch_file(role, group, file, place, download, say)
        return len(todo)


def _fetch_file(
    role: Role, group: Group, file: File, place: Path, download: Downloader, say: Callable[[str], None]
) -> None:
    part = _part(place)
    reasons = []
    for source, following in zip(group.sources, [*group.sources[1:], None], strict=True):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            download(source, file, part)
            if problem := wrong(part, file):
                part.unlink()  # going on with it would never make it right
                raise SourceError(problem)
        except SourceError as error:
            reasons.append(f"{source}: {error}")
            if following is not None:
                say(f"{role.name}/{file.path}: {source}: {error}; trying {following}")
            continue
        _finish(part, place)
        say(f"{role.name}/{file.path}: {place.stat().st_size:,} bytes from {source}")
        return
    with contextlib.suppress(OSError):  # not empty: something of it came
        place.parent.rmdir()
    raise UserError(
        f"{file.path} of the {role.name} ({role.model}) could not be fetched ({'; '.join(reasons)}); start the same "
        f"command again, which goes on where it stopped, or put the file at {place}."
    )


def wrong(path: Path, file: File) -> str | None:
    """Why a file is not the published one, as far as that is known; None if nothing speaks against it."""
    num_bytes = path.stat().st_size
    if num_bytes == 0 or (file.num_bytes is not None and num_bytes != file.num_bytes):
        return f"{num_bytes:,} bytes instead of {f'{file.num_bytes:,}' if file.num_bytes else 'some'}"
    if file.sha256 is not None and (found := sha256_of(path)) != file.sha256:
        return f"SHA-256 {found[:12]}… instead of {file.sha256[:12]}…"
    return None


def sha256_of(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def from_web(url: str, part: Path, progress: Progress) -> None:
    """Bring `url` to `part` by HTTP, going on with what is there; a cut connection is tried again. Raises SourceError.

    Beside `part` lies the server's mark of the version that it began with: of another one nothing is kept.
    """
    import requests

    for last in (*[False] * (TRIES - 1), True):
        try:
            _one_try(url, part, progress)
        except requests.RequestException as error:
            if last:
                raise SourceError(_reason(error)) from error
        else:
            _mark(part).unlink(missing_ok=True)
            return


def _one_try(url: str, part: Path, progress: Progress) -> None:
    import requests

    mark = _mark(part)
    if not mark.exists():
        part.unlink(missing_ok=True)
    there = part.stat().st_size if part.exists() else 0
    # A compressed answer would have other bytes than those that a range counts.
    headers = {"Accept-Encoding": "identity"}
    if there:
        headers |= {"Range": f"bytes={there}-", "If-Range": mark.read_text()}
    with requests.get(url, headers=headers, stream=True, timeout=SECONDS_WITHOUT_ANSWER) as answer:
        if there and answer.status_code == requests.codes.requested_range_not_satisfiable:
            if answer.headers.get("Content-Range") == f"bytes */{there}":
                return  # all of it was there
            part.unlink()
            raise requests.ConnectionError("what was there is longer than the file")
        if not answer.ok:
            raise SourceError(f"HTTP status {answer.status_code}")
        goes_on = answer.status_code == requests.codes.partial_content
        there = there if goes_on else 0
        if version := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
            mark.write_text(version)
        length = answer.headers.get("Content-Length")
        whole = there + int(length) if length else None
        with open(part, "ab" if goes_on else "wb") as stream:
            for chunk in answer.iter_content(CHUNK_BYTES):
                stream.write(chunk)
                there += len(chunk)
                progress(there, whole)
    if whole is not None and there != whole:
        raise requests.ConnectionError(f"cut after {there:,} of {whole:,} bytes")


def from_hub(source: Hub, file: File, part: Path, *, offline: bool) -> None:
    """Bring a file of a hub's repository to `part` through the Hugging Face cache. Raises SourceError.

    What the cache has is taken without asking the network, unless it is not what was published.
    """
    from huggingface_hub import hf_hub_download, is_offline_mode

    def brought(*, local_files_only: bool, force_download: bool = False) -> Path:
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
        except Exception as error:  # the hub raises its own, those of its HTTP library and of the file system
            raise SourceError(_hub_reason(error, offline=local_files_only)) from error

    offline = offline or is_offline_mode()
    try:
        cached = brought(local_files_only=True)
        is_damaged = wrong(cached, file) is not None
    except SourceError:
        if offline:
            raise
        cached, is_damaged = None, False
    if cached is None or (is_damaged and not offline):
        if not _hub_answers():  # the library itself would try for half a minute, at every mirror
            raise SourceError("no connection")
        cached = brought(local_files_only=False, force_download=is_damaged)
    part.unlink(missing_ok=True)
    try:
        os.link(cached, part)
    except OSError:  # another file system
        shutil.copyfile(cached, part)


def _is_right(place: Path, file: File) -> bool:
    return place.is_file() and wrong(place, file) is None


def _finish(part: Path, place: Path) -> None:
    with open(part, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(part, place)


def _part(place: Path) -> Path:
    return place.with_name(f".{place.name}.part")


def _mark(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


@contextlib.contextmanager
def _alone(weights: Path) -> Iterator[None]:
    """Two commands that went on with one file would mix their bytes. The kernel frees the lock with the process."""
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
            raise UserError(f"Another command is fetching into {weights}; wait for it to end.") from error
        yield


def _check_room(role: Role, weights: Path) -> None:
    places = [role.place(weights, file) for file in role.files]
    there = [path for path in [*places, *map(_part, places)] if path.exists()]
    needed = role.about_bytes - sum(path.stat().st_size for path in there)
    free = shutil.disk_usage(weights).free
    if free < needed:
        raise UserError(
            f"{weights} has {free / 1e9:.1f} GB free and the {role.name} needs {needed / 1e9:.1f} GB; free some space "
            f"or choose another folder {HOW_ELSE}."
        )


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, requests.Timeout):
        return f"no answer in {SECONDS_WITHOUT_ANSWER} s"
    if isinstance(error, requests.ConnectionError) and "ConnectionPool(" in str(error):
        return "no connection"
    return " ".join(str(error).split())[:120]


@functools.cache
def _hub_answers() -> bool:
    import requests
    from huggingface_hub import constants

    try:
        requests.head(constants.ENDPOINT, timeout=SECONDS_WITHOUT_ANSWER)
    except (requests.ConnectionError, requests.Timeout):
        return False
    return True


def _hub_reason(error: Exception, *, offline: bool) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "asks for a login (hf auth login)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository any more"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision any more"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository has no such file"
    if offline:
        return "not in the Hugging Face cache, and nothing else was asked because of offline mode"
    if isinstance(error, errors.LocalEntryNotFoundError | OSError):
        return "no connection"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


@contextlib.contextmanager
def _silent(_name: str) -> Iterator[Progress]:
    yield lambda there, whole: None
