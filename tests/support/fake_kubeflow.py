"""A fake of the Kubeflow Pipelines API (v2beta1) that launchers use: experiments, runs and recurring runs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

ID = {"experiments": "experiment_id", "runs": "run_id", "recurringruns": "recurring_run_id"}
LISTED = {"experiments": "experiments", "runs": "runs", "recurringruns": "recurringRuns"}


class Server(ThreadingHTTPServer):
    """`objects` by kind and id, and in `changes` the modifying requests, in order."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in ID}
        self.changes: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.refusal: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        (kind, *_), query = self._request()
        if self.server.refusal:
            return self._reply(self.server.refusal, {"error": "no"})
        (predicate,) = json.loads(query["filter"][0])["predicates"]
        assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
        found = [
            item for item in self.server.objects[kind].values() if item["display_name"] == predicate["stringValue"]
        ]
        return self._reply(200, {LISTED[kind]: found[::-1]})

    def do_POST(self) -> None:
        (kind, *rest), _ = self._request()
        self.server.changes.append(("POST", self.path.removeprefix("/apis/v2beta1/")))
        if rest:
            name, _, verb = rest[0].partition(":")
            assert verb == "terminate"
            self.server.objects[kind][name]["state"] = "CANCELED"
            return self._reply(200, {})
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = f"{kind}-{len(self.server.changes)}"
        created = body | {ID[kind]: name} | ({"state": "PENDING"} if kind == "runs" else {})
        self.server.objects[kind][name] = created
        return self._reply(200, created)

    def do_DELETE(self) -> None:
        (kind, name), _ = self._request()
        self.server.changes.append(("DELETE", f"{kind}/{name}"))
        del self.server.objects[kind][name]
        return self._reply(200, {})

    def _request(self) -> tuple[list[str], dict[str, list[str]]]:
        url = urlsplit(self.path)
        self.server.tokens.append(self.headers.get("Authorization"))
        return url.path.removeprefix("/apis/v2beta1/").split("/"), parse_qs(url.query)

    def _reply(self, code: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Print no log."""


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
