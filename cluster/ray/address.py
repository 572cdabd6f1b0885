"""The cluster in RAY_ADDRESS: what the address may be, and whether something answers there. Does not import Ray.

Ray itself tries an address without a cluster for 14 minutes (Ray 2.60: 20 tries of 41 s), and ends the driver's process
without an exception 60 s after it has lost the head. `wait_for` and `HeadWatch` report both earlier.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

CONNECT_SECONDS, START_SECONDS = 5.0, 12.0  # of one TCP connection; until a head that is starting listens
LOST_SECONDS = 25.0
EXIT_SECONDS, POLL_SECONDS, EXIT_STATUS = 45.0, 2.0, 2  # of a process that waits for a lost head in a call of Ray
# One try of 8 s for a port where something else than Ray listens. Ray reads the last two when it is imported.
RAY_SETTINGS = {
    "RAY_gcs_server_port_wait_time_s": "1",
    "RAY_py_gcs_connect_timeout_s": "8",
    "RAY_gcs_rpc_server_connect_timeout_s": "2",
}


class ClusterError(RuntimeError):
    """Ray does not answer or cannot provide the requested resources."""


class HeadLostError(ClusterError):
    """The head of the cluster stopped answering during a run."""


class Endpoint(NamedTuple):
    """Where the head of a cluster listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self, timeout_seconds: float = CONNECT_SECONDS) -> None:
        """Open and close a TCP connection. Raises OSError."""
        socket.create_connection(self, timeout=timeout_seconds).close()


def address_of(environment: Mapping[str, str] = os.environ) -> str | None:
    """The cluster that RAY_ADDRESS names; None if it is unset, empty or `local`, for a new Ray on this machine."""
    address = environment.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def endpoint(address: str) -> Endpoint | None:
    """The endpoint of `HOST:PORT` or `ray://HOST:PORT`; None for `auto`, which only Ray can resolve.

    Raises ClusterError for anything else.
    """
    if address == "auto":
        return None
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if "/" not in host and host.strip("[]") and port.isdecimal() and 0 < int(port) < 2**16:
        return Endpoint(host.strip("[]"), int(port))
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"RAY_ADDRESS is {address!r}, a dashboard; expected the head itself, such as 10.0.0.1:6379. Send jobs to a "
            "dashboard with submit ray --address."
        )
    raise ClusterError(
        f"RAY_ADDRESS is {address!r}; expected HOST:PORT of a Ray head, such as 10.0.0.1:6379, ray://HOST:PORT or "
        "auto. Unset it to work on this machine."
    )


def wait_for(address: str) -> None:
    """Wait until something listens at this address, for at most `START_SECONDS`. Raises ClusterError."""
    target, deadline = endpoint(address), time.monotonic() + START_SECONDS
    while target is not None:
        try:
            target.connect()
            return
        except OSError as error:
            if time.monotonic() >= deadline or isinstance(error, socket.gaierror):
                raise no_cluster(address, error.strerror or str(error)) from error
        time.sleep(1)


def no_cluster(address: str, reason: str) -> ClusterError:
    return ClusterError(
        f"No Ray cluster answers at RAY_ADDRESS={address} ({reason}); start it, set RAY_AUTH_TOKEN to its token if it "
        "requires one, or unset RAY_ADDRESS to work on this machine."
    )


class HeadWatch:
    """Detects that the head of the cluster of this run is lost."""

    def __init__(self, head: Endpoint):
        self.head = head
        self.away_since: float | None = None

    def check(self) -> None:
        """Wait while the head is away, because Ray's calls would block. Raises HeadLostError after `LOST_SECONDS`."""
        while not self._answers():
            self._raise_if_lost(LOST_SECONDS)
            time.sleep(1)

    def exit_if_lost(self, ended: threading.Event) -> None:
        """Until the session has ended: report a lost head and end the process, as Ray does later without a report.

        For a thread of its own. The main thread may be in a call of Ray, which returns only if the head answers.
        """
        while not ended.wait(POLL_SECONDS):
            try:
                if not self._answers():
                    self._raise_if_lost(EXIT_SECONDS)
            except HeadLostError as error:
                sys.stderr.write(f"Error: {error}\n")
                sys.stderr.flush()
                os._exit(EXIT_STATUS)

    def _answers(self) -> bool:
        try:
            self.head.connect()
            self.away_since = None
        except OSError:
            self.away_since = self.away_since or time.monotonic()
        return self.away_since is None

    def _raise_if_lost(self, seconds: float) -> None:
        if self.away_since is not None and time.monotonic() - self.away_since >= seconds:
            raise HeadLostError(
                f"The Ray head at {self.head} has not answered for {seconds:.0f} s. Finished assets and checkpoints "
                "are kept; start the cluster, then run the same command again to resume."
            )
