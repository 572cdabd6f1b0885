import errno
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import pytest

from pipeline.errors import UserError
from pipeline.store.run_folder import Store


def test_writes_are_atomic(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write(tmp_path / "items" / "a" / "asset.ply", b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        store.write(tmp_path / "items" / "a" / "asset.ply", b"new")
    assert [path.name for path in (tmp_path / "items" / "a").iterdir()] == ["asset.ply"]
    assert (tmp_path / "items" / "a" / "asset.ply").read_bytes() == b"old"


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    store = Store(tmp_path)
    store.write(tmp_path / "items" / "a" / "asset.ply", b"asset")
    (tmp_path / "items" / "a" / ".asset.ply.77.new").write_bytes(b"half an as")
    store.prepare(0)
    assert [path.name for path in (tmp_path / "items" / "a").iterdir()] == ["asset.ply"]


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Store(tmp_path).write_json(tmp_path / "record.json", {"clip": float("nan")})


def test_an_unwritable_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught:
        Store(tmp_path / "file" / "run").prepare(0)
    assert str(caught.value) == f"{tmp_path}/file/run cannot be written (Not a directory); choose another --out."


def test_too_little_free_disk_space_is_an_error_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("usage", "free")(50 * 2**20))
    with pytest.raises(UserError) as caught:
        Store(tmp_path).prepare(200 * 2**20)
    assert str(caught.value) == (
        f"{tmp_path} has 50 MiB free and this run may need 200 MiB; free some space or choose another --out."
    )


HOLD = """
import sys, time
from pathlib import Path
from pipeline.store.run_folder import Store
with Store(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_command_is_kept_out_until_the_first_has_exited(tmp_path):
    store = Store(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(UserError) as caught, store.locked():
        pass
    host = os.uname().nodename
    assert str(caught.value) == (
        f"{tmp_path} is in use by process {holder.pid} on {host}; wait for it to finish, or choose another --out."
    )
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with store.locked():
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    with store.locked():
        pass


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"null", "it contains no JSON object"),
        (b"[1]", "it contains no JSON object"),
        (b'{"a": NaN}', "NaN is no finite number"),
        (b'{"a": 1e400}', "1e400 is no finite number"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a": "\\ud800"}', "surrogates not allowed"),
        (b"\xff", "invalid start byte"),
    ],
)
def test_a_file_that_this_program_cannot_have_written_is_damaged(tmp_path, content, reason):
    (tmp_path / "verdict.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        Store(tmp_path).read_json(tmp_path / "verdict.json")
    assert str(caught.value).startswith(f"{tmp_path}/verdict.json is damaged (")
    assert reason in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", None])
def test_damaged_and_missing_arrays_are_named(tmp_path, content):
    if content is not None:
        (tmp_path / "evaluation.npz").write_bytes(content)
    with pytest.raises(
        UserError, match=rf"^{tmp_path}/evaluation\.npz is damaged \(.*\); delete it to have its content"
    ):
        Store(tmp_path).read_arrays(tmp_path / "evaluation.npz")
