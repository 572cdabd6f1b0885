"""cluster.ray.address: valid addresses, addresses where nothing listens, and a head that is lost."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from cluster.ray import address
from cluster.ray.address import ClusterError, Endpoint, HeadLostError, HeadWatch, address_of, endpoint, wait_for


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def closed_port() -> int:
    """A port of this machine where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("value", ["", " ", "local", None])
def test_no_address_is_this_machine(value):
    assert address_of({} if value is None else {"RAY_ADDRESS": value}) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.0.0.1:6379", Endpoint("10.0.0.1", 6379)),
        ("ray://head.ns.svc:10001", Endpoint("head.ns.svc", 10001)),
        ("[::1]:6379", Endpoint("::1", 6379)),
        ("auto", None),
    ],
)
def test_valid_addresses(value, expected):
    assert address_of({"RAY_ADDRESS": f" {value} "}) == value
    assert endpoint(value) == expected
    assert expected is None or str(expected) == value.removeprefix("ray://")


@pytest.mark.parametrize(
    "value",
    ["nonsense", "10.0.0.1", ":6379", "10.0.0.1:", "10.0.0.1:port", "10.0.0.1:0", "10.0.0.1:65536", "ray://", "a/b:1"],
)
def test_addresses_that_are_none_are_refused(value):
    with pytest.raises(ClusterError) as error:
        endpoint(value)
    assert str(error.value) == (
        f"RAY_ADDRESS is {value!r}; expected HOST:PORT of a Ray head, such as 10.0.0.1:6379, ray://HOST:PORT or auto. "
        "Unset it to work on this machine."
    )


@pytest.mark.parametrize("value", ["http://127.0.0.1:8265", "https://ray.example/x"])
def test_a_dashboard_is_no_address(value):
    with pytest.raises(ClusterError) as error:
        endpoint(value)
    assert str(error.value) == (
        f"RAY_ADDRESS is {value!r}, a dashboard; expected the head itself, such as 10.0.0.1:6379. Send jobs to a "
        "dashboard with submit ray --address."
    )


def test_an_address_where_nothing_listens_is_reported(monkeypatch):
    monkeypatch.setattr(address, "START_SECONDS", 0.0)
    dead = f"127.0.0.1:{closed_port()}"
    with pytest.raises(
        ClusterError, match=rf"^No Ray cluster answers at RAY_ADDRESS={dead} \(Connection refused\); start"
    ):
        wait_for(dead)


def test_an_unknown_host_is_reported_at_once():
    with pytest.raises(ClusterError, match=r"^No Ray cluster answers at RAY_ADDRESS=head.invalid:6379 \("):
        wait_for("head.invalid:6379")


def test_a_head_that_starts_late_is_found():
    port = closed_port()
    servers: list[socket.socket] = []
    timer = threading.Timer(0.5, lambda: servers.append(socket.create_server(("127.0.0.1", port))))
    timer.start()
    wait_for(f"127.0.0.1:{port}")
    timer.join()
    servers[0].close()


def test_a_head_may_be_away_for_a_while(listener, monkeypatch):
    host, port = listener.getsockname()
    watch = HeadWatch(Endpoint(host, port))
    watch.check()
    listener.close()
    servers: list[socket.socket] = []
    timer = threading.Timer(0.5, lambda: servers.append(socket.create_server((host, port))))
    timer.start()
    watch.check()
    timer.join()
    servers[0].close()
    assert watch.away_since is None
    monkeypatch.setattr(address, "LOST_SECONDS", 1.0)
    with pytest.raises(HeadLostError) as error:
        watch.check()
    assert watch.away_since is not None
    assert str(error.value) == (
        f"The Ray head at {host}:{port} has not answered for 1 s. Finished assets and checkpoints are kept; start the "
        "cluster, then run the same command again to resume."
    )


EXIT = """
import threading, time
from cluster.ray import address
address.EXIT_SECONDS = address.POLL_SECONDS = 0.2
watch = address.HeadWatch(address.Endpoint("127.0.0.1", {port}))
threading.Thread(target=watch.exit_if_lost, args=[threading.Event()], daemon=True).start()
time.sleep(60)  # a call of Ray
"""


def test_a_process_that_waits_for_a_lost_head_ends_with_what_to_do():
    port = closed_port()
    ended = subprocess.run([sys.executable, "-c", EXIT.format(port=port)], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"Error: The Ray head at 127.0.0.1:{port} has not answered for 0 s. Finished assets and checkpoints are kept; "
        "start the cluster, then run the same command again to resume.\n"
    )


def test_the_head_is_not_watched_any_more_after_the_session():
    ended = threading.Event()
    ended.set()
    HeadWatch(Endpoint("127.0.0.1", closed_port())).exit_if_lost(ended)
