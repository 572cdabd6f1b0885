"""Fetching against a server on this machine that cuts, lies, moves and dies; the hub against its cache and a fake."""

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
    """Serves `content` at every address below /live; `cuts` are numbers of bytes after which an answer breaks off."""

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
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        if not request.path.startswith("/live"):
            request.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
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
def said():
    return []


# ---- plain HTTP ---------------------------------------------------------------------------------------------------


def test_a_file_is_brought_and_nothing_else_lies_beside_it(server, tmp_path, said):
    assert fetch(role_of(Web(f"{server.address}/live")), tmp_path, Network(), said.append) == 1
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT
    assert names(tmp_path / "thing") == {"model.bin"}
    assert said == [f"thing/model.bin: 512,000 bytes from {server.address}/live"]


def test_what_is_there_and_right_is_not_fetched_again(server, tmp_path, said):
    role = role_of(Web(f"{server.address}/live"))
    fetch(role, tmp_path, Network(), said.append)
    server.ranges.clear()
    assert fetch(role, tmp_path, Network(), said.append) == 0
    assert server.ranges == []


def test_what_is_there_and_wrong_is_replaced(server, tmp_path, said):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "model.bin").write_bytes(CONTENT[:-1] + b"?")
    assert fetch(role_of(Web(f"{server.address}/live")), tmp_path, Network(), said.append) == 1
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT


def test_a_connection_cut_in_the_middle_is_resumed_in_the_same_command(server, tmp_path, said):
    server.cuts = [2 * CHUNK_BYTES, CHUNK_BYTES]
    seen = []
    network = Network(progress=lambda name: _context(lambda there, whole: seen.append((there, whole))))
    fetch(role_of(Web(f"{server.address}/live")), tmp_path, network, said.append)
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={2 * CHUNK_BYTES}-", f"bytes={3 * CHUNK_BYTES}-"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_command_that_gave_up_leaves_no_model_and_the_next_goes_on(server, tmp_path, said):
    server.cuts = [CHUNK_BYTES + 9, 0, 0]
    role = role_of(Web(f"{server.address}/live"))
    with pytest.raises(UserError) as caught:
        fetch(role, tmp_path, Network(), said.append)
    assert str(caught.value) == (
        f"model.bin of the thing (A Thing) could not be fetched ({server.address}/live: the connection was cut); start "
        f"the same command again, which goes on where it stopped, or put the file at {tmp_path}/thing/model.bin."
    )
    assert names(tmp_path / "thing") == {".model.bin.part", ".model.bin.part.version"}
    assert role.missing(tmp_path) == ["thing/model.bin"]
    server.ranges.clear()
    fetch(role, tmp_path, Network(), said.append)
    assert server.ranges == [f"bytes={CHUNK_BYTES}-"]
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT
    assert names(tmp_path / "thing") == {"model.bin"}


def test_another_version_of_the_file_is_not_joined_to_the_first(server, tmp_path, said):
    server.cuts = [CHUNK_BYTES + 9, 0, 0]
    role = role_of(Web(f"{server.address}/live"), file=File("model.bin"))
    with pytest.raises(UserError):
        fetch(role, tmp_path, Network(), said.append)
    server.content, server.version = CONTENT[::-1], '"two"'
    fetch(role, tmp_path, Network(), said.append)
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT[::-1]


def test_a_beginning_of_unknown_origin_is_not_used(server, tmp_path, said):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / ".model.bin.part").write_bytes(b"who knows")
    fetch(role_of(Web(f"{server.address}/live"), file=File("model.bin")), tmp_path, Network(), said.append)
    assert server.ranges == [None]
    assert (tmp_path / "thing" / "model.bin").read_bytes() == CONTENT


def test_a_whole_part_of_a_killed_command_is_taken_as_it_is(server, tmp_path, said):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / ".model.bin.part").write_bytes(CONTENT)
    (tmp_path / "thing" / ".model.bin.part.version").write_text(server.version)
    fetch(role_of(Web(f"{server.address}/live")), tmp_path, Network(), said.append)
    assert server.ranges == [f"bytes={len(CONTENT)}-"]
    assert names(tmp_path / "thing") == {"model.bin"}


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (replace(RIGHT, sha256="0" * 64), f"SHA-256 {SHA256[:12]}… instead of 000000000000…"),
        (replace(RIGHT, num_bytes=7), "512,000 bytes instead of 7"),
    ],
)
def test_a_wrong_file_is_refused_and_leaves_nothing(server, tmp_path, said, file, problem):
    with pytest.raises(UserError, match="could not be fetched") as caught:
        fetch(role_of(Web(f"{server.address}/live"), file=file), tmp_path, Network(), said.append)
    assert f"({server.address}/live: {problem})" in str(caught.value)
    assert not (tmp_path / "thing").exists()


def test_an_empty_file_is_no_model(server, tmp_path, said):
    server.content = b""
    with pytest.raises(UserError, match="could not be fetched"):
        fetch(role_of(Web(f"{server.address}/live"), file=File("model.bin")), tmp_path, Network(), said.append)
    assert not (tmp_path / "thing" / "model.bin").exists()


def test_a_dead_source_moves_on_to_the_next_and_says_so(server, tmp_path, said):
    dead, live = Web(f"{server.address}/dead"), Web(f"{server.address}/live")
    fetch(role_of(dead, live), tmp_path, Network(), said.append)
    assert said == [
        f"thing/model.bin: {dead}: HTTP status 404; trying {live}",
        f"thing/model.bin: 512,000 bytes from {live}",
    ]


def test_a_server_that_is_not_there_is_told_in_two_words(server, tmp_path, said):
    server.http.server_close()
    with pytest.raises(UserError, match=r"could not be fetched \(\S+/live: no connection\); start the same command"):
        fetch(role_of(Web("http://127.0.0.1:9/live")), tmp_path, Network(), said.append)


def test_offline_asks_no_server(server, tmp_path, said):
    with pytest.raises(UserError, match="not asked, because of offline mode"):
        fetch(role_of(Web(f"{server.address}/live")), tmp_path, Network(offline=True), said.append)
    assert server.ranges == []


def test_a_disk_without_room_is_found_before_the_first_byte(server, tmp_path, said, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**5}))
    with pytest.raises(
        UserError, match=r"has 0\.0 GB free and the thing needs 0\.0 GB; free some space or choose another"
    ):
        fetch(role_of(Web(f"{server.address}/live")), tmp_path, Network(), said.append)
    assert server.ranges == []


def test_two_commands_do_not_mix_their_bytes(server, tmp_path, said):
    def nested(source, file, part):
        with pytest.raises(UserError, match=r"^Another command is fetching into \S+; wait for it to end\.$"):
            fetch(role_of(source), tmp_path, Network(), said.append)
        part.write_bytes(CONTENT)

    fetch(role_of(Web(f"{server.address}/live")), tmp_path, nested, said.append)
    assert server.ranges == []


def test_a_folder_that_cannot_be_written(tmp_path, said):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"cannot be written \(Not a directory\); choose another folder by --weights DIR"
    ):
        fetch(role_of(Web("http://127.0.0.1:9")), tmp_path / "file" / "weights", Network(), said.append)


def _context(value):
    from contextlib import nullcontext

    return nullcontext(value)


# ---- the hub ------------------------------------------------------------------------------------------------------


class FakeHub:
    """`hf_hub_download` on a cache of repositories; what it was asked stands in `asked`."""

    def __init__(self, cache) -> None:
        self.cache, self.asked, self.cached, self.online = cache, [], {}, {}

    def __call__(self, repository, path, *, revision, local_files_only, force_download):
        self.asked.append((repository, revision, local_files_only, force_download))
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
    monkeypatch.setattr(fetching, "_hub_answers", lambda: True)
    return fake


def dead(error_class):
    """The hub's error of this class, which wants an answer of its own HTTP library."""
    error = error_class.__new__(error_class)
    Exception.__init__(error, "dead")
    return error


def test_what_the_hugging_face_cache_has_is_taken_without_a_question(hub, tmp_path, said):
    hub.cached["them/thing"] = CONTENT
    fetch(role_of(Hub("them/thing", "abc")), tmp_path / "weights", Network(), said.append)
    assert hub.asked == [("them/thing", "abc", True, False)]
    assert (tmp_path / "weights" / "thing" / "model.bin").read_bytes() == CONTENT


def test_a_file_of_the_cache_takes_no_second_room(hub, tmp_path, said):
    hub.cached["them/thing"] = CONTENT
    fetch(role_of(Hub("them/thing")), tmp_path / "weights", Network(), said.append)
    assert os.stat(tmp_path / "weights" / "thing" / "model.bin").st_nlink == 2


def test_a_damaged_file_of_the_cache_is_asked_for_again(hub, tmp_path, said):
    hub.cached["them/thing"], hub.online["them/thing"] = CONTENT[:9], CONTENT
    fetch(role_of(Hub("them/thing")), tmp_path / "weights", Network(), said.append)
    assert [force for *_, force in hub.asked] == [False, True]
    assert (tmp_path / "weights" / "thing" / "model.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (dead(hub_errors.RepositoryNotFoundError), "there is no such repository any more"),
        (dead(hub_errors.GatedRepoError), "asks for a login (hf auth login)"),
        (dead(hub_errors.RevisionNotFoundError), "there is no such revision any more"),
        (dead(hub_errors.RemoteEntryNotFoundError), "the repository has no such file"),
        (OSError("unreachable"), "no connection"),
    ],
)
def test_a_dead_repository_moves_on_to_its_mirror(hub, tmp_path, said, error, reason):
    hub.online = {"them/thing": error, "mirror/thing": CONTENT}
    fetch(role_of(Hub("them/thing"), Hub("mirror/thing")), tmp_path / "weights", Network(), said.append)
    assert said[0] == f"thing/model.bin: them/thing: {reason}; trying mirror/thing"


def test_a_mirror_with_another_file_is_refused_for_the_next(hub, tmp_path, said):
    hub.online = {"them/thing": CONTENT[::-1], "mirror/thing": CONTENT}
    fetch(role_of(Hub("them/thing"), Hub("mirror/thing")), tmp_path / "weights", Network(), said.append)
    assert said[0].startswith("thing/model.bin: them/thing: SHA-256 ")
    assert (tmp_path / "weights" / "thing" / "model.bin").read_bytes() == CONTENT
    assert names(tmp_path / "weights" / "thing") == {"model.bin"}


def test_a_hub_that_does_not_answer_is_asked_for_nothing(hub, tmp_path, said, monkeypatch):
    monkeypatch.setattr(fetching, "_hub_answers", lambda: False)
    role = role_of(Hub("them/thing"), Hub("mirror/thing"))
    with pytest.raises(UserError, match=r"\(them/thing: no connection; mirror/thing: no connection\)"):
        fetch(role, tmp_path / "weights", Network(), said.append)
    assert all(local for _, _, local, _ in hub.asked)
    assert not (tmp_path / "weights" / "thing").exists()


def test_offline_reads_the_cache_of_every_mirror_and_asks_nobody(hub, tmp_path, said):
    hub.cached["mirror/thing"] = CONTENT
    fetch(role_of(Hub("them/thing"), Hub("mirror/thing")), tmp_path / "weights", Network(offline=True), said.append)
    assert all(local for _, _, local, _ in hub.asked)
    assert (tmp_path / "weights" / "thing" / "model.bin").exists()


def test_the_hubs_own_offline_variable_counts_and_the_sentence_comes_at_once(tmp_path):
    """Through the real library in a process of its own: the variable is read at its import."""
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
    assert done.stdout == "not in the Hugging Face cache, and nothing else was asked because of offline mode\n"
    assert not (tmp_path / "part").exists()


def test_a_source_error_is_no_user_error():
    """It is for the next source; only when all have failed is the user told."""
    assert not issubclass(SourceError, UserError)
