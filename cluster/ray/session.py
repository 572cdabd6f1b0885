"""The Ray session of this process: connect to a cluster or start a local one, and disconnect."""

import logging
import math
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.ray.address import RAY_SETTINGS, Endpoint, HeadWatch, address_of, endpoint, no_cluster, wait_for

TOKEN_FILE = "~/.ray/auth_token"
OBJECT_STORE_BYTES = 128 * 2**20  # only progress and paths pass through Ray; large data are exchanged as files
_ended = threading.Event()  # whether the session of this process has ended


def connect(cpus: float = 0.0) -> Any:
    """The connected ray module: of the current session, else of RAY_ADDRESS, else of a new session on this machine.

    A new session has at least `cpus` CPUs, whatever the number of cores: more workers than cores are slow, but
    possible. `address="local"` keeps it apart from any other Ray on this machine. Raises ClusterError.
    """
    # Our own report of a dead worker names its prompt; without this, Ray prints a paragraph as well.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Actors with their own environment start fresh processes: prestarted workers would only cost memory and time.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    # Under `uv run`, Ray would copy the working folder for every worker and build an environment in it, which takes
    # minutes and much disk space; every node has this program already.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # The default of newer versions, about whose coming Ray 2.52 to 2.5x would print a warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return sys.modules["ray"]
    if address := address_of():
        wait_for(address)
        for name, value in RAY_SETTINGS.items():
            os.environ.setdefault(name, value)
        if has_token():
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # otherwise Ray sends no token
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        try:
            with _sigterm_handler_kept():
                ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError) as error:
            raise no_cluster(address, first_line(error)) from error
        _watch_head(ray)
        return ray
    # A new session requires a token. It is kept in the environment of this process, not in the user's home, and
    # Ray's notice about it is not for the user.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _sigterm_handler_kept():
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, math.ceil(cpus)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            **quiet,
        )
    _watch_head(ray)
    return ray


def head_of(ray: Any) -> Endpoint:
    """Where the head of the connected cluster listens."""
    address = address_of() or ""
    found = endpoint(address if address.startswith("ray://") else ray.get_runtime_context().gcs_address)
    assert found is not None  # not `auto`
    return found


def _watch_head(ray: Any) -> None:
    """Until `disconnect`: end this process with a report if a call of Ray waits for a lost head."""
    global _ended
    _ended = threading.Event()
    threading.Thread(target=HeadWatch(head_of(ray)).exit_if_lost, args=[_ended], daemon=True).start()


def has_token() -> bool:
    """Whether Ray finds a token for a cluster that requires one."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_FILE).expanduser()
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()


@contextmanager
def _sigterm_handler_kept() -> Iterator[None]:
    """Restore the SIGTERM handler: Ray's own treats the signal as a crash and prints a stack of addresses."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def disconnect() -> None:
    """End the session of this process, if there is one."""
    import ray

    if ray.is_initialized():
        ray.shutdown()
    _ended.set()


def first_line(error: BaseException) -> str:
    """The first line of Ray's message, without the paragraphs of advice that follow it."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
