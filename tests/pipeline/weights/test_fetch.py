"""Fetching from a faulty local HTTP server, and from a fake hub with a cache."""

import hashlib
import os
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from pipeline.errors import UserError
from pipeline.weights import fetch as fetching
from pipeline.weights.catalogue import File, Group, Hub, Role, Web
from pipeline.weights.fetch import CHUNK_BYTES, Network, SourceError, fetch

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RIGHT = File("model.bin", len(CONTENT), SHA256)


class Server:
    """Serves `content` at every address below /live; `cuts` are numbers of bytes after which responses are cut."""

    def __init__(self) -> None:
        self.content, self.version, self.cuts, self.ranges = CONTENT, '"one"', [], []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        requested = request.headers.get("Range")
        self.ranges.append(requested)
        if not request.path.startswith("/live"):
            request.send_error(404)
            return
        start = int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0
        if request.headers.get("If-Range") not in (None, self.version):
            start = 0
        if start and start >= len(self.content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = self.content[start:]
        request.send_response(206 if start else 200)
        request.send_header("ETag", self.version)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)
        request.close_connection = True


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Server()
    thread = threading.Thread(target=partial(served.http.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield served
    served.http.shutdown()
    served.http.server_close()
    thread.join()


def role_of(*sources, file=RIGHT) -> Role:
    groups = (Group(sources, (file,)),)
    return Role("thing", "A Thing", "thing", "", "MIT", 2 * len(CONTENT), "segmentdreamer weights fetch thing", groups)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


@pytest.fixture
def logged():
    return []


# ---- plain HTTP ---------------------------------------------------------------------------------------------------


def test_a_fetched_file_is_the_only_file_in_its_folder(server, tmp_path, logged):
    assert fetch(role_of(Web(f"{server.address}/live")), tmp_path, Network(), logged.append) == 1
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT
    assert names(tmp_path / "thing") == {"model.bin"}
    assert logged == [f"thing/model.bin: 512,000 bytes from {server.address}/live"]


def test_an_intact_file_is_not_fetched_again(server, tmp_path, logged):
    role = role_of(Web(f"{server.address}/live"))
    fetch(role, tmp_path, Network(), logged.append)
    server.ranges.clear()
    assert fetch(role, tmp_path, Network(), logged.append) == 0
    assert server.ranges == []


def test_a_damaged_file_is_replaced(server, tmp_path, logged):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "model.bin").write_bytes(CONTENT[:-1] + b"?")
    assert fetch(role_of(Web(f"{server.address}/live")), tmp_path, Network(), logged.append) == 1
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT


def test_a_broken_connection_is_resumed_in_the_same_command(server, tmp_path, logged):
    server.cuts = [2 * CHUNK_BYTES, CHUNK_BYTES]
    updates = []
    network = Network(progress=lambda name: _context(lambda received, total: updates.append((received, total))))
    fetch(role_of(Web(f"{server.address}/live")), tmp_path, network, logged.append)
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={2 * CHUNK_BYTES}-", f"bytes={3 * CHUNK_BYTES}-"]
    assert updates[-1] == (len(CONTENT), len(CONTENT))


def test_a_failed_command_leaves_no_file_and_the_next_command_resumes(server, tmp_path, logged):
    server.cuts = [CHUNK_BYTES + 9, 0, 0]
    role = role_of(Web(f"{server.address}/live"))
    with pytest.raises(UserError) as caught:
        fetch(role, tmp_path, Network(), logged.append)
    assert str(caught.value) == (
        f"model.bin of the thing (A Thing) could not be fetched ({server.address}/live: the connection was cut); run "
        f"the same command again to resume, or put the file at {tmp_path}/thing/model.bin."
    )
    assert names(tmp_path / "thing") == {".model.bin.part", ".model.bin.part.version"}
    assert role.missing(tmp_path) == ["thing/model.bin"]
    server.ranges.clear()
    fetch(role, tmp_path, Network(), logged.append)
    assert server.ranges == [f"bytes={CHUNK_BYTES}-"]
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT
    assert names(tmp_path / "thing") == {"model.bin"}


def test_a_changed_version_restarts_the_download(server, tmp_path, logged):
    server.cuts = [CHUNK_BYTES + 9, 0, 0]
    role = role_of(Web(f"{server.address}/live"), file=File("model.bin"))
    with pytest.raises(UserError):
        fetch(role, tmp_path, Network(), logged.append)
    server.content, server.version = CONTENT[::-1], '"two"'
    fetch(role, tmp_path, Network(), logged.append)
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT[::-1]


def test_a_partial_file_without_a_version_is_not_resumed(server, tmp_path, logged):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / ".model.bin.part").write_bytes(b"who knows")
    fetch(role_of(Web(f"{server.address}/live"), file=File("model.bin")), tmp_path, Network(), logged.append)
    assert server.ranges == [None]
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT


def test_a_complete_partial_file_is_used(server, tmp_path, logged):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / ".model.bin.part").write_bytes(CONTENT)
    (tmp_path / "thing" / ".model.bin.part.version").write_text(server.version)
    fetch(role_of(Web(f"{server.address}/live")), tmp_path, Network(), logged.append)
    assert server.ranges == [f"bytes={len(CONTENT)}-"]
    assert names(tmp_path / "thing") == {"model.bin"}


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (replace(RIGHT, sha256="0" * 64), f"SHA-256 {SHA256[:12]}… instead of 000000000000…"),
        (replace(RIGHT, num_bytes=7), "512,000 bytes instead of 7"),
    ],
)
def test_a_wrong_file_is_an_error_and_is_deleted(server, tmp_path, logged, file, problem):
    with pytest.raises(UserError, match="could not be fetched") as caught:
        fetch(role_of(Web(f"{server.address}/live"), file=file), tmp_path, Network(), logged.append)
    assert f"({server.address}/live: {problem})" in str(caught.value)
    assert not (tmp_path / "thing").exists()


def test_an_empty_file_is_an_error(server, tmp_path, logged):
    server.content = b""
    with pytest.raises(UserError, match="could not be fetched"):
        fetch(role_of(Web(f"{server.address}/live"), file=File("model.bin")), tmp_path, Network(), logged.append)
    assert not (tmp_path / "thing" / "model.bin").exists()


def test_the_next_source_is_used_if_one_fails(server, tmp_path, logged):
    dead, live = Web(f"{server.address}/dead"), Web(f"{server.address}/live")
    fetch(role_of(dead, live), tmp_path, Network(), logged.append)
    assert logged == [
        f"thing/model.bin: {dead}: HTTP status 404; trying {live}",
        f"thing/model.bin: 512,000 bytes from {live}",
    ]


def test_an_unreachable_server_is_reported_as_no_connection(server, tmp_path, logged):
    server.http.server_close()
    with pytest.raises(UserError, match=r"could not be fetched \(\S+/live: no connection\); run the same command"):
        fetch(role_of(Web("http://127.0.0.1:9/live")), tmp_path, Network(), logged.append)


def test_offline_mode_contacts_no_server(server, tmp_path, logged):
    with pytest.raises(UserError, match="not contacted in offline mode"):
        fetch(role_of(Web(f"{server.address}/live")), tmp_path, Network(offline=True), logged.append)
    assert server.ranges == []


def test_free_disk_space_is_checked_before_the_download(server, tmp_path, logged, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**5}))
    with pytest.raises(
        UserError, match=r"has 0\.0 GB free and the thing needs 0\.0 GB; free disk space or choose another"
    ):
        fetch(role_of(Web(f"{server.address}/live")), tmp_path, Network(), logged.append)
    assert server.ranges == []


def test_two_commands_cannot_fetch_into_the_same_folder(server, tmp_path, logged):
    def nested(source, file, part):
        with pytest.raises(UserError, match=r"^Another process is downloading to \S+; wait for it to finish\.$"):
            fetch(role_of(source), tmp_path, Network(), logged.append)
        part.write_bytes(CONTENT)

    fetch(role_of(Web(f"{server.address}/live")), tmp_path, nested, logged.append)
    assert server.ranges == []


def test_a_folder_that_is_not_writable_is_an_error(tmp_path, logged):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"cannot be written \(Not a directory\); choose another folder with --weights DIR"
    ):
        fetch(role_of(Web("http://127.0.0.1:9")), tmp_path / "file" / "weights", Network(), logged.append)


def _context(value):
    from contextlib import nullcontext

    return nullcontext(value)


# ---- the hub ------------------------------------------------------------------------------------------------------


class FakeHub:
    """`hf_hub_download` with a cache of repositories; `requests` has the arguments of its calls."""

    def __init__(self, cache) -> None:
        self.cache, self.requests, self.cached, self.online = cache, [], {}, {}

    def __call__(self, repository, path, *, revision, local_files_only, force_download):
        self.requests.append((repository, revision, local_files_only, force_download))
        place = self.cache / repository.replace("/", "--") / path
        if repository in self.cached and not force_download:
            content = self.cached[repository]
        elif local_files_only:
            raise hub_errors.LocalEntryNotFoundError("not cached")
        elif repository not in self.online:
            raise OSError("unreachable")
        elif isinstance(self.online[repository], Exception):
            raise self.online[repository]
        else:
            content = self.online[repository]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return str(place)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    monkeypatch.setattr(fetching, "_hub_is_reachable", lambda: True)
    return fake


def dead(error_class):
    """An instance of a hub error without the HTTP response that its constructor requires."""
    error = error_class.__new__(error_class)
    Exception.__init__(error, "dead")
    return error


def test_a_file_in_the_hugging_face_cache_needs_no_request(hub, tmp_path, logged):
    hub.cached["them/thing"] = CONTENT
    fetch(role_of(Hub("them/thing", "abc")), tmp_path / "weights", Network(), logged.append)
    assert hub.requests == [("them/thing", "abc", True, False)]
    assert (tmp_path / "weights" / "thing" / "model.bin").read_bytes() == CONTENT


def test_a_cached_file_is_hard_linked(hub, tmp_path, logged):
    hub.cached["them/thing"] = CONTENT
    fetch(role_of(Hub("them/thing")), tmp_path / "weights", Network(), logged.append)
    assert os.stat(tmp_path / "weights" / "thing" / "model.bin").st_nlink == 2


def test_a_damaged_cached_file_is_downloaded_again(hub, tmp_path, logged):
    hub.cached["them/thing"], hub.online["them/thing"] = CONTENT[:9], CONTENT
    fetch(role_of(Hub("them/thing")), tmp_path / "weights", Network(), logged.append)
    assert [force for *_, force in hub.requests] == [False, True]
    assert (tmp_path / "weights" / "thing" / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (dead(hub_errors.RepositoryNotFoundError), "the repository does not exist"),
        (dead(hub_errors.GatedRepoError), "requires a login (hf auth login)"),
        (dead(hub_errors.RevisionNotFoundError), "the revision does not exist"),
        (dead(hub_errors.RemoteEntryNotFoundError), "the repository has no such file"),
        (OSError("unreachable"), "no connection"),
    ],
)
def test_a_mirror_is_used_if_a_repository_fails(hub, tmp_path, logged, error, reason):
    hub.online = {"them/thing": error, "mirror/thing": CONTENT}
    fetch(role_of(Hub("them/thing"), Hub("mirror/thing")), tmp_path / "weights", Network(), logged.append)
    assert logged[0] == f"thing/model.bin: them/thing: {reason}; trying mirror/thing"


def test_the_next_mirror_is_used_if_a_file_differs(hub, tmp_path, logged):
    hub.online = {"them/thing": CONTENT[::-1], "mirror/thing": CONTENT}
    fetch(role_of(Hub("them/thing"), Hub("mirror/thing")), tmp_path / "weights", Network(), logged.append)
    assert logged[0].startswith("thing/model.bin: them/thing: SHA-256 ")
    assert (tmp_path / "weights" / "thing" / "model.bin").read_bytes() == CONTENT
    assert names(tmp_path / "weights" / "thing") == {"model.bin"}


def test_an_unreachable_hub_gets_no_download_request(hub, tmp_path, logged, monkeypatch):
    monkeypatch.setattr(fetching, "_hub_is_reachable", lambda: False)
    role = role_of(Hub("them/thing"), Hub("mirror/thing"))
    with pytest.raises(UserError, match=r"\(them/thing: no connection; mirror/thing: no connection\)"):
        fetch(role, tmp_path / "weights", Network(), logged.append)
    assert all(local for _, _, local, _ in hub.requests)
    assert not (tmp_path / "weights" / "thing").exists()


def test_offline_mode_reads_the_cache_of_every_mirror(hub, tmp_path, logged):
    hub.cached["mirror/thing"] = CONTENT
    fetch(role_of(Hub("them/thing"), Hub("mirror/thing")), tmp_path / "weights", Network(offline=True), logged.append)
    assert all(local for _, _, local, _ in hub.requests)
    assert (tmp_path / "weights" / "thing" / "model.bin").exists()


def test_the_hubs_offline_variable_is_respected(tmp_path):
    """With the real library in a new process, because the library reads the variable on import."""
    code = (
        "from pathlib import Path\n"
        "from pipeline.weights.catalogue import Hub, File\n"
        "from pipeline.weights.fetch import SourceError, from_hub\n"
        "try: from_hub(Hub('them/thing'), File('model.bin'), Path('part'), offline=False)\n"
        "except SourceError as error: print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
    )
    assert done.stdout == "not in the Hugging Face cache; no server is contacted in offline mode\n"
    assert not (tmp_path / "part").exists()


def test_a_source_error_is_not_a_user_error():
    """The next source is tried. Only if all fail, the user gets an error."""
    assert not issubclass(SourceError, UserError)
