"""The launcher of RayJobs and CronJobs through the Kubernetes API.

The only file that imports the Kubernetes client, which the extra `kubernetes` installs.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from cluster.jobs.description import ClusterJob
from cluster.jobs.errors import LaunchError, UnreachableError
from cluster.jobs.launcher import (
    Handle,
    JobState,
    JobStatus,
    ScheduleChange,
    name_taken,
    no_such_job,
)
from cluster.kubernetes.cronjob import account_of
from cluster.kubernetes.models import Manifest
from cluster.kubernetes.rayjob import SPEC_ANNOTATION, ray_job

CRON_JOB_KINDS = {  # the API group of each kind, and its name in the client's methods
    "ServiceAccount": ("CoreV1Api", "service_account"),
    "Role": ("RbacAuthorizationV1Api", "role"),
    "RoleBinding": ("RbacAuthorizationV1Api", "role_binding"),
    "CronJob": ("BatchV1Api", "cron_job"),
}
RAY_JOBS = ("ray.io", "v1"), "rayjobs"
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONFLICT, NOT_FOUND, NOT_READY = 409, 404, 400
OVERLOADED = 429, 500, 502, 503, 504  # or restarting
STATES: dict[str, JobState] = {
    "Complete": "succeeded",
    "Failed": "failed",
    "ValidationFailed": "failed",
    "Running": "running",
}
TIMEOUT_SECONDS, DELETION_SECONDS = 30, 60


class KubeRayJobs:
    """A `Launcher`. In a pod it uses the pod's service account, elsewhere the configuration of `kubectl`."""

    def __init__(self, namespace: str | None = None):
        self._namespace = namespace

    @cached_property
    def _connection(self) -> tuple[Any, str]:
        return _connect()

    @property
    def client(self) -> Any:
        return self._connection[0]

    @property
    def namespace(self) -> str:
        return self._namespace or self._connection[1]

    def submit(self, job: ClusterJob) -> Handle:
        manifest = ray_job(job).tree()
        with self._launch_errors():
            try:
                self._ray_jobs("create_namespaced_custom_object", body=manifest)
            except self.client.ApiException as error:
                if error.status != CONFLICT:
                    raise
            else:
                return Handle(job.name, is_new=True)
        if _digest_of(self._get(job.name)) != job.digest:
            raise name_taken(job.name)
        return Handle(job.name, is_new=False)

    def status(self, name: str) -> JobStatus:
        return _status_of(self._get(name))

    def logs(self, name: str) -> str:
        """The log of the pod that submitted the command and follows its output; of the newest if there are several."""
        with self._launch_errors():
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
                if error.status in (NOT_READY, NOT_FOUND):  # the pod is starting, or has been deleted
                    return ""
                raise

    def cancel(self, name: str) -> None:
        with self._launch_errors(name):
            self._ray_jobs("delete_namespaced_custom_object", name=name)

    def forget_failed(self, job: ClusterJob, sleep: Callable[[float], None] = time.sleep) -> None:
        found = self._get_or_none(job.name)
        if found is None or _digest_of(found) != job.digest or _status_of(found).state != "failed":
            return
        with self._launch_errors():
            self._none_if_missing(partial(self._ray_jobs, "delete_namespaced_custom_object", name=job.name))
        for _ in range(DELETION_SECONDS):  # it exists until its operator releases it
            if self._get_or_none(job.name) is None:
                return
            sleep(1)
        raise LaunchError(
            f"The failed job {job.name} still exists {DELETION_SECONDS} s after its deletion; run the same command "
            "later."
        )

    # ---- schedules ------------------------------------------------------------------------------------------------

    def schedule(self, manifests: Sequence[Manifest]) -> ScheduleChange:
        """Create or replace a CronJob, the last manifest, and its account and role. Raises LaunchError."""
        cron = manifests[-1].tree()
        with self._launch_errors():
            found = self._none_if_missing(lambda: self._cron_job("read", "CronJob", name=cron["metadata"]["name"]))
            digest = cron["metadata"]["annotations"][SPEC_ANNOTATION]
            if found and (found.metadata.annotations or {}).get(SPEC_ANNOTATION) == digest:
                return "unchanged"
            for manifest in manifests:
                name, body = manifest.metadata.name, manifest.tree()
                if self._none_if_missing(partial(self._cron_job, "read", manifest.kind, name=name)):
                    self._cron_job("replace", manifest.kind, name=name, body=body)
                else:
                    self._cron_job("create", manifest.kind, body=body)
        return "replaced" if found else "created"

    def unschedule(self, name: str) -> ScheduleChange:
        """Delete a CronJob with its account and role. A tick that has started continues. Raises LaunchError."""
        with self._launch_errors():
            found = self._none_if_missing(partial(self._cron_job, "delete", "CronJob", name=name))
            for kind in ("RoleBinding", "Role", "ServiceAccount"):
                self._none_if_missing(partial(self._cron_job, "delete", kind, name=account_of(name)))
        return "deleted" if found else "unchanged"

    # ---- requests -------------------------------------------------------------------------------------------------

    def _cron_job(self, verb: str, kind: str, **arguments: Any) -> Any:
        group, noun = CRON_JOB_KINDS[kind]
        call = getattr(getattr(self.client, group)(), f"{verb}_namespaced_{noun}")
        return call(namespace=self.namespace, _request_timeout=TIMEOUT_SECONDS, **arguments)

    def _none_if_missing(self, request: Callable[[], Any]) -> Any:
        """The answer to a request; None if the object does not exist."""
        try:
            return request()
        except self.client.ApiException as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def _get(self, name: str) -> dict[str, Any]:
        with self._launch_errors(name):
            return self._ray_jobs("get_namespaced_custom_object", name=name)

    def _get_or_none(self, name: str) -> dict[str, Any] | None:
        with self._launch_errors():
            return self._none_if_missing(partial(self._ray_jobs, "get_namespaced_custom_object", name=name))

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
    def _launch_errors(self, name: str = "") -> Iterator[None]:
        """Turn errors of the API and its connection into a `LaunchError`."""
        from urllib3.exceptions import HTTPError

        try:
            yield
        except self.client.ApiException as error:
            if error.status == NOT_FOUND and name:
                raise no_such_job(name) from error
            reason = f"{error.status} {error.reason}: {' '.join(str(error.body or '').split())[:300]}"
            if error.status in OVERLOADED:
                raise _unreachable(f"{error.status} {error.reason}") from error
            raise LaunchError(
                f"Kubernetes refused the request ({reason}); check that KubeRay is installed and that you may use the "
                f"namespace {self.namespace}."
            ) from error
        except HTTPError as error:
            raise _unreachable(type(error).__name__) from error


def _unreachable(reason: str) -> LaunchError:
    return UnreachableError(f"The Kubernetes API server does not answer ({reason}); check kubectl cluster-info.")


def _status_of(found: dict[str, Any]) -> JobStatus:
    status = found.get("status", {})
    deployment, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    state = STATES.get(deployment, "waiting")
    if state == "succeeded" and job and job != "SUCCEEDED":
        state = "failed"
    return JobStatus(state, " ".join(filter(None, (deployment, job, status.get("message", "")))))


def _digest_of(found: dict[str, Any]) -> str | None:
    return found["metadata"].get("annotations", {}).get(SPEC_ANNOTATION)


def _connect() -> tuple[Any, str]:
    """The client, and the default namespace."""
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise LaunchError(
            "The Kubernetes client is not installed; install it with pip install 'segmentdreamer[kubernetes]'."
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
    return client, POD_NAMESPACE.read_text(encoding="utf-8").strip()
