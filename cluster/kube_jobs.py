"""RayJobs through the API of Kubernetes. The only file with its client, which the extra `kubernetes` installs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.job import SPEC_ANNOTATION, Job, ray_job
from cluster.launcher import Handle, LaunchError, State, Status, another, missing

RAY_JOBS = ("ray.io", "v1"), "rayjobs"
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")  # of a pod
CONFLICT, NOT_FOUND = 409, 404
STATES: dict[str, State] = {
    "Complete": "succeeded",
    "Failed": "failed",
    "ValidationFailed": "failed",
    "Running": "running",
}
TIMEOUT_SECONDS = 30


class KubeRayJobs:
    """A `Launcher`: in a pod as its service account, elsewhere as `kubectl` would."""

    def __init__(self, namespace: str | None = None):
        self.client, here = _connected()
        self.namespace = namespace or here

    def submit(self, job: Job) -> Handle:
        manifest = ray_job(job).tree()
        with self._asking():
            try:
                self._ray_jobs("create_namespaced_custom_object", body=manifest)
            except self.client.ApiException as error:
                if error.status != CONFLICT:
                    raise
            else:
                return Handle(job.name, is_new=True)
        there = self._get(job.name)["metadata"].get("annotations", {})
        if there.get(SPEC_ANNOTATION) != job.digest:
            raise another(job.name)
        return Handle(job.name, is_new=False)

    def status(self, name: str) -> Status:
        status = self._get(name).get("status", {})
        deployed, ran = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
        state = STATES.get(deployed, "waiting")
        if state == "succeeded" and ran and ran != "SUCCEEDED":
            state = "failed"
        return Status(state, " ".join(filter(None, (deployed, ran, status.get("message", "")))))

    def logs(self, name: str) -> str:
        """Of the pod that submitted the command and follows it; of the last one, if there were several."""
        with self._asking():
            pods = self.client.CoreV1Api().list_namespaced_pod(
                self.namespace, label_selector=f"job-name={name}", _request_timeout=TIMEOUT_SECONDS
            )
            if not pods.items:
                return ""
            last = max(pods.items, key=lambda pod: str(pod.metadata.creation_timestamp))
            return self.client.CoreV1Api().read_namespaced_pod_log(
                last.metadata.name, self.namespace, _request_timeout=TIMEOUT_SECONDS
            )

    def cancel(self, name: str) -> None:
        with self._asking(name):
            self._ray_jobs("delete_namespaced_custom_object", name=name)

    def _get(self, name: str) -> dict[str, Any]:
        with self._asking(name):
            return self._ray_jobs("get_namespaced_custom_object", name=name)

    def _ray_jobs(self, verb: str, **arguments: Any) -> Any:
        (group, version), plural = RAY_JOBS
        call = getattr(self.client.CustomObjectsApi(), verb)
        return call(
            group=group,
            version=version,
            plural=plural,
            namespace=self.namespace,
            _request_timeout=TIMEOUT_SECONDS,
            **arguments,
        )

    @contextmanager
    def _asking(self, name: str = "") -> Iterator[None]:
        """What the API answers in bad cases becomes a `LaunchError`."""
        from urllib3.exceptions import HTTPError

        try:
            yield
        except self.client.ApiException as error:
            if error.status == NOT_FOUND and name:
                raise missing(name) from error
            reason = f"{error.status} {error.reason}: {' '.join(str(error.body or '').split())[:300]}"
            raise LaunchError(
                f"Kubernetes refused ({reason}); see that KubeRay is installed and that you may work in "
                f"{self.namespace}."
            ) from error
        except HTTPError as error:
            raise LaunchError(
                f"No API server of Kubernetes answers ({type(error).__name__}); see kubectl cluster-info."
            ) from error


def _connected() -> tuple[Any, str]:
    """The client, and the namespace that is meant where none is named."""
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise LaunchError(
            "The client of Kubernetes is not installed; run pip install 'segmentdreamer[kubernetes]'."
        ) from error
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
            _, context = config.list_kube_config_contexts()
        except config.ConfigException as error:
            raise LaunchError(f"No cluster is configured ({error}); set KUBECONFIG, as for kubectl.") from error
        return client, context["context"].get("namespace", "default")
    return client, OWN_NAMESPACE.read_text(encoding="utf-8").strip()
