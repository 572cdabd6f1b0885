"""One driver a run folder, wherever it lies: fault 8 of docs/cluster.md."""

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

SOON = 1.2  # seconds that a lease lasts here


@pytest.fixture(params=["folder", "memory", "s3"])
def root(request, tmp_path):
    if request.param == "folder":
        return tmp_path
    server = "memory://" if request.param == "memory" else request.getfixturevalue("s3")
    return files.place(f"{server}/{uuid.uuid4()}")


@pytest.fixture
def elsewhere(monkeypatch):
    """Whoever asks now is a process of another host."""

    def go():
        monkeypatch.setattr(lease.socket, "gethostname", lambda: "elsewhere")

    return go


def hold(root, said=None, alone=False):
    return held(root, "--out", (said if said is not None else []).append, alone=alone, seconds=SOON)


def test_a_lease_leaves_no_trace(root):
    with hold(root) as mine:
        mine.check()
        assert lease.holder(root)["pid"] == os.getpid()
    assert lease.holder(root) is None
    assert files.sizes(root) == []
    assert not files.is_local(root) or list(root.iterdir()) == []


def test_fault_8_a_second_driver_is_refused_while_the_first_renews(root, elsewhere):
    said, host = [], os.uname().nodename
    with hold(root) as mine:
        elsewhere()
        with pytest.raises(UserError) as caught, hold(root, said):
            pass
        mine.check()
    who = f"process {os.getpid()} on "
    assert str(caught.value).startswith(f"{root} is in use by {who}")
    assert str(caught.value).endswith("; wait for it to end, or choose another --out.")
    assert said == [f"{root} is held by {who}{host}; waiting up to 1 s to see whether that still works"]


def dead(root, epoch=1, **about):
    """A lease that nobody renews."""
    about = {"epoch": epoch, "token": "t", "host": "gone", "namespace": "", "pid": 7} | about
    files.put(root / ".lease" / f"{epoch:06}.json", json.dumps(about).encode())


def test_fault_8_a_lease_that_ran_out_is_taken_over_and_its_holder_writes_no_more(root, monkeypatch):
    monkeypatch.setattr(lease.Lease, "renew", lambda self: None)  # it hangs: nobody renews
    store = Store(root)
    with store.locked() as first:
        first.write_record({"job_id": "a", "status": "done"})
        with monkeypatch.context() as patch:
            patch.setattr(lease.socket, "gethostname", lambda: "elsewhere")
            with hold(root) as second:
                assert second.epoch == 2
                with pytest.raises(LeaseError) as caught:
                    first.write_record({"job_id": "a", "status": "failed"})
                replaced = f"{root} was taken over by process {os.getpid()} on elsewhere; this command stops, and what"
                assert str(caught.value).startswith(replaced)
        with pytest.raises(LeaseError, match="taken over by a command that has ended"):
            first.write_record({"job_id": "a", "status": "failed"})
    assert store.record("a") == {"job_id": "a", "status": "done"}


def test_of_a_process_of_this_machine_that_is_no_more_nothing_is_awaited(root, monkeypatch):
    monkeypatch.setattr(lease.time, "sleep", lambda _: pytest.fail("it waited"))
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    dead(root, 4, host=os.uname().nodename, namespace=os.readlink("/proc/self/ns/pid"), pid=pid)
    with hold(root) as mine:
        assert mine.epoch == 5


def test_a_process_of_the_same_number_in_another_container_counts_as_alive(root):
    said = []
    dead(root, host=os.uname().nodename, namespace="pid:[1]", pid=2**22)
    with hold(root, said):
        assert len(said) == 1


def test_of_several_who_take_over_one_holds(root):
    dead(root)
    ends, begin = [], threading.Barrier(3)

    def take():
        begin.wait()
        try:
            with hold(root) as mine:
                ends.append("held")
                time.sleep(SOON)
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


def test_who_could_not_renew_in_time_writes_no_more(tmp_path):
    with hold(tmp_path) as mine:
        mine.renewed -= 2 * SOON
        with pytest.raises(LeaseError, match=r"was not renewed for 1 s, so another may have begun; see that "):
            mine.check()


def test_where_the_file_system_has_no_locks_the_lease_stands_alone(tmp_path, monkeypatch):
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
