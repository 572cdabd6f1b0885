"""An emulated Kubernetes API server, and an operator that runs RayJobs as KubeRay does, as local processes."""

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kmock

from tests.support import crd_schemas, fake_kubernetes

NAMESPACE = "team"  # of fake_kubernetes.CONFIG
RESOURCES = (
    "v1/pods",
    "v1/serviceaccounts",
    "batch/v1/cronjobs",
    "ray.io/v1/rayjobs",
    "rbac.authorization.k8s.io/v1/roles",
    "rbac.authorization.k8s.io/v1/rolebindings",
)
Process = subprocess.Popen[bytes]


class Cluster:
    """The server, the operator and their history. A running attempt is killed when `kill` returns True."""

    def __init__(self, folder: Path):
        self.folder, self.kill = folder, lambda attempt: False
        self.created: list[str] = []
        self.attempts: list[list[str]] = []
        self.phases: dict[str, list[str]] = {}
        self.environment = dict(os.environ)
        self.running: dict[str, Process] = {}
        self.emulator = kmock.KubernetesEmulator()
        for resource in RESOURCES:
            self.emulator.resources[resource] = {}
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._ends = threading.Event()

    # ---- the server -------------------------------------------------------------------------------------------

    def serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self.emulator[kmock.subresource("log")] << (lambda request: self.log_of(request.name))
        self.emulator[kmock.method.PUT] << self._replace  # the emulator does not support PUT
        async with self.emulator, kmock.Server(self.emulator) as server:
            self.url = f"http://{server.host}:{server.port}"
            self._ready.set()
            await self._stop.wait()

    def _replace(self, request: kmock.Request) -> Any:
        self.emulator.objects[request.resource, request.namespace, request.name] = request.data
        return request.data

    def call(self, verb: str, path: str, body: Any = None) -> Any:
        import requests

        answer = requests.request(verb, f"{self.url}{path}", json=body, timeout=10)
        return answer.json() if answer.ok and answer.content else None

    @property
    def changes(self) -> list[str]:
        """The modifying requests, as "POST /apis/…"."""
        requests = [f"{request.method.value} {request.url.path}" for request in self.emulator]
        return [line for line in requests if not line.startswith("GET ")]

    def log_of(self, name: str) -> bytes:
        path = self.folder / f"{name}.log"
        return path.read_bytes() if path.exists() else b""

    # ---- the operator -----------------------------------------------------------------------------------------

    def operate(self) -> None:
        """Take each new RayJob through its phases, one thread per job."""
        threads: dict[str, threading.Thread] = {}
        while not self._ends.wait(0.05):
            found = self.call("GET", f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayjobs") or {}
            for job in found.get("items", []):
                name = job["metadata"]["name"]
                if name not in threads or not (threads[name].is_alive() or "status" in job):
                    self.created.append(name)
                    threads[name] = threading.Thread(target=self._run_job, args=(name, job))
                    threads[name].start()
        for process in self.running.values():
            process.kill()
        for thread in threads.values():
            thread.join()

    def _run_job(self, name: str, job: dict[str, Any]) -> None:
        if problems := crd_schemas.problems({key: part for key, part in job.items() if key != "status"}):
            return self._set_status(name, jobDeploymentStatus="ValidationFailed", message=problems[0])
        for attempt in range(job["spec"]["backoffLimit"] + 1):
            self._set_status(name, jobDeploymentStatus="Initializing")
            self._set_status(name, jobDeploymentStatus="Running", jobStatus="RUNNING")
            if self._attempt(name, job["spec"]["entrypoint"]) == 0:
                return self._set_status(name, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
            if not self.exists(name):
                return None
            if attempt < job["spec"]["backoffLimit"]:
                self._set_status(name, jobDeploymentStatus="Retrying", jobStatus="FAILED")
        return self._set_status(name, jobDeploymentStatus="Failed", jobStatus="FAILED", message="all attempts failed")

    def _attempt(self, name: str, entrypoint: str) -> int:
        pod = f"{name}-{len(self.attempts)}"
        self.attempts.append(entrypoint.split())
        metadata = {
            "name": pod,
            "labels": {"job-name": name},
            "creationTimestamp": f"2026-01-01T00:00:{len(self.attempts):02}Z",
        }
        self.call("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", {"metadata": metadata, "spec": {"containers": []}})
        with (self.folder / f"{pod}.log").open("wb") as log:
            # A shell runs the entrypoint, as in KubeRay's submitter and Ray's supervisor.
            command = ["bash", "-ce", f"exec {entrypoint}"]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, cwd=self.folder)
            self.running[name] = process
            while process.poll() is None:
                if self.kill(len(self.attempts)) or not self.exists(name):
                    process.kill()
                time.sleep(0.02)
        return process.wait()

    def exists(self, name: str) -> bool:
        return self.call("GET", f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayjobs/{name}") is not None

    def _set_status(self, name: str, **status: str) -> None:
        self.phases.setdefault(name, []).append(status["jobDeploymentStatus"])
        self.call("PATCH", f"/apis/ray.io/v1/namespaces/{NAMESPACE}/rayjobs/{name}", {"status": status})


@contextmanager
def running(folder: Path) -> Iterator[tuple[Cluster, Path]]:
    """A running cluster, and the file for KUBECONFIG."""
    cluster = Cluster(folder)
    threads = [threading.Thread(target=target) for target in (cluster.serve, cluster.operate)]
    threads[0].start()
    assert cluster._ready.wait(30)
    config = folder / "kubeconfig"
    config.write_text(fake_kubernetes.CONFIG.replace("http://127.0.0.1:%d", cluster.url))
    threads[1].start()
    try:
        yield cluster, config
    finally:
        cluster._ends.set()
        threads[1].join()
        cluster._loop.call_soon_threadsafe(cluster._stop.set)
        threads[0].join()


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until a condition holds that another process fulfils."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds} s"
        time.sleep(0.05)
