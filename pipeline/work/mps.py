"""NVIDIA's Multi-Process Service (MPS): the processes that share a GPU compute side by side instead of taking turns.

Each process that has joined holds a shared lock on a file. A watcher, started with the daemon, waits until it can
lock the file exclusively, thus until the last of them has ended in any way, and stops the daemon.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

CONTROL, TOOLKIT = "nvidia-cuda-mps-control", "/usr/local/nvidia/bin"  # where NVIDIA's container toolkit mounts it
PIPE, LOG = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
START_SECONDS, STOP_SECONDS = 10.0, 30.0
USERS, START = "users.lock", "start.lock"

_held: list[IO[str]] = []  # the lock of this process


def program() -> str | None:
    """The program that controls the daemon; None if it is not installed."""
    return shutil.which(CONTROL, path=os.pathsep.join([os.environ.get("PATH", os.defpath), TOOLKIT]))


def join() -> str | None:
    """Make this process use MPS, and start the daemon if it does not run. Call it before CUDA is initialized.

    Returns why MPS cannot be used, or None. A daemon that the environment names (`CUDA_MPS_PIPE_DIRECTORY`) is used
    as it is.
    """
    if os.environ.get(PIPE):
        return None
    control = program()
    if control is None:
        return f"{CONTROL} is not installed"
    folder = Path(tempfile.gettempdir()) / f"segmentdreamer-mps-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        users = _locked(folder / USERS, fcntl.LOCK_SH)  # waits while a watcher stops the daemon
        with _locked(folder / START, fcntl.LOCK_EX):
            problem = None if _runs(control, folder) else _started(control, folder)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if problem:
        users.close()
        return problem
    _held.append(users)
    os.environ[PIPE] = str(folder)
    return None


def watch(control: str, folder: Path) -> None:
    """Stop the daemon once no process uses it.

    It answers for a while after that. A worker that joined it then would have no server, and CUDA would say nothing.
    """
    with _locked(folder / USERS, fcntl.LOCK_EX):
        end = time.monotonic() + STOP_SECONDS
        _ask(control, folder, "quit")
        while _runs(control, folder) and time.monotonic() < end:
            time.sleep(0.1)


def _locked(path: Path, kind: int) -> IO[str]:
    file = path.open("a", encoding="utf-8")
    fcntl.flock(file, kind)
    return file


def _started(control: str, folder: Path) -> str | None:
    """Start the daemon and its watcher; returns why it does not run, or None."""
    try:
        done = subprocess.run(
            [control, "-d"],
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open in the daemon
            stderr=subprocess.DEVNULL,
            timeout=START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"{CONTROL} did not start within {START_SECONDS:.0f} s"
    end = time.monotonic() + START_SECONDS
    while not _runs(control, folder):
        if time.monotonic() > end or done.returncode:
            return f"{CONTROL} did not start (exit status {done.returncode})"
        time.sleep(0.1)
    code = f"from pipeline.work import mps; from pathlib import Path; mps.watch({control!r}, Path({str(folder)!r}))"
    subprocess.run(  # not a child of this process, because Ray ends a worker's children with it
        ["sh", "-c", '"$@" &', "sh", sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=True,
    )
    return None


def _runs(control: str, folder: Path) -> bool:
    return _ask(control, folder, "get_default_active_thread_percentage")


def _ask(control: str, folder: Path, command: str) -> bool:
    """Whether the daemon has answered a command."""
    try:
        done = subprocess.run(
            [control],
            input=f"{command}\n",
            env=_environment(folder),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _environment(folder: Path) -> dict[str, str]:
    """The daemon serves all GPUs, not those of the worker that starts it."""
    others = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return others | {PIPE: str(folder), LOG: str(folder)}
