"""RayJobs through the API of Kubernetes. The only file with its client, which the extra `kubernetes` installs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cluster.kubernetes.job import SPEC_ANNOTATION, Job, account_of, ray_job
from cluster.kubernetes.launcher import (
    GOING_SECONDS,
    Change,
    Handle,
    LaunchError,
    State,
    Status,
    another,
    going,
    missing,
)
from cluster.kubernetes.manifests import Manifest

CLOCK = {  # a kind's API and its name in the client's methods
    "ServiceAccount": ("CoreV1Api", "service_account"),
    "Role": ("RbacAuthorizationV1Api", "role"),
    "RoleBinding": ("RbacAuthorizationV1Api", "role_binding"),
    "CronJob": ("BatchV1Api", "cron_job"),
}
RAY_JOBS = ("ray.io", "v1"), "rayjobs"
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")  # of a pod
CONFLICT, NOT_FOUND, NOT_YET = 409, 404, 400
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
        if _digest_of(self._get(job.name)) != job.digest:
            raise another(job.name)
        return Handle(job.name, is_new=False)

    def status(self, name: str) -> Status:
        return _status_of(self._get(name))

    def logs(self, name: str) -> str:
        """Of the pod that submitted the command and follows it; of the last one, if there were several."""
        with self._asking():
            pods = self.client.CoreV1Api().list_namespaced_pod(
                self.namespace, label_selector=f"job-name={name}", _request_timeout=TIMEOUT_SECONDS
            )
            if not pods.items:
                return ""
            last = max(pods.items, key=lambda pod: str(pod.metadata.creation_timestamp))
            try:
                return self.client.CoreV1Api().read_namespaced_pod_log(
                    last.metadata.name, self.namespace, _request_timeout=TIMEOUT_SECONDS
                )
            except self.client.ApiException as error:
                if error.status in (NOT_YET, NOT_FOUND):  # the pod starts, or is gone
                    return ""
                raise

    def cancel(self, name: str) -> None:
        with self._asking(name):
            self._ray_jobs("delete_namespaced_custom_object", name=name)

    def forget_failed(self, job: Job, sleep: Callable[[float], None] = time.sleep) -> None:
        """Delete this job if it has failed, and wait until it is gone; another stays. Raises LaunchError."""
        there = self._perhaps(job.name)
        if there is None or _digest_of(there) != job.digest or _status_of(there).state != "failed":
            return
        with self._asking():
            self._if_there(partial(self._ray_jobs, "delete_namespaced_custom_object", name=job.name))
        for _ in range(GOING_SECONDS):
            if self._perhaps(job.name) is None:
                return
            sleep(1)
        raise going(job.name)

    # ---- the clock ------------------------------------------------------------------------------------------------

    def schedule(self, manifests: Sequence[Manifest]) -> Change:
        """Have a CronJob, the last of these, and the rights that it needs. Raises LaunchError."""
        cron = manifests[-1].tree()
        with self._asking():
            there = self._if_there(lambda: self._clock("read", "CronJob", name=cron["metadata"]["name"]))
            asked = cron["metadata"]["annotations"][SPEC_ANNOTATION]
            if there and (there.metadata.annotations or {}).get(SPEC_ANNOTATION) == asked:
                return "unchanged"
            for manifest in manifests:
                name, body = manifest.metadata.name, manifest.tree()
                if self._if_there(partial(self._clock, "read", manifest.kind, name=name)):
                    self._clock("replace", manifest.kind, name=name, body=body)
                else:
                    self._clock("create", manifest.kind, body=body)
        return "replaced" if there else "created"

    def unschedule(self, name: str) -> Change:
        """A tick that has begun goes on. Raises LaunchError."""
        with self._asking():
            there = self._if_there(partial(self._clock, "delete", "CronJob", name=name))
            for kind in ("RoleBinding", "Role", "ServiceAccount"):
                self._if_there(partial(self._clock, "delete", kind, name=account_of(name)))
        return "deleted" if there else "unchanged"

    def _clock(self, verb: str, kind: str, **arguments: Any) -> Any:
        group, noun = CLOCK[kind]
        call = getattr(getattr(self.client, group)(), f"{verb}_namespaced_{noun}")
        return call(namespace=self.namespace, _request_timeout=TIMEOUT_SECONDS, **arguments)

    def _if_there(self, ask: Callable[[], Any]) -> Any:
        """What is asked; None where there is no such object."""
        try:
            return ask()
        except self.client.ApiException as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _get(self, name: str) -> dict[str, Any]:
        with self._asking(name):
            return self._ray_jobs("get_namespaced_custom_object", name=name)

    def _perhaps(self, name: str) -> dict[str, Any] | None:
        with self._asking():
            return self._if_there(partial(self._ray_jobs, "get_namespaced_custom_object", name=name))

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


def _status_of(there: dict[str, Any]) -> Status:
    status = there.get("status", {})
    deployed, ran = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    state = STATES.get(deployed, "waiting")
    if state == "succeeded" and ran and ran != "SUCCEEDED":
        state = "failed"
    return Status(state, " ".join(filter(None, (deployed, ran, status.get("message", "")))))


def _digest_of(there: dict[str, Any]) -> str | None:
    return there["metadata"].get("annotations", {}).get(SPEC_ANNOTATION)


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
