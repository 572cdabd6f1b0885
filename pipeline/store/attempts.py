"""Attempts of workers at a job, with fencing tokens: a lost worker that still writes cannot damage a later attempt.

items/<job>/  attempt.json                       token of the newest attempt; older attempts read it and stop
              checkpoint, checkpoint-before      the two newest checkpoints
              attempt-<n>-<token>/               outputs of one attempt, moved to items/<job>/ when it is accepted
              accepted                           name of the accepted attempt; only the first attempt can create it

`generation.json` is moved last. After that, all of these files are removed.
"""

import hashlib
import json
import math
import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.store import files, run_folder
from pipeline.store.records import CLAIM_FILE, FAILURE_FILE, AssetFacts, Snapshot
from pipeline.store.run_folder import CHECKPOINT, CONTACT, GENERATION, TURNTABLE, Store

ATTEMPT, SCORING, ACCEPTED, BEFORE = "attempt.json", "judging.json", "accepted", "checkpoint-before"
NUMERIC_FAILURE = "breakdown.json"  # after NaN or infinity: the sub-seed of the next attempt
OBJECTS = run_folder.ASSET, run_folder.NERF, run_folder.MESH, run_folder.VIEWS  # of which an attempt writes one
OUTPUTS = *OBJECTS, run_folder.TENSORS, TURNTABLE, CONTACT, GENERATION  # moved in this order
HEADER_BYTES = 4096


class SupersededError(RuntimeError):
    """The job has a newer attempt or is done."""


@dataclass(frozen=True)
class Checkpoint:
    """The optimizer state after `iteration` iterations, and what was measured until then.

    `unet_samples` are not known in files of older versions. The file is a header line of JSON, followed by the bytes of
    the state.
    """

    iteration: int
    seconds: float
    state: bytes
    log_loss: float = 0.0  # sum over the iterations
    unet_samples: int | None = None
    snapshots: tuple[Snapshot, ...] = ()

    def to_bytes(self) -> bytes:
        names = "iteration", "seconds", "log_loss", "unet_samples"
        numbers = {name: getattr(self, name) for name in names}
        snapshots = [snapshot.to_json() for snapshot in self.snapshots]
        header = numbers | {"snapshots": snapshots, "sha256": _sha256(self.state)}
        return json.dumps(header).encode() + b"\n" + self.state

    @classmethod
    def from_bytes(cls, content: bytes) -> "Checkpoint":
        """Raises ValueError if the bytes are not a valid checkpoint."""
        header, _, state = content.partition(b"\n")
        try:
            about = json.loads(header)
        except RecursionError as error:
            raise ValueError("its header is nested too deeply") from error
        if not isinstance(about, dict) or about.pop("sha256", None) != _sha256(state):
            raise ValueError("the digest does not match the state")
        snapshots = tuple(map(Snapshot.model_validate, about.pop("snapshots", ())))
        found = cls(**about, state=state, snapshots=snapshots)
        numbers = found.seconds, found.log_loss, found.unet_samples or 0
        if type(found.iteration) is not int or found.iteration < 0 or not all(map(_is_finite, numbers)):
            raise ValueError("its header has other values than numbers")
        return found

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """The checkpoint in a file; `NO_CHECKPOINT` if the file is missing or damaged."""
        try:
            return cls.from_bytes(files.read(path))
        except (FileNotFoundError, ValueError, TypeError):
            return NO_CHECKPOINT


NO_CHECKPOINT = Checkpoint(0, 0.0, b"", unet_samples=0)


@dataclass(frozen=True)
class Fence:
    """A fencing token: the right to write in an item's folder until another process claims it."""

    store: Store
    job_id: str
    file: str
    number: int
    token: str

    @classmethod
    def claim(cls, store: Store, job_id: str, file: str) -> "Fence":
        """Claim the token; the previous holder loses it."""
        before = store.read_typed(store.item(job_id) / file, CLAIM_FILE)
        fence = cls(store, job_id, file, before.number + 1 if before else 1, secrets.token_hex(4))
        about = {"number": fence.number, "token": fence.token, "host": socket.gethostname(), "pid": os.getpid()}
        store.write_json(fence.folder / file, about | {"started_utc": datetime.now(UTC).isoformat(timespec="seconds")})
        return fence

    @property
    def folder(self) -> Path:
        return self.store.item(self.job_id)

    def check(self) -> None:
        """Raise SupersededError if another process has claimed the token."""
        now = self.store.read_typed(self.folder / self.file, CLAIM_FILE)
        if now is None or now.token != self.token:
            reason = "the job is done" if now is None else f"attempt {now.number} has started"
            raise SupersededError(f"attempt {self.number} of job {self.job_id} was superseded: {reason}")

    def write(self, path: Path, content: bytes) -> None:
        """Write to the folder that all holders of the token share. Raises SupersededError."""
        self.check()
        self.store.write(path, content)

    def release(self) -> None:
        files.remove(self.folder / self.file)


@dataclass(frozen=True)
class Attempt:
    """A generator's attempt at a job: its checkpoints, and its own folder for outputs."""

    fence: Fence

    @classmethod
    def start(cls, store: Store, job_id: str) -> "Attempt":
        """Start a new attempt. All earlier attempts of this job can no longer write."""
        return cls(Fence.claim(store, job_id, ATTEMPT))

    @property
    def name(self) -> str:
        return f"attempt-{self.fence.number}-{self.fence.token}"

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint and keep the previous one. Raises SupersededError."""
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
        """The number of numeric failures of this job so far. Each value gives other random numbers."""
        found = self.store.read_typed(self.fence.folder / NUMERIC_FAILURE, FAILURE_FILE)
        return found.sub_seed if found else 0

    def record_numeric_failure(self, error: str, iteration: int, restart: Checkpoint | None) -> None:
        """Make the next attempt start from `restart` with other random numbers. Raises SupersededError."""
        self.fence.check()
        folder, sub_seed = self.fence.folder, self.sub_seed + 1
        files.remove(folder / BEFORE)
        if restart is None:
            files.remove(folder / CHECKPOINT)
        else:
            self.store.write(folder / CHECKPOINT, restart.to_bytes())
        self.store.write_json(folder / NUMERIC_FAILURE, {"sub_seed": sub_seed, "iteration": iteration, "error": error})

    def write_snapshot(self, snapshot: Snapshot, content: bytes, finished: str) -> None:
        """Write the asset after an iteration; `finished` names that of the last. Attempts that resume after it keep it.

        Raises SupersededError.
        """
        self.fence.write(self.fence.folder / snapshot.file(finished), content)

    def write_output(self, name: str, content: bytes) -> None:
        """Write to the folder of this attempt. No other attempt writes there, so the fencing token is not checked."""
        self.store.write(self.fence.folder / self.name / name, content)

    def commit(self, facts: AssetFacts) -> AssetFacts:
        """Accept this attempt unless another one is accepted; return the facts of that one. Raises SupersededError."""
        self.fence.check()
        self.store.write_json(self.fence.folder / self.name / GENERATION, facts)
        files.create(self.fence.folder / ACCEPTED, self.name.encode())
        return published(self.store, self.fence.job_id) or facts


def published(store: Store, job_id: str) -> AssetFacts | None:
    """The facts of a job's accepted asset, or None. Finish moving its files if the attempt was interrupted."""
    folder = store.item(job_id)
    facts = store.generation(job_id)
    if facts is None:
        try:
            name = files.read(folder / ACCEPTED).decode()
        except FileNotFoundError:
            return store.generation(job_id)  # another process has just moved the files
        for output in OUTPUTS:
            if output in (*OBJECTS, run_folder.TENSORS) and not (folder / name / output).exists():
                continue
            files.move(folder / name / output, folder / output)
        facts = store.generation(job_id)
    _clear(store, folder)
    return facts


def _clear(store: Store, folder: Path) -> None:
    """Remove the files that were needed only to generate the asset."""
    for path in [*folder.glob("attempt-*/*")]:
        files.remove(path)
    if files.is_local(folder):
        for path in folder.glob("attempt-*"):
            path.rmdir()
    for name in (CHECKPOINT, BEFORE, NUMERIC_FAILURE, ATTEMPT, ACCEPTED):
        files.remove(folder / name)


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf  # type: ignore[arg-type]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
