"""The write lease: one driver per run folder, on any storage. Fault 8 of docs/cluster.md."""

import json
import os
import threading
import time
import uuid

import pytest

from pipeline.errors import UserError
from pipeline.store import files, lease
from pipeline.store.lease import LeaseError, held
from pipeline.store.run_folder import Store
from tests.support import runs

SECONDS = 1.2  # duration of a lease in these tests


@pytest.fixture(params=["folder", "memory", "s3"])
def root(request, tmp_path):
    if request.param == "folder":
        return tmp_path
    server = "memory://" if request.param == "memory" else request.getfixturevalue("s3")
    return files.place(f"{server}/{uuid.uuid4()}")


@pytest.fixture
def elsewhere(monkeypatch):
    """A function that makes this process appear to run on another host."""

    def go():
        monkeypatch.setattr(lease.socket, "gethostname", lambda: "elsewhere")

    return go


def hold(root, reports=None, alone=False):
    return held(root, "--out", (reports if reports is not None else []).append, alone=alone, seconds=SECONDS)


def test_a_released_lease_leaves_no_file(root):
    with hold(root) as mine:
        mine.check()
        assert lease.holder(root)["pid"] == os.getpid()
    assert lease.holder(root) is None
    assert files.listing(root) == {}
    assert not files.is_local(root) or list(root.iterdir()) == []


def test_fault_8_a_second_driver_is_refused_while_the_first_renews(root, elsewhere):
    reports, host = [], os.uname().nodename
    with hold(root) as mine:
        elsewhere()
        with pytest.raises(UserError) as caught, hold(root, reports):
            pass
        mine.check()
    who = f"process {os.getpid()} on "
    assert str(caught.value).startswith(f"{root} is in use by {who}")
    assert str(caught.value).endswith("; wait for it to finish, or choose another --out.")
    assert reports == [f"{root} is in use by {who}{host}; waiting up to 1 s for its write lease to expire"]


def abandoned(root, epoch=1, **about):
    """Write a lease that is never renewed."""
    about = {"epoch": epoch, "token": "t", "host": "gone", "namespace": "", "pid": 7} | about
    files.put(root / ".lease" / f"{epoch:06}.json", json.dumps(about).encode())


def test_fault_8_an_expired_lease_is_taken_over_and_its_holder_cannot_write(root, monkeypatch):
    monkeypatch.setattr(lease.Lease, "renew", lambda self: None)  # as if its thread hung
    store = Store(root)
    with store.locked() as first:
        first.write_record(runs.done(runs.job("a")))
        with monkeypatch.context() as patch:
            patch.setattr(lease.socket, "gethostname", lambda: "elsewhere")
            with hold(root) as second:
                assert second.epoch == 2
                with pytest.raises(LeaseError) as caught:
                    first.write_record(runs.failed(runs.job("a")))
                replaced = f"{root} was taken over by process {os.getpid()} on elsewhere. This command stops, and"
                assert str(caught.value).startswith(replaced)
        with pytest.raises(LeaseError, match="taken over by a command that has ended"):
            first.write_record(runs.failed(runs.job("a")))
    assert store.record("a") == runs.done(runs.job("a"))


def test_the_lease_of_an_exited_process_of_this_machine_is_taken_over_at_once(root, monkeypatch):
    monkeypatch.setattr(lease.time, "sleep", lambda _: pytest.fail("it waited"))
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    abandoned(root, 4, host=os.uname().nodename, namespace=os.readlink("/proc/self/ns/pid"), pid=pid)
    with hold(root) as mine:
        assert mine.epoch == 5


def test_a_process_in_another_container_counts_as_running(root):
    reports = []
    abandoned(root, host=os.uname().nodename, namespace="pid:[1]", pid=2**22)
    with hold(root, reports):
        assert len(reports) == 1


def test_only_one_of_several_commands_takes_over(root):
    abandoned(root)
    ends, start = [], threading.Barrier(3)

    def take():
        start.wait()
        try:
            with hold(root) as mine:
                ends.append("held")
                time.sleep(SECONDS)
                mine.check()
        except UserError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count("held") == 1
    assert sum("is in use by" in end for end in ends) == 2


def test_a_holder_that_could_not_renew_in_time_cannot_write(tmp_path):
    with hold(tmp_path) as mine:
        mine.renewed -= 2 * SECONDS
        with pytest.raises(
            LeaseError, match=r"was not renewed for 1 s, so another command may have started. Make sure "
        ):
            mine.check()


def test_the_lease_works_without_file_system_locks(tmp_path, monkeypatch):
    import errno
    import fcntl

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(lease.time, "sleep", lambda _: None)
    with Store(tmp_path).locked() as ours:
        monkeypatch.setattr(lease.socket, "gethostname", lambda: "elsewhere")
        monkeypatch.undo()
        ours.write(tmp_path / "a", b"")
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["a"]


@pytest.mark.parametrize(
    "content", [b"1", b"null", b"[" * 100_000, b'{"pid": "a", "host": 3}', b'{"pid": 0, "token": null}']
)
def test_a_damaged_lease_file_is_one_of_another_command(tmp_path, content):
    (tmp_path / lease.FOLDER).mkdir()
    (tmp_path / lease.FOLDER / "000003.json").write_bytes(content)
    (tmp_path / lease.FOLDER / "0-other.json").write_bytes(b"{}")
    found = lease.holder(tmp_path)
    assert (found["epoch"], found["token"]) == (3, "")
    assert lease.name_of(found) == "another command"
