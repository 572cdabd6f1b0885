"""File operations on a folder, on memory and on a real S3 server."""

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import UserError
from pipeline.store import files


@pytest.fixture(params=["folder", "memory", "s3"])
def root(request, tmp_path) -> Path:
    if request.param == "folder":
        return tmp_path
    server = "memory://" if request.param == "memory" else request.getfixturevalue("s3")
    return files.place(f"{server}/{uuid.uuid4()}")


def test_a_file_is_written_read_moved_and_removed(root):
    files.put(root / "a" / "b", b"0123456789")
    files.put(root / "a" / "b", b"abcdefghij")
    assert files.read(root / "a" / "b") == b"abcdefghij"
    assert files.head(root / "a" / "b", 4) == b"abcd"
    files.move(root / "a" / "b", root / "c")
    files.move(root / "a" / "b", root / "c")  # already moved by another process
    assert files.read(root / "c") == b"abcdefghij"
    assert [file.bytes for file in files.listing(root).values()] == [10]
    files.remove(root / "c")
    files.remove(root / "c")
    assert files.listing(root) == {}
    with pytest.raises(FileNotFoundError):
        files.read(root / "c")
    with pytest.raises(FileNotFoundError):
        files.move(root / "c", root / "d")


def test_many_files_are_listed_and_read_in_order(root):
    for number in range(3):
        files.put(root / "items" / str(number) / "record", bytes([number]) * number)
    found = files.listing(root)
    assert {path: file.bytes for path, file in found.items()} == {f"items/{n}/record": n for n in range(3)}
    assert all(abs(file.changed - time.time()) < 3600 for file in found.values())
    paths = [root / "items" / name / "record" for name in ("2", "missing", "0", "1")]
    assert list(files.read_each(paths)) == [b"\2\2", None, b"", b"\1"]
    assert list(files.read_each([])) == []
    assert files.listing(root / "missing") == {}


def test_only_the_first_create_of_a_file_succeeds(root):
    assert files.create(root / "a" / "b", b"first")
    assert not files.create(root / "a" / "b", b"second")
    assert files.read(root / "a" / "b") == b"first"
    assert [file.bytes for file in files.listing(root).values()] == [5]


def test_special_characters_in_a_path_are_kept(root):
    files.put(root / "a b#c?d%20e" / "ä", b"x")
    assert files.read(root / "a b#c?d%20e" / "ä") == b"x"
    assert [path.name for path in (root / "a b#c?d%20e").glob("*")] == ["ä"]


@pytest.fixture
def failing_store(monkeypatch):
    """A path in memory whose next `errors[0]` writes fail, the errors left, and the waits between retries."""
    memory, errors, waits = fsspec.get_filesystem_class("memory"), [0], []
    write = memory.pipe_file

    def pipe_file(*arguments, **options):
        if errors[0]:
            errors[0] -= 1
            raise RuntimeError("503 Slow Down")
        write(*arguments, **options)

    monkeypatch.setattr(memory, "pipe_file", pipe_file)
    monkeypatch.setattr(files.time, "sleep", waits.append)
    return files.place("memory://failing_store"), errors, waits


def test_transient_errors_of_a_store_are_retried_with_growing_waits(failing_store):
    path, errors, waits = failing_store
    errors[0] = 4
    files.put(path / "a", b"x")
    assert files.read(path / "a") == b"x"
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_a_store_that_is_down_raises_oserror_with_the_reason(failing_store):
    path, errors, _ = failing_store
    errors[0] = 99
    with pytest.raises(OSError, match=r"a: RuntimeError: 503 Slow Down$"):
        files.put(path / "a", b"x")
    with pytest.raises(OSError, match="503"):
        files.create(path / "b", b"x")
    assert errors == [93], "five attempts to write, one to create"


def test_places(tmp_path, monkeypatch):
    assert files.place("runs/a") == Path("runs/a")
    assert files.place("file:///runs/a") == Path("/runs/a")
    assert files.place(tmp_path) is tmp_path
    assert str(files.place("s3://bucket/runs/a") / "b") == "s3://bucket/runs/a/b"
    assert files.is_local(tmp_path)
    assert not files.is_local(files.place("memory://a"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "ftp://host/a",
            (
                "ftp://host/a cannot store runs, because ftp does not write files atomically; use a folder or an "
                "s3:// or gs:// URL."
            ),
        ),
        ("s4://host/a", "s4://host/a starts with s4://, which fsspec does not support; use an s3:// or gs:// URL."),
    ],
)
def test_unsupported_places_are_errors(url, message):
    with pytest.raises(UserError) as caught:
        files.place(url)
    assert str(caught.value) == message


@pytest.mark.parametrize(("url", "package", "extra"), [("s3://b/a", "s3fs", "s3"), ("gs://b/a", "gcsfs", "gcs")])
def test_a_store_whose_client_is_not_installed_names_the_extra(url, package, extra, monkeypatch):
    def missing(protocol):
        raise ImportError(f"Install {package}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UserError) as caught:
        files.place(url)
    assert str(caught.value) == (
        f"{url} needs a package that is not installed (Install {package}); install it with pip install "
        f"'segmentdreamer[{extra}]'."
    )


def test_copying_a_file_over_a_link_to_it_leaves_no_temporary_file(tmp_path):
    """As after a kill between a copy and the next write: a rename between two links to one file does nothing."""
    (tmp_path / "checkpoint").write_bytes(b"state")
    for _ in range(2):
        files.copy(tmp_path / "checkpoint", tmp_path / "checkpoint-before")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "checkpoint-before"]


def test_a_failed_write_names_the_file_and_no_other(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as caught:
        files.put(tmp_path / "file" / "below" / "out.csv", b"")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "file" / "below" / "out.csv"), None)


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        found = reader.submit(pipe.read_bytes)
        files.put(pipe, b"content")
        assert found.result() == b"content"
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="only Linux has a device that is always full")
def test_a_full_device_is_an_error_and_stays_a_device():
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        files.put(Path("/dev/full"), b"content")
    assert Path("/dev/full").is_char_device()
