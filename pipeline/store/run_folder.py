"""The run folder, on a disk or in an object store: the only code that writes. A file is there whole or as it was.

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
from pipeline.store.lease import Lease, Say, held

ASSET, TURNTABLE, CONTACT = "asset.ply", "turntable.mp4", "contact.png"
GENERATION, EVALUATION, RECORD, CHECKPOINT = "generation.json", "evaluation.npz", "record.json", "checkpoint"
SNAPSHOT = "now.splat"  # in an attempt's folder: how far its asset is, for whoever looks on
GRID, DIFFERENCES = "grid.png", "differences.csv"  # where there are several methods
BLANK, DISTANCES = "blank.json", "distances.json"  # scores of a white picture; distances that were computed before
BOARD = "leaderboard.csv"
VERDICT, TREND = "verdict.json", "trend.png"  # of a night
LOCK = ".lock"
NO_LOCKS = errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK  # of file systems that several hosts share


@dataclass(frozen=True)
class Store:
    """A run folder. Workers get one, too: it is no more than a path, and the option that chooses another."""

    root: Path
    option: str = "--out"
    lease: Lease | None = None  # of the command; no worker has it

    def absolute(self) -> "Store":
        """The same folder, for a process that may work in another one."""
        return Store(self.root.resolve(), self.option)

    def item(self, job_id: str) -> Path:
        return self.root / "items" / job_id

    def write(self, path: Path, content: bytes) -> None:
        """Put `content` at `path` at once, or leave what is there. Raises OSError, LeaseError if it is another's."""
        if self.lease is not None:
            self.lease.check()
        files.put(path, content)

    def share(self, source: Path, path: Path) -> None:
        """Put a file at `path` that will not be changed in place: as a link, or else as a copy. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if not files.is_local(source):
                raise OSError("a store has no links")
            files.copy(source, path)
        except OSError:  # another file system, or one without links
            self.write(path, files.read(source))

    def write_json(self, path: Path, value: Any) -> None:
        self.write(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def read_json(self, path: Path) -> Any:
        """The value in a file that this program wrote; None where there is none."""
        try:
            return json.loads(files.read(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); delete it, and what it belongs to is made again.") from error

    def record(self, job_id: str) -> dict[str, Any] | None:
        """How a job ended, if it has."""
        return self.read_json(self.item(job_id) / RECORD)

    def write_record(self, record: dict[str, Any]) -> None:
        self.write_json(self.item(record["job_id"]) / RECORD, record)

    def records(self, job_ids: Iterable[str]) -> list[dict[str, Any]]:
        """The records of those jobs that have one, in their order."""
        return [record for job_id in job_ids if (record := self.record(job_id)) is not None]

    def unfinished(self, jobs: Sequence[Job], evaluation: str | None) -> list[Job]:
        """Jobs that have not been judged by `evaluation` (or, if that is None, made). A failed one may try again."""

        def finished(job: Job) -> bool:
            if evaluation is None:
                return (self.item(job.id) / GENERATION).exists()
            record = self.record(job.id)
            return record is not None and record["status"] == "done" and record["evaluation"] == evaluation

        return [job for job in jobs if not finished(job)]

    def prepare(self, needed_bytes: int) -> None:
        """Make the folder and see that it can be written and has room. Raises UserError."""
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
        for beside in [*self.root.glob(".*.new"), *self.root.glob("*/*/.*.new")]:  # of a process that was killed
            beside.unlink(missing_ok=True)

    @contextmanager
    def locked(self, say: Say = lambda line: None) -> Iterator["Store"]:
        """Keep other commands out of this folder; the store that is yielded writes only while it is ours.

        On this machine the kernel's lock tells at once, and ends with the process; between hosts, and where there
        are no such locks, the lease does. Raises UserError.
        """
        with self._flocked() as alone, held(self.root, self.option, say, alone=alone) as ours:
            yield replace(self, lease=ours)

    @contextmanager
    def _flocked(self) -> Iterator[bool]:
        """Whether no other process of this machine can be at work here. Raises UserError if one is."""
        if not files.is_local(self.root):
            yield False
            return
        import fcntl  # not on Windows, where the rest of the program can still be imported

        with open(self.root / LOCK, "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise UserError(
                    f"{self.root} is in use by {_owner(file.read())}; wait for it to end, or choose another "
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
