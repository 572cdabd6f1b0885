"""Who may write in a run folder: a lease that is renewed while its command lives. It needs no lock of a file system.

.lease/000001.json …   one per holder in turn, made by whoever is first; the highest number holds, and all go with it

No two hosts' clocks are compared: a lease that is not renewed while somebody watches has run out.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store import files

FOLDER = ".lease"
SECONDS, RENEWALS = 60.0, 6  # how long it lasts, and how often it is renewed meanwhile

Say = Callable[[str], None]


class LeaseError(RuntimeError):
    """Another command took over the run folder, or may have."""


@dataclass
class Lease:
    """Held by this process. `epoch` counts the holders since the last that ended in order."""

    root: Path
    epoch: int
    seconds: float = SECONDS
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    renewed: float = field(default_factory=time.monotonic)

    @property
    def file(self) -> Path:
        return self.root / FOLDER / f"{self.epoch:06}.json"

    def content(self) -> bytes:
        expires = datetime.now(UTC).timestamp() + self.seconds
        about = {"epoch": self.epoch, "token": self.token, "host": socket.gethostname(), "namespace": _namespace()}
        about |= {"pid": os.getpid(), "expires_utc": datetime.fromtimestamp(expires, UTC).isoformat()}
        return json.dumps(about).encode()

    def check(self) -> None:
        """Raise LeaseError unless this process still holds it. OSError where that cannot be read."""
        newest = holder(self.root)
        if newest is None or newest["token"] != self.token:
            who = f"taken over by {name_of(newest)}" if newest else "taken over by a command that has ended"
            raise LeaseError(f"{self.root} was {who}; this command stops, and what it made since then does not count.")
        if time.monotonic() - self.renewed > self.seconds:
            raise LeaseError(
                f"The lease on {self.root} was not renewed for {self.seconds:.0f} s, so another may have begun; see "
                "that the folder can be written, then start the same command again."
            )

    def renew(self) -> None:
        """Once more, unless another has it. Raises LeaseError, OSError."""
        begun = time.monotonic()
        self.check()
        files.put(self.file, self.content())
        self.renewed = begun

    def release(self) -> None:
        """Leave no trace, unless another has it."""
        newest = holder(self.root)
        if newest is None or newest["token"] == self.token:
            for path in _held(self.root):
                files.remove(path)
            if files.is_local(self.root):
                with suppress(OSError):  # another may have come already
                    self.file.parent.rmdir()


@contextmanager
def held(root: Path, option: str, say: Say, *, alone: bool, seconds: float = SECONDS) -> Iterator[Lease]:
    """Hold the lease on `root`. `alone`: no other process of this machine can hold it. Raises UserError.

    Another's lease is watched for as long as it lasts: who renews it lives, and then this command is refused.
    """
    lease = _acquired(root, option, say, alone=alone, seconds=seconds)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(seconds / RENEWALS):
            try:
                lease.renew()
            except LeaseError:
                return  # whoever writes next will be told
            except OSError:
                continue  # there is time for some more attempts

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join()
        try:
            lease.release()
        except OSError as error:
            say(f"the lease on {root} could not be given back ({error}); it runs out by itself")


def holder(root: Path) -> dict[str, Any] | None:
    """What the newest lease says; None where there is none."""
    for path in reversed(_held(root)):
        try:
            return json.loads(files.read(path))
        except FileNotFoundError:
            continue  # given back meanwhile
        except ValueError:
            return {"epoch": int(path.stem), "token": ""}
    return None


def name_of(about: dict[str, Any]) -> str:
    """The holder, for a sentence."""
    return f"process {about['pid']} on {about['host']}" if "pid" in about else "another command"


def _acquired(root: Path, option: str, say: Say, *, alone: bool, seconds: float) -> Lease:
    other = holder(root)
    if other is not None and not _is_dead(other, alone=alone):
        _watch(root, other, option, say, seconds)
    lease = Lease(root, other["epoch"] + 1 if other else 1, seconds)
    if not files.create(lease.file, lease.content()):
        raise _refusal(root, holder(root) or {}, option)
    return lease


def _watch(root: Path, other: dict[str, Any], option: str, say: Say, seconds: float) -> None:
    """Return when the lease has not been renewed for as long as it lasts. Raises UserError when it is."""
    say(f"{root} is held by {name_of(other)}; waiting up to {seconds:.0f} s to see whether that still works")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(seconds / RENEWALS / 4)
        now = holder(root)
        if now is None:
            return
        if now != other:
            raise _refusal(root, now, option)


def _refusal(root: Path, other: dict[str, Any], option: str) -> UserError:
    return UserError(f"{root} is in use by {name_of(other)}; wait for it to end, or choose another {option}.")


def _is_dead(about: dict[str, Any], *, alone: bool) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    if (about.get("host"), about.get("namespace")) != (socket.gethostname(), _namespace()):
        return False
    try:
        os.kill(about["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return alone


def _namespace() -> str:
    """In which a process id means something: two containers can have one host's name."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _held(root: Path) -> list[Path]:
    return sorted((root / FOLDER).glob("[0-9]*.json"), key=lambda path: path.name)
