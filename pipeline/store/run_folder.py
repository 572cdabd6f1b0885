"""The run folder on a disk or in an object store. Only this module writes to it, and every write is atomic.

leaderboard.csv  per_object.csv  columns.json  run.json  report.md  contact.png  (differences.csv  grid.csv  grid.png)
blank.json       distances.json
items/<job>/     asset.ply  turntable.mp4  contact.png  generation.json  evaluation.npz  record.json  (checkpoint)
"""

import errno
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plan.jobs import Job
from pipeline.store import files
from pipeline.store.lease import Lease, Report, held

ASSET, TURNTABLE, CONTACT = "asset.ply", "turntable.mp4", "contact.png"
GENERATION, EVALUATION, RECORD, CHECKPOINT = "generation.json", "evaluation.npz", "record.json", "checkpoint"
SNAPSHOT = "now.splat"  # in an attempt's folder: the current asset, for the live view
GRID, DIFFERENCES = "grid.png", "differences.csv"  # only if the run has several methods
BLANK, DISTANCES = "blank.json", "distances.json"  # scores of a white image; cached Fréchet and kernel distances
LEADERBOARD = "leaderboard.csv"
VERDICT, TREND = "verdict.json", "trend.png"  # of a nightly run
LOCK = ".lock"
NO_LOCKS = errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK  # errors of shared file systems without locks


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
        self.write(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def read_json(self, path: Path) -> Any:
        """The value in a JSON file of this program; None if the file is missing. Raises UserError if it is damaged."""
        try:
            return json.loads(files.read(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete it to have its content generated again.") from error

    def record(self, job_id: str) -> dict[str, Any] | None:
        """The record of a job; None if it has not finished."""
        return self.read_json(self.item(job_id) / RECORD)

    def write_record(self, record: dict[str, Any]) -> None:
        self.write_json(self.item(record["job_id"]) / RECORD, record)

    def records(self, job_ids: Iterable[str]) -> list[dict[str, Any]]:
        """The records of the jobs that have one, in the order of `job_ids`."""
        return [record for job_id in job_ids if (record := self.record(job_id)) is not None]

    def unfinished(self, jobs: Sequence[Job], evaluation: str | None) -> list[Job]:
        """Jobs not scored with the digest `evaluation`, or not generated if it is None. Failed jobs are included."""

        def finished(job: Job) -> bool:
            if evaluation is None:
                return (self.item(job.id) / GENERATION).exists()
            record = self.record(job.id)
            return record is not None and record["status"] == "done" and record["evaluation"] == evaluation

        return [job for job in jobs if not finished(job)]

    def prepare(self, needed_bytes: int) -> None:
        """Create the folder; check that it is writable and has enough free disk space. Raises UserError."""
        is_local = files.is_local(self.root)
        try:
            self.write(self.root / ".writable", b"")
            files.remove(self.root / ".writable")
            free_bytes = shutil.disk_usage(self.root).free if is_local else needed_bytes
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise UserError(
                    f"{self.root} is on a full disk; free some space or choose another {self.option}."
                ) from error
            reason = error.strerror or str(error)
            raise UserError(f"{self.root} cannot be written ({reason}); choose another {self.option}.") from error
        if free_bytes < needed_bytes:
            raise UserError(
                f"{self.root} has {_mib(free_bytes)} free and this run may need {_mib(needed_bytes)}; free some space "
                f"or choose another {self.option}."
            )
        if not is_local:
            return
        for beside in [*self.root.glob(".*.new"), *self.root.glob("*/*/.*.new")]:  # left by a killed process
            beside.unlink(missing_ok=True)

    @contextmanager
    def locked(self, report: Report = lambda line: None) -> Iterator["Store"]:
        """Keep other commands out of this folder. The yielded store writes only while the write lease is held.

        On one machine the kernel's file lock excludes other commands at once, and ends with its process. Between hosts
        and on storage without such locks, the write lease excludes them. Raises UserError.
        """
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


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError):
        return "another command"


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
