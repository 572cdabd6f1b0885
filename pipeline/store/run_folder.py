"""The run folder on a disk or in an object store. Only this module writes to it, and every write is atomic.

leaderboard.csv  per_object.csv  columns.json  run.json  report.md  contact.png  (differences.csv  grid.csv  grid.png)
(curves.csv)
blank.json       distances.json
items/<job>/     asset.ply  turntable.mp4  contact.png  generation.json  evaluation.npz  record.json  (checkpoint)
                 of imported assets mesh.npz or views.npz instead of asset.ply, if they are no splats
                 with --score-at asset-<iteration>.ply, the asset after that iteration
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from pipeline.errors import UserError, shortened
from pipeline.store import files
from pipeline.store.lease import Lease, Report, held
from pipeline.store.records import FACTS_FILE, RECORD_FILE, AssetFacts, Stored, StoredRecord, first_error
from sctd.errors import one_line

if TYPE_CHECKING:
    import numpy as np

ASSET, NERF, TURNTABLE, CONTACT = "asset.ply", "asset.safetensors", "turntable.mp4", "contact.png"
MESH, VIEWS = "mesh.npz", "views.npz"  # imported meshes; imported views, and those of custom representations
TENSORS = "tensors.safetensors"  # of a custom representation
GENERATION, EVALUATION, RECORD, CHECKPOINT = "generation.json", "evaluation.npz", "record.json", "checkpoint"
SNAPSHOT = "now.splat"  # in an attempt's folder: the current asset, for the live view
GRID, DIFFERENCES = "grid.png", "differences.csv"  # only if the run has several methods
BLANK, DISTANCES = "blank.json", "distances.json"  # scores of a white image; cached Fréchet and kernel distances
LEADERBOARD = "leaderboard.csv"
CURVES = "curves.csv"  # only if assets are scored after shares of their iterations
VERDICT, TREND = "verdict.json", "trend.png"  # of a nightly run
LOCK = ".lock"
NO_LOCKS = errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK  # errors of shared file systems without locks

LARGE = re.compile(rb"[eE]\+?\d{3,}\s*[],}]")  # the exponent of a number that may be infinite

T = TypeVar("T")
_MISSING = object()


@dataclass(frozen=True)
class Store:
    """A run folder: its path, and the option that chose it, for messages. It can be sent to workers."""

    root: Path
    option: str = "--out"
    lease: Lease | None = None  # only in the command's process, never in workers

    def absolute(self) -> "Store":
        """The same folder by its absolute path, for a process with another working directory."""
        return Store(self.root.resolve(), self.option)

    def item(self, job_id: str) -> Path:
        return self.root / "items" / job_id

    def write(self, path: Path, content: bytes) -> None:
        """Write a file atomically. Raises OSError, and LeaseError if another command holds the write lease."""
        if self.lease is not None:
            self.lease.check()
        files.put(path, content)

    def share(self, source: Path, path: Path) -> None:
        """Hard-link or else copy a file to `path`. The file must never be changed in place. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not files.is_local(source):
                raise OSError("object stores have no links")
            files.copy(source, path)
        except OSError:  # another file system, or one without links
            self.write(path, files.read(source))

    def write_json(self, path: Path, value: Any) -> None:
        """Write a typed or plain JSON value."""
        plain = value.to_json() if isinstance(value, Stored) else value
        self.write(path, (json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def read_json(self, path: Path) -> Any:
        """The object in a JSON file of this program; None if the file is missing. Raises UserError if it is damaged."""
        found = self._load(path)
        if found is not _MISSING and not isinstance(found, dict):
            raise damaged(path, "it contains no JSON object")
        return None if found is _MISSING else found

    def read_typed(self, path: Path, form: TypeAdapter[T]) -> T | None:
        """Like `read_json`, as a typed value. The error names the first missing or invalid field."""
        return None if (value := self._load(path)) is _MISSING else _typed(path, value, form)

    def _load(self, path: Path) -> Any:
        try:
            content = files.read(path)
        except (FileNotFoundError, NotADirectoryError):
            return _MISSING
        return _parsed(path, content)

    def read_arrays(
        self, path: Path, sha256: str | None = None, names: Collection[str] | None = None
    ) -> dict[str, "np.ndarray"]:
        """The arrays of an `.npz` file of this program. Raises UserError if it is missing, damaged or another file.

        `sha256` is the digest of the file, if it is known; `names` are those of the arrays to read, all by default.
        """
        from evaluation.arrays import ArraysError, from_npz

        try:
            content = files.read(path)
            if sha256 not in (None, hashlib.sha256(content).hexdigest()):
                raise damaged(path, "it is not the file that was scored")
            return from_npz(content, names)
        except FileNotFoundError as error:
            raise damaged(path, "it is missing") from error
        except ArraysError as error:
            raise damaged(path, str(error)) from error

    def record(self, job_id: str) -> StoredRecord | None:
        """The record of a job; None if it has not finished."""
        return self.read_typed(self.item(job_id) / RECORD, RECORD_FILE)

    def records(self, job_ids: Sequence[str]) -> Iterator[StoredRecord | None]:
        """The record of each job, in order; None of a job that has not finished. Raises UserError."""
        begun = self.begun()
        ids = [job_id for job_id in job_ids if job_id in begun]
        items = self.root / "items"
        paths = [items / f"{job_id}/{RECORD}" for job_id in ids]
        contents = files.read_each(paths)
        found = {
            job_id: None if content is None else _typed(path, _parsed(path, content), RECORD_FILE)
            for job_id, path, content in zip(ids, paths, contents, strict=True)
        }
        return map(found.get, job_ids)

    def write_record(self, record: StoredRecord) -> None:
        self.write_json(self.item(record.job_id) / RECORD, record)

    def generation(self, job_id: str) -> AssetFacts | None:
        """The facts of a job's asset; None if it is not generated."""
        return self.read_typed(self.item(job_id) / GENERATION, FACTS_FILE)

    def begun(self) -> set[str]:
        """The ids of the jobs that have a folder."""
        return files.names(self.root / "items")

    def generated(self, job_ids: Iterable[str]) -> set[str]:
        """Those of the jobs that have an asset. Only folders that exist are looked into."""
        begun = self.begun()
        return {job_id for job_id in job_ids if job_id in begun and (self.item(job_id) / GENERATION).exists()}

    def create(self) -> None:
        """Create the folder. Raises UserError if it cannot be written."""
        try:
            self.write(self.root / ".writable", b"")
            files.remove(self.root / ".writable")
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise UserError(
                    f"{self.root} is on a full disk; free some space or choose another {self.option}."
                ) from error
            reason = error.strerror or str(error)
            raise UserError(f"{self.root} cannot be written ({reason}); choose another {self.option}.") from error

    def prepare(self, needed_bytes: int) -> None:
        """Create the folder, check its free disk space and remove what killed processes left. Raises UserError."""
        self.create()
        if not files.is_local(self.root):
            return
        if (free_bytes := shutil.disk_usage(self.root).free) < needed_bytes:
            raise UserError(
                f"{self.root} has {_mib(free_bytes)} free and this run may need {_mib(needed_bytes)}; free some space "
                f"or choose another {self.option}."
            )
        for beside in [*self.root.glob(".*.new"), *self.root.glob("*/*/.*.new")]:
            beside.unlink(missing_ok=True)

    @contextmanager
    def locked(self, report: Report = lambda line: None) -> Iterator["Store"]:
        """Create the folder and keep other commands out. The yielded store writes only while the write lease is held.

        On one machine the kernel's file lock excludes other commands at once, and ends with its process. Between hosts
        and on storage without such locks, the write lease excludes them. Raises UserError.
        """
        self.create()
        with self._flocked() as alone, held(self.root, self.option, report, alone=alone) as ours:
            yield replace(self, lease=ours)

    @contextmanager
    def _flocked(self) -> Iterator[bool]:
        """Yield whether no other process of this machine can use the folder. Raises UserError if one does."""
        if not files.is_local(self.root):
            yield False
            return
        import fcntl  # missing on Windows, where the rest of the program can still be imported

        with open(self.root / LOCK, "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise UserError(
                    f"{self.root} is in use by {_owner(file.read())}; wait for it to finish, or choose another "
                    f"{self.option}."
                ) from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                yield False
                return
            file.truncate(0)
            json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
            file.flush()
            try:
                yield True
            finally:
                file.truncate(0)


def _parsed(path: Path, content: bytes) -> Any:
    """The JSON value in a file. Raises UserError."""
    has_long_word = max(map(len, content.split()), default=0) > 300  # perhaps a number that is infinite
    if not (has_long_word or b"\\u" in content or LARGE.search(content)):
        with suppress(ValueError):
            return from_json(content, allow_inf_nan=False)  # like below, and four times as fast
    try:
        found = json.loads(content, parse_float=_finite, parse_constant=_finite)
        if b"\\u" in content:
            json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair cannot be written again
        return found
    except (ValueError, RecursionError) as error:
        raise damaged(path, one_line(error)) from error


def _typed(path: Path, value: Any, form: TypeAdapter[T]) -> T:
    try:
        return form.validate_python(value)
    except ValidationError as error:
        raise damaged(path, first_error(error)) from error


def _finite(text: str) -> float:
    """Raises ValueError for NaN and infinity, which are never written."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def damaged(path: Path, reason: str) -> UserError:
    """The error about a file of the run folder with other content than this program writes."""
    return UserError(f"{path} is damaged ({shortened(reason, 200)}); delete it to have its content generated again.")


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another command"


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
