"""MPS with a stand-in for NVIDIA's control program, which keeps a file while its "daemon" runs, and logs calls."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.work import mps

CONTROL = """#!/bin/sh
folder=$CUDA_MPS_PIPE_DIRECTORY
if [ "$1" = -d ]; then
  echo "start ${CUDA_VISIBLE_DEVICES-all}" >> "$folder/calls"
  touch "$folder/running"
  exit 0
fi
read command
[ -e "$folder/running" ] || exit 1
[ "$command" = quit ] && rm "$folder/running" && echo quit >> "$folder/calls"
exit 0
"""
WORKER = "import os, sys; from pipeline.work import mps; print(mps.join(), os.environ[mps.PIPE], flush=True); input()"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The daemon's folder. The stand-in is the only program named as NVIDIA's."""
    install(tmp_path / "bin", CONTROL)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(mps, "TOOLKIT", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv(mps.PIPE, raising=False)
    monkeypatch.setattr(mps, "_held", [])
    yield tmp_path / f"segmentdreamer-mps-{os.getuid()}"
    tempfile.tempdir = None
    os.environ.pop(mps.PIPE, None)


def install(where: Path, text: str) -> None:
    where.mkdir(exist_ok=True)
    (where / mps.CONTROL).write_text(text)
    (where / mps.CONTROL).chmod(0o755)


def worker() -> subprocess.Popen[str]:
    """A process that has joined; it lives until its input ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", WORKER], text=True, **pipes)
    problem, pipe = process.stdout.readline().split()
    assert problem == "None"
    assert Path(pipe).name == f"segmentdreamer-mps-{os.getuid()}"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    """End a worker as Ray does."""
    process.kill()
    process.communicate()


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def wait_for_end(folder: Path) -> None:
    """Wait until the daemon has ended. pytest's time limit ends a test that waits in vain."""
    while (folder / "running").exists():
        time.sleep(0.02)


def test_the_daemon_serves_all_gpus_and_ends_with_its_last_worker(folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    first, second = worker(), worker()
    assert calls(folder) == ["start all"]
    kill(first)
    third = worker()
    second.communicate("\n")
    assert calls(folder) == ["start all"]
    kill(third)
    wait_for_end(folder)
    assert calls(folder) == ["start all", "quit"]


def test_a_worker_after_the_end_starts_the_daemon_again(folder):
    worker().communicate("\n")
    wait_for_end(folder)
    process = worker()
    assert calls(folder) == ["start all", "quit", "start all"]
    process.communicate("\n")
    wait_for_end(folder)


def test_a_worker_that_joins_while_the_daemon_stops_waits_for_its_end(folder):
    """A daemon that was asked to stop still answers for a second."""
    ends_late = CONTROL.replace('rm "$folder/running" &&', '{ (sleep 1; rm "$folder/running") >/dev/null 2>&1 & } &&')
    install(folder.parent / "bin", ends_late)
    worker().communicate("\n")
    while calls(folder) != ["start all", "quit"]:
        time.sleep(0.02)
    process = worker()
    assert calls(folder) == ["start all", "quit", "start all"]
    assert (folder / "running").exists()
    process.communicate("\n")
    wait_for_end(folder)


def test_a_daemon_of_the_administrator_is_used_as_it_is(folder, monkeypatch):
    monkeypatch.setenv(mps.PIPE, "/run/mps")
    assert mps.join() is None
    assert os.environ[mps.PIPE] == "/run/mps"
    assert not folder.exists()


def test_without_the_program(folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert mps.program() is None
    assert mps.join() == "nvidia-cuda-mps-control is not installed"
    assert mps.PIPE not in os.environ


def test_a_daemon_that_does_not_start(folder):
    install(folder.parent / "bin", "#!/bin/sh\nexit 3\n")
    assert mps.join() == "nvidia-cuda-mps-control did not start (exit status 3)"
    assert mps.PIPE not in os.environ


def test_a_folder_that_cannot_be_written(folder):
    folder.write_text("")
    assert "File exists" in mps.join()
    assert mps.PIPE not in os.environ
