"""The study's pages, with an in-process client and with HTTP requests to a real server."""

import re
import shutil
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest
from fastapi.testclient import TestClient

from pipeline.study import web
from pipeline.study.database import Ballot, Database
from pipeline.study.plan import DATABASE, QUESTIONS
from tests.support.study_fixtures import SERVE, csrf, secrets_of, serving

STEPS = 6
GOOD = {"A": "2", "B": "1", "C": "3"}


@contextmanager
def visiting(study, token=None):
    store, made, database = study
    if token is None:
        (token,) = database.invite([made.shuffled()])
    with TestClient(web.app(store, made, ["testserver"]), base_url="http://testserver") as client:
        client.token = token
        assert client.get(f"/i/{token}").status_code == 200
        yield client


def vote(client, step, ranks=GOOD, path="", **headers):
    page = client.get(f"/step/{step}").text
    fields = {**ranks, "csrf": csrf(page)} if "csrf" in page else ranks
    return client.post(f"/step/{step}{path}", data=fields, headers=headers, follow_redirects=False)


def test_one_volunteer_answers_every_step(study):
    _, made, database = study
    with visiting(study) as client:
        assert "Begin" in client.get("/").text
        for step in range(1, STEPS + 1):
            page = client.get(f"/step/{step}").text
            assert f"<h1>{QUESTIONS[(step - 1) % 3]}</h1>" in page
            answer = vote(client, step)
            assert answer.status_code == 303
            assert answer.headers["location"] == (f"/step/{step + 1}" if step < STEPS else "/")
        assert "Thank you" in client.get("/").text
        voter = database.voter(client.token)
    ballots = database.ballots()
    assert {(b.group, b.question) for b in ballots} == {(g, q) for g in range(2) for q in range(3)}
    for ballot in ballots:
        competitors = dict(voter.shown)[ballot.group]  # in the order of A, B, C
        assert [ballot.ranks[c] for c in competitors] == [2, 1, 3]
    assert len(made.prompts) == 2


def test_returning_volunteer_resumes_at_the_next_step(study):
    with visiting(study) as client:
        vote(client, 1)
        token = client.token
    with visiting(study, token) as again:
        assert "Continue" in again.get("/").text
        assert again.get("/step/1").url.path == "/step/2"
        assert again.get("/step/5").url.path == "/step/2"


def test_refresh_keeps_the_draft(study):
    with visiting(study) as client:
        assert re.findall(r'data-letter="(.)"', client.get("/step/1").text) == ["A", "B", "C"]
        assert vote(client, 1, {"A": "3", "B": "1", "C": "2"}, path="/draft").status_code == 204
        page = client.get("/step/1").text
        assert re.findall(r'data-letter="(.)"', page) == ["B", "C", "A"]
        assert re.findall(r"<option selected>(\d)", page) == ["1", "2", "3"]
        assert vote(client, 1, {"A": "1", "B": "2", "C": "3"}, path="/draft").status_code == 204
        assert re.findall(r'data-letter="(.)"', client.get("/step/1").text) == ["A", "B", "C"]
        assert study[2].ballots() == []


def test_concurrent_submissions_count_once(study):
    """Of twelve concurrent submissions of one step, one is counted and eleven get status 409."""
    with visiting(study) as client:
        token = csrf(client.get("/step/1").text)
        orders = [GOOD, {"A": "3", "B": "2", "C": "1"}] * 6

        def submit(ranks):
            return client.post("/step/1", data={**ranks, "csrf": token}, follow_redirects=False)

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(submit, orders))
    assert sorted(answer.status_code for answer in answers) == [303] + [409] * 11
    assert "Your first answer counts" in max(answers, key=lambda answer: answer.status_code).text
    (ballot,) = study[2].ballots()
    counted = orders[[answer.status_code for answer in answers].index(303)]
    shown = dict(study[2].voter(client.token).shown)[ballot.group]
    assert [str(ballot.ranks[c]) for c in shown] == [counted[letter] for letter in "ABC"]


@pytest.mark.parametrize(
    "ranks",
    [
        {"A": "1", "B": "1", "C": "2"},
        {"A": "1", "B": "2"},
        {"A": "1", "B": "2", "C": "4"},
        {"A": "0", "B": "1", "C": "2"},
        {"A": "01", "B": "2", "C": "3"},
        {"A": "1", "B": "2", "C": "<b>3</b>"},
        {"A": "", "B": "", "C": ""},
    ],
)
@pytest.mark.parametrize("path", ["", "/draft"])
def test_wrong_ranks_are_refused(study, ranks, path):
    with visiting(study) as client:
        assert vote(client, 1, GOOD, path="/draft").status_code == 204
        answer = vote(client, 1, ranks, path)
        assert answer.status_code == 422
        assert "<b>" not in answer.text
        assert path or "Please give each rank from 1 to 3 once." in answer.text
        assert study[2].ballots() == []
        assert "<option selected>1" in client.get("/step/1").text


def test_unknown_pages_are_not_found(study):
    with visiting(study) as client:
        for path in ("/step/0", "/step/7", "/step/-1", "/step/x", "/step/1e3", "/nowhere", "/docs", "/openapi.json"):
            answer = client.get(path)
            assert (path, answer.status_code) == (path, 404)
            assert "There is no such page" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/clip/1/..%2f..%2fstudy.json",
        "/clip/..%2f..%2fstudy/A.mp4",
        "/clip/1/%2e%2e.mp4",
        "/clip/1/D.mp4",
        "/clip/1/AB.mp4",
        "/clip/1/.mp4",
        "/clip/0/A.mp4",
        "/clip/3/A.mp4",
        "/clip/-1/A.mp4",
        "/static/..%2fweb.py",
        "/static/%2e%2e/web.py",
        "/static/study.json",
        "/static/../../study.json",
    ],
)
def test_path_traversal_is_not_found(study, path):
    with visiting(study) as client:
        answer = client.get(path)
        assert answer.status_code == 404
        assert "competitors" not in answer.text


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "' OR 1=1 --", "%00", "<script>", "a" * 5000])
def test_forged_token_is_refused(study, token):
    store, made, database = study
    database.invite([made.shuffled()])
    with TestClient(web.app(store, made, ["testserver"])) as client:
        answer = client.get(f"/i/{token}")
        assert answer.status_code == 404
        assert "set-cookie" not in answer.headers
        assert "<script>" not in answer.text
        for path in ("/", "/step/1", "/clip/1/A.mp4"):
            headers = {"cookie": f"invitation={token}"} if token.isprintable() else {}
            answer = client.get(path, headers=headers)
            assert answer.status_code == 403
            assert "open the link that you received" in answer.text
        assert client.post("/step/1", data=GOOD).status_code == 403


def test_form_of_another_site_is_refused(study):
    with visiting(study) as client:
        for origin in ("http://evil.example", "null", "http://testserver.evil.example", "http://testserver:1234"):
            assert vote(client, 1, origin=origin).status_code == 403
        for forged in ("", "0" * 64, "é"):
            answer = client.post("/step/1", data={**GOOD, "csrf": forged}, headers={"origin": "http://testserver"})
            assert answer.status_code == 403
            assert "was not sent from our page" in answer.text
        assert study[2].ballots() == []
        assert vote(client, 1, origin="http://testserver").status_code == 303


def test_form_of_another_volunteer_is_refused(study):
    with visiting(study) as one, visiting(study) as other:
        stolen = csrf(one.get("/step/1").text)
        assert other.post("/step/1", data={**GOOD, "csrf": stolen}).status_code == 403


def test_unknown_host_is_refused(study):
    with visiting(study) as client:
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400


def test_large_and_malformed_bodies_are_refused(study):
    with visiting(study) as client:
        big = b"A=" + b"1" * 10_000_000
        assert client.post("/step/1", content=big).status_code == 413
        assert client.post("/step/1", content=iter([big[:8000]] * 4)).status_code == 413  # without a content length
        many = "&".join(f"x{i}=1" for i in range(100))
        assert client.post("/step/1", content=many).status_code == 400
        assert client.post("/step/1", content=b"\xff\xfe").status_code == 400
        assert vote(client, 1).status_code == 303


def test_html_in_a_prompt_is_escaped(study):
    with visiting(study) as client:
        pages = []
        for step in range(1, STEPS + 1):
            pages.append(client.get(f"/step/{step}").text)
            vote(client, step)
    hostile = [page for page in pages if "alert" in page]
    assert len(hostile) == 3
    for page in hostile:
        assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; a red &amp;" in page
        assert "<script>alert" not in page


def test_no_response_names_a_method(study):
    """Checks every page, header, script and video. Videos have equal lengths and dates."""
    answers, videos = [], []
    with visiting(study) as client:
        answers += [client.get("/"), client.get("/static/study.js"), client.get("/static/study.css")]
        for step in range(1, STEPS + 1):
            answers += [client.get(f"/step/{step}"), vote(client, step, {"A": "1"}), vote(client, step)]
        answers += [vote(client, 1), client.get("/"), client.get("/nowhere"), client.get("/clip/9/A.mp4")]
        videos = [client.get(f"/clip/{group}/{letter}.mp4") for group in (1, 2) for letter in "ABC"]
    for answer in [*answers, *videos]:
        received = (str(answer.url) + str(answer.headers)).encode() + answer.content
        for history in answer.history:
            received += str(history.headers).encode()
        for word in secrets_of(study[1]):
            assert word.encode() not in received, (answer.url, word)
    assert all(video.status_code == 200 for video in videos)
    assert {video.headers["content-length"] for video in videos} == {str(len(videos[0].content))}
    assert {video.headers["last-modified"] for video in videos} == {"Thu, 01 Jan 1970 00:00:00 GMT"}
    assert len({video.content for video in videos}) == 6


def test_etags_of_videos_differ_between_volunteers(study):
    """Otherwise two volunteers could find out which of their letters show the same method."""
    with visiting(study) as one, visiting(study) as other:
        tags = [
            client.get(f"/clip/{group}/{letter}.mp4").headers["etag"]
            for client in (one, other)
            for group in (1, 2)
            for letter in "ABC"
        ]
    assert len(set(tags)) == 12


def test_video_supports_range_requests(study):
    with visiting(study) as client:
        part = client.get("/clip/1/A.mp4", headers={"range": "bytes=4-7"})
        assert (part.status_code, part.content) == (206, b"ftyp")


def test_every_response_has_security_headers(study):
    with visiting(study) as client:
        for path in ("/", "/step/1", "/static/study.js", "/clip/1/A.mp4", "/nowhere"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert "no-store" in headers["cache-control"] or "no-cache" in headers["cache-control"]
        page = client.get("/step/1").text
        assert "style=" not in page
        assert not re.search(r"\son\w+=", page)
        assert "//" not in page.replace("<!doctype html>", "")
        cookie = client.get(f"/i/{client.token}", follow_redirects=False).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert client.token not in client.get("/").text


def test_stored_data_are_anonymous(study):
    store, _, database = study
    with visiting(study) as client:
        vote(client, 1)
        database.close()
        stored = b"".join(path.read_bytes() for path in store.root.glob("study.sqlite*"))
        assert client.token.encode() not in stored
        assert b"testclient" not in stored


# ---- a real server ------------------------------------------------------------------------------------------------


def volunteer(base, token, barrier, seed):
    """Answer all steps in lockstep with the other volunteers, with an order given by `seed`."""
    ranks = dict(zip("ABC", ["123", "231", "312"][seed], strict=True))
    with httpx2.Client(base_url=base, follow_redirects=True) as client:
        assert client.get(f"/i/{token}").status_code == 200
        for step in range(1, STEPS + 1):
            barrier.wait(60)
            page = client.get(f"/step/{step}").text
            client.get("/clip/1/A.mp4").raise_for_status()
            answer = client.post(f"/step/{step}", data={**ranks, "csrf": csrf(page)}, headers={"origin": base})
            answer.raise_for_status()
        return client.get("/").text


def test_three_concurrent_volunteers_on_a_real_server(study):
    store, made, database = study
    tokens = database.invite([made.shuffled() for _ in range(3)])
    barrier = threading.Barrier(3)
    with serving(store) as (_, base), ThreadPoolExecutor(3) as pool:
        last = list(pool.map(volunteer, [base] * 3, tokens, [barrier] * 3, range(3)))
    assert all("Thank you" in page for page in last)
    ballots = database.ballots()
    assert len(ballots) == 3 * STEPS
    assert len({(b.voter, b.group, b.question) for b in ballots}) == 3 * STEPS


def test_killed_server_loses_no_committed_vote(study, tmp_path):
    """The server is killed right after an answer. Both a copy of its files and the next server have the vote."""
    store, made, database = study
    (token,) = database.invite([made.shuffled()])
    database.close()
    with serving(store) as (server, base), httpx2.Client(base_url=base, follow_redirects=True) as client:
        client.get(f"/i/{token}")
        page = client.get("/step/1").text
        client.post("/step/1", data={**GOOD, "csrf": csrf(page)}).raise_for_status()
        server.send_signal(signal.SIGKILL)
        server.wait()
    copy = tmp_path / "copy"
    shutil.copytree(store.root, copy)
    there = Database(copy / DATABASE)
    assert len(there.ballots()) == 1
    there.close()
    with serving(store) as (_, base), httpx2.Client(base_url=base, follow_redirects=True) as client:
        client.get(f"/i/{token}")
        assert client.get("/step/1").url.path == "/step/2"


def test_real_server_refuses_a_large_body_before_reading_it(study):
    """A raw request with a content length: the refusal comes before the body."""
    store, made, database = study
    (token,) = database.invite([made.shuffled()])
    with serving(store) as (_, base):
        host, port = base.removeprefix("http://").split(":")
        head = f"POST /step/1 HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: invitation={token}\r\n"
        with socket.create_connection((host, int(port)), timeout=30) as line:
            line.sendall(f"{head}Content-Length: 10000000\r\n\r\n".encode())
            answer = line.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"server:" not in answer.lower()


def test_interrupt_stops_the_server_and_a_taken_port_is_an_error(study):
    store = study[0]
    with serving(store) as (server, base):
        port = base.rsplit(":", 1)[1]
        done = subprocess.run([*SERVE, str(store.root), "--port", port], capture_output=True, text=True)
        assert done.returncode == 2
        assert f"Port {port} of 127.0.0.1 is not available (" in done.stderr
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 130
        errors = server.stderr.read()
        assert "Traceback" not in errors
        assert "Interrupted" in errors


def test_database_refuses_a_second_ballot(study):
    _, _, database = study
    assert database.cast(Ballot("v", 0, 0, [1, 2, 3]))
    assert not database.cast(Ballot("v", 0, 0, [3, 2, 1]))
    assert [ballot.ranks for ballot in database.ballots()] == [[1, 2, 3]]
