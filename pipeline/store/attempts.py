"""One worker's try at a job, fenced: who was given up for dead and still writes can spoil nothing of a later try.

items/<job>/  attempt.json        the newest try; an older one that looks here stops
              checkpoint, checkpoint-before      the two newest states
              attempt-<n>-<token>/               what a try made, to be moved where it belongs when it is accepted
              accepted                           whose: made by the first only, gone once all is moved

After `generation.json`, which comes last, none of these is left.
"""

import hashlib
import json
import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.store import files
from pipeline.store.run_folder import ASSET, CHECKPOINT, CONTACT, GENERATION, TURNTABLE, Store

ATTEMPT, JUDGING, ACCEPTED, BEFORE = "attempt.json", "judging.json", "accepted", "checkpoint-before"
BREAKDOWN = "breakdown.json"  # distillation ended in NaN: which random numbers the next try draws
MADE = ASSET, TURNTABLE, CONTACT, GENERATION  # in this order
HEADER_BYTES = 4096


class SupersededError(RuntimeError):
    """Another worker was given the job meanwhile, or it is done."""


@dataclass(frozen=True)
class Checkpoint:
    """The state after some iterations, their seconds, and their logarithms of the loss together.

    A line of JSON, then the state's bytes.
    """

    iteration: int
    seconds: float
    state: bytes
    log_loss: float = 0.0

    def to_bytes(self) -> bytes:
        numbers = {"iteration": self.iteration, "seconds": self.seconds, "log_loss": self.log_loss}
        header = numbers | {"sha256": _sha256(self.state)}
        return json.dumps(header).encode() + b"\n" + self.state

    @classmethod
    def from_bytes(cls, content: bytes) -> "Checkpoint":
        """Raises ValueError for bytes that were not written so."""
        header, _, state = content.partition(b"\n")
        about = json.loads(header)
        if not isinstance(about, dict) or about.pop("sha256", None) != _sha256(state):
            raise ValueError("its digest is not that of its state")
        return cls(**about, state=state)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """The checkpoint in a file; the beginning where there is none that can be read."""
        try:
            return cls.from_bytes(files.read(path))
        except (FileNotFoundError, ValueError, TypeError):
            return NO_CHECKPOINT


NO_CHECKPOINT = Checkpoint(0, 0.0, b"")


@dataclass(frozen=True)
class Fence:
    """The right to write in an item's folder, until another takes it."""

    store: Store
    job_id: str
    file: str
    number: int
    token: str

    @classmethod
    def claim(cls, store: Store, job_id: str, file: str) -> "Fence":
        """Take it, whoever had it."""
        before = store.read_json(store.item(job_id) / file) or {}
        fence = cls(store, job_id, file, before.get("number", 0) + 1, secrets.token_hex(4))
        about = {"number": fence.number, "token": fence.token, "host": socket.gethostname(), "pid": os.getpid()}
        store.write_json(fence.folder / file, about | {"started_utc": datetime.now(UTC).isoformat(timespec="seconds")})
        return fence

    @property
    def folder(self) -> Path:
        return self.store.item(self.job_id)

    def check(self) -> None:
        """Raise SupersededError if another has it."""
        now = self.store.read_json(self.folder / self.file)
        if now is None or now["token"] != self.token:
            later = "the job is done" if now is None else f"attempt {now['number']} has begun"
            raise SupersededError(f"attempt {self.number} at {self.job_id} was given up: {later}")

    def write(self, path: Path, content: bytes) -> None:
        self.check()
        self.store.write(path, content)

    def release(self) -> None:
        files.remove(self.folder / self.file)


@dataclass(frozen=True)
class Attempt:
    """What a generator has of a job: its checkpoints, and a place of its own for what it makes."""

    fence: Fence

    @classmethod
    def begin(cls, store: Store, job_id: str) -> "Attempt":
        """A new one, which ends the rights of all before it."""
        return cls(Fence.claim(store, job_id, ATTEMPT))

    @property
    def name(self) -> str:
        return f"attempt-{self.fence.number}-{self.fence.token}"

    def save(self, checkpoint: Checkpoint) -> None:
        """Beside the last one, which is kept. Raises SupersededError."""
        self.fence.check()
        folder = self.fence.folder
        if (folder / CHECKPOINT).exists():
            files.copy(folder / CHECKPOINT, folder / BEFORE)
        self.store.write(folder / CHECKPOINT, checkpoint.to_bytes())

    @property
    def store(self) -> Store:
        return self.fence.store

    @property
    def sub_seed(self) -> int:
        """How often distillation of this job has broken down: each time other random numbers are drawn."""
        return (self.store.read_json(self.fence.folder / BREAKDOWN) or {}).get("sub_seed", 0)

    def broke_down(self, error: str, iteration: int, going_on: Checkpoint | None) -> None:
        """Have the next try begin with `going_on` and draw other random numbers. Raises SupersededError."""
        self.fence.check()
        folder, sub_seed = self.fence.folder, self.sub_seed + 1
        files.remove(folder / BEFORE)
        if going_on is None:
            files.remove(folder / CHECKPOINT)
        else:
            self.store.write(folder / CHECKPOINT, going_on.to_bytes())
        self.store.write_json(folder / BREAKDOWN, {"sub_seed": sub_seed, "iteration": iteration, "error": error})

    def write(self, name: str, content: bytes) -> None:
        """Something that was made, where nobody else writes."""
        self.store.write(self.fence.folder / self.name / name, content)

    def commit(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Have what was made accepted, unless another's is; the facts of what is. Raises SupersededError."""
        self.fence.check()
        self.store.write_json(self.fence.folder / self.name / GENERATION, facts)
        files.create(self.fence.folder / ACCEPTED, self.name.encode())
        return published(self.store, self.fence.job_id) or facts


def published(store: Store, job_id: str) -> dict[str, Any] | None:
    """The facts of a job's accepted asset, moved where it belongs, though who made it may have died; None without."""
    folder = store.item(job_id)
    facts = store.read_json(folder / GENERATION)
    if facts is None:
        try:
            name = files.read(folder / ACCEPTED).decode()
        except FileNotFoundError:
            return store.read_json(folder / GENERATION)  # another has just moved all
        for made in MADE:
            files.move(folder / name / made, folder / made)
        facts = store.read_json(folder / GENERATION)
    _clear(store, folder)
    return facts


def _clear(store: Store, folder: Path) -> None:
    """Only what is needed to make an asset, now that it is there."""
    for path in [*folder.glob("attempt-*/*")]:
        files.remove(path)
    if files.is_local(folder):
        for path in folder.glob("attempt-*"):
            path.rmdir()
    for name in (CHECKPOINT, BEFORE, BREAKDOWN, ATTEMPT, ACCEPTED):
        files.remove(folder / name)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
