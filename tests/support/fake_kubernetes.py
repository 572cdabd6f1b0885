"""A fake of the Kubernetes API that launchers use: custom objects with 409 and 404, pods by label, their logs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

CONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me, namespace: team}}]
clusters: [{name: here, cluster: {server: "http://127.0.0.1:%d"}}]
users: [{name: me, user: {}}]
"""


class Server(ThreadingHTTPServer):
    """`objects` by path, `requests` in order, and the logs of `pods` by their label job-name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.pods: dict[str, str] = {}
        self.refusal: int | None = None
        self.keeps_deleted = False  # whether deleted objects continue to exist


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        url = self._path()
        if self.server.refusal:
            return self._refuse(self.server.refusal)
        if url.path.endswith("/log"):
            return self._reply(200, self.server.pods[url.path.split("/")[-2]].encode(), "text/plain")
        if url.path.endswith("/pods"):
            name = parse_qs(url.query)["labelSelector"][0].removeprefix("job-name=")
            pods = [{"metadata": {"name": name}}] if name in self.server.pods else []
            return self._reply(200, {"kind": "PodList", "apiVersion": "v1", "items": pods})
        found = self.server.objects.get(url.path)
        return self._reply(200, found) if found else self._refuse(404)

    def do_POST(self) -> None:
        url = self._path()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.refusal:
            return self._refuse(self.server.refusal)
        key = f"{url.path}/{body['metadata']['name']}"
        if key in self.server.objects:
            return self._refuse(409)
        self.server.objects[key] = body
        return self._reply(201, body)

    def do_DELETE(self) -> None:
        url = self._path()
        take = self.server.objects.get if self.server.keeps_deleted else self.server.objects.pop
        found = take(url.path, None)
        return self._reply(200, {"kind": "Status", "status": "Success"}) if found else self._refuse(404)

    def _path(self) -> Any:
        url = urlsplit(self.path)
        self.server.requests.append((self.command, url.path))
        return url

    def _refuse(self, code: int) -> None:
        self._reply(code, {"kind": "Status", "status": "Failure", "code": code})

    def _reply(self, code: int, body: Any, kind: str = "application/json") -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Print no log."""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Server, Path]]:
    """A running server, and the file for KUBECONFIG."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = folder / "kubeconfig"
        config.write_text(CONFIG % server.server_port)
        try:
            yield server, config
        finally:
            server.shutdown()
