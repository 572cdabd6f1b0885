"""The write lease of a run folder, renewed while its command runs. It needs no file-system locks.

.lease/000001.json …   one file per holder, created by the first to claim the number. The highest number holds the
                       lease; releasing it removes all files.

Clocks of different hosts are never compared: a lease has expired if it is not renewed while another command watches.
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

from pipeline.errors import UserError, shortened
from pipeline.store import files

FOLDER = ".lease"
SECONDS, RENEWALS = 60.0, 6  # duration of a lease, and renewals in that time
FIELDS = {"token": str, "host": str, "namespace": str, "pid": int, "expires_utc": str}  # of a lease file

Report = Callable[[str], None]


class LeaseError(RuntimeError):
    """Another command has taken over the run folder, or may have."""


@dataclass
class Lease:
    """A write lease of this process. `epoch` counts the holders since a lease was last released."""

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
        """Raise LeaseError unless this process still holds the lease, OSError if its files cannot be read."""
        newest = holder(self.root)
        if newest is None or newest["token"] != self.token:
            who = name_of(newest) if newest else "a command that has ended"
            raise LeaseError(
                f"{self.root} was taken over by {who}. This command stops, and its results since then are discarded."
            )
        if time.monotonic() - self.renewed > self.seconds:
            raise LeaseError(
                f"The write lease on {self.root} was not renewed for {self.seconds:.0f} s, so another command may have "
                "started. Make sure that the folder is writable, then run the same command again."
            )

    def renew(self) -> None:
        """Renew the lease. Raises LeaseError if another command holds it, OSError if it cannot be written."""
        started = time.monotonic()
        self.check()
        files.put(self.file, self.content())
        self.renewed = started

    def release(self) -> None:
        """Remove the lease files unless another command holds the lease."""
        newest = holder(self.root)
        if newest is None or newest["token"] == self.token:
            for path in _held(self.root):
                files.remove(path)
            if files.is_local(self.root):
                with suppress(OSError):  # another command may already hold a lease here
                    self.file.parent.rmdir()


@contextmanager
def held(root: Path, option: str, report: Report, *, alone: bool, seconds: float = SECONDS) -> Iterator[Lease]:
    """Hold the write lease on `root`. `alone`: no other process of this machine can hold it. Raises UserError.

    If another command holds the lease, watch it for its duration. If it is renewed in that time, this command fails.
    """
    lease = _acquired(root, option, report, alone=alone, seconds=seconds)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(seconds / RENEWALS):
            try:
                lease.renew()
            except LeaseError:
                return  # the next write raises it
            except OSError:
                continue  # there is time for more attempts before the lease expires

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
            report(f"the write lease on {root} could not be released ({error}); it expires by itself")


def holder(root: Path) -> dict[str, Any] | None:
    """The content of the newest lease file; None if there is none."""
    for path in reversed(_held(root)):
        try:
            found = json.loads(files.read(path))
        except FileNotFoundError:
            continue  # released in the meantime
        except (ValueError, RecursionError):
            found = None
        known = found if isinstance(found, dict) else {}
        about = {key: known[key] for key, kind in FIELDS.items() if type(known.get(key)) is kind}
        if not 0 < about.get("pid", 1) < 2**31:
            del about["pid"]
        return {"epoch": int(path.stem), "token": "", **about}
    return None


def name_of(about: dict[str, Any]) -> str:
    """The holder of a lease, for messages."""
    return (
        f"process {about['pid']} on {shortened(about['host'], 80)}"
        if {"pid", "host"} <= about.keys()
        else "another command"
    )


def _acquired(root: Path, option: str, report: Report, *, alone: bool, seconds: float) -> Lease:
    other = holder(root)
    if other is not None and not _has_exited(other, alone=alone):
        _watch(root, other, option, report, seconds)
    lease = Lease(root, other["epoch"] + 1 if other else 1, seconds)
    if not files.create(lease.file, lease.content()):
        raise _refusal(root, holder(root) or {}, option)
    return lease


def _watch(root: Path, other: dict[str, Any], option: str, report: Report, seconds: float) -> None:
    """Return once the lease has expired or is released. Raises UserError if it is renewed."""
    report(f"{root} is in use by {name_of(other)}; waiting up to {seconds:.0f} s for its write lease to expire")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(seconds / RENEWALS / 4)
        now = holder(root)
        if now is None:
            return
        if now != other:
            raise _refusal(root, now, option)


def _refusal(root: Path, other: dict[str, Any], option: str) -> UserError:
    return UserError(f"{root} is in use by {name_of(other)}; wait for it to finish, or choose another {option}.")


def _has_exited(about: dict[str, Any], *, alone: bool) -> bool:
    """Whether the holder was a process of this machine that has exited."""
    if "pid" not in about or (about.get("host"), about.get("namespace")) != (socket.gethostname(), _namespace()):
        return False
    try:
        os.kill(about["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return alone


def _namespace() -> str:
    """The pid namespace of this process: two containers can have the same host name."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _held(root: Path) -> list[Path]:
    found = (path for path in (root / FOLDER).glob("[0-9]*.json") if path.stem.isascii() and path.stem.isdecimal())
    return sorted(found, key=lambda path: path.name)
