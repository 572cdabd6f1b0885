"""Models of KubeRay's resources, with the rules of the controllers of KubeRay and Kueue.

The CRD schemas define the fields; which fields are compatible is defined in the controllers' code (KubeRay's
`validation.go`, Kueue's `rayjob_webhook.go`). These rules are validators here, so that a manifest that a cluster would
reject is never printed.
"""

import re
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from cluster.jobs.errors import ManifestError
from cluster.kubernetes.models.base import Model, Resource
from cluster.kubernetes.models.pods import PodTemplate

ELASTIC_ANNOTATION = "kueue.x-k8s.io/elastic-job"
MAX_KUEUE_GROUPS = 17  # a Workload has at most 18 pod sets, and the head is one of them
FIRST_RAY_WITH_TOKENS = 2, 52


class AuthOptions(Model):
    mode: Literal["token", "disabled"] = "token"
    secret_name: str | None = None
    enable_k8s_token_auth: bool | None = Field(default=None, alias="enableK8sTokenAuth")


class HeadGroup(Model):
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    ray_start_params: dict[str, str]
    template: PodTemplate


class WorkerGroup(Model):
    group_name: str
    replicas: int
    min_replicas: int | None = None
    max_replicas: int | None = None
    suspend: bool | None = None
    ray_start_params: dict[str, str]
    template: PodTemplate

    @model_validator(mode="after")
    def _replicas(self) -> Self:
        lowest = self.min_replicas if self.min_replicas is not None else self.replicas
        highest = self.max_replicas if self.max_replicas is not None else self.replicas
        if not 0 <= lowest <= self.replicas <= highest:
            raise ManifestError(
                f"Worker group {self.group_name} has {self.replicas} replicas, minReplicas {lowest} and maxReplicas "
                f"{highest}; expected 0 <= minReplicas <= replicas <= maxReplicas."
            )
        return self


class AutoscalerOptions(Model):
    version: Literal["v1", "v2"] | None = None
    idle_timeout_seconds: int | None = None


class RayClusterSpec(Model):
    ray_version: str
    auth_options: AuthOptions = AuthOptions(mode="token")
    enable_in_tree_autoscaling: bool | None = None
    autoscaler_options: AutoscalerOptions | None = None
    head_group_spec: HeadGroup
    worker_group_specs: tuple[WorkerGroup, ...]

    @model_validator(mode="after")
    def _rules(self) -> Self:
        autoscales = bool(self.enable_in_tree_autoscaling)
        is_v2 = autoscales and self.autoscaler_options is not None and self.autoscaler_options.version == "v2"
        for group in self.worker_group_specs:
            if not autoscales and (group.min_replicas is None or group.max_replicas is None):
                raise ManifestError(
                    f"Worker group {group.group_name} lacks minReplicas or maxReplicas; without autoscaling KubeRay "
                    "requires both."
                )
            if autoscales and group.suspend:
                raise ManifestError(
                    f"Worker group {group.group_name} is suspended and autoscaling is on; turn one of them off."
                )
        for template in (self.head_group_spec.template, *(group.template for group in self.worker_group_specs)):
            if is_v2 and template.spec.restart_policy not in (None, "Never"):
                raise ManifestError(
                    f"restartPolicy is {template.spec.restart_policy}; autoscaler v2 requires Never, or leave it unset."
                )
        if self.auth_options.mode == "token" and _numbers(self.ray_version) < FIRST_RAY_WITH_TOKENS:
            raise ManifestError(
                f"--ray-version is {self.ray_version!r}; token authentication requires Ray 2.52 or later."
            )
        return self


class RayCluster(Resource):
    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayCluster"] = "RayCluster"
    spec: RayClusterSpec

    @model_validator(mode="after")
    def _rules(self) -> Self:
        _check_queued(self, self.spec)
        return self


class Condition(Model):
    job_status: Literal["SUCCEEDED", "FAILED"] | None = None
    job_deployment_status: Literal["Failed"] | None = None
    ttl_seconds: int | None = None


class DeletionRule(Model):
    policy: Literal["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]
    condition: Condition


class DeletionStrategy(Model):
    deletion_rules: tuple[DeletionRule, ...]


class SubmitterConfig(Model):
    backoff_limit: int


class RayJobSpec(Model):
    submission_mode: Literal["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"] = "K8sJobMode"
    entrypoint: str
    backoff_limit: int = 2
    active_deadline_seconds: int | None = None
    pre_running_deadline_seconds: int | None = None
    shutdown_after_job_finishes: bool = True
    ttl_seconds_after_finished: int | None = None
    suspend: bool | None = None
    cluster_selector: dict[str, str] | None = None
    submitter_config: SubmitterConfig | None = None
    submitter_pod_template: PodTemplate | None = None
    deletion_strategy: DeletionStrategy | None = None
    ray_cluster_spec: RayClusterSpec | None = None

    @model_validator(mode="after")
    def _rules(self) -> Self:
        for error in self._violations():
            raise error
        return self

    def _violations(self) -> Iterator[ManifestError]:
        cluster, selects = self.ray_cluster_spec, bool(self.cluster_selector)
        head = cluster.head_group_spec.template.spec if cluster else None
        if selects == (cluster is not None):
            yield ManifestError("A RayJob needs rayClusterSpec or clusterSelector; set exactly one.")
        if self.backoff_limit < 0:
            yield ManifestError(f"backoffLimit is {self.backoff_limit}; expected 0 or more.")
        if selects and self.backoff_limit:
            yield ManifestError(
                "backoffLimit needs new clusters, and clusterSelector selects an existing one; omit one."
            )
        if self.submission_mode == "InteractiveMode" and self.backoff_limit:
            yield ManifestError("InteractiveMode does not support backoffLimit; set it to 0.")
        if self.suspend and (selects or not self.shutdown_after_job_finishes):
            yield ManifestError("suspend deletes the cluster; set shutdownAfterJobFinishes and no clusterSelector.")
        if self.submission_mode == "SidecarMode":
            if selects or self.submitter_config or self.submitter_pod_template:
                yield ManifestError("SidecarMode has no submitter and no clusterSelector; omit their fields.")
            if head and head.restart_policy not in (None, "Never"):
                yield ManifestError(
                    f"restartPolicy is {head.restart_policy}; SidecarMode requires Never, or leave it unset."
                )
        for seconds in (self.active_deadline_seconds, self.pre_running_deadline_seconds):
            if seconds is not None and seconds <= 0:
                yield ManifestError(f"A deadline is {seconds} s; expected more than 0, or leave it unset.")
        if self.deletion_strategy and (self.shutdown_after_job_finishes or self.ttl_seconds_after_finished):
            yield ManifestError("deletionRules replace shutdownAfterJobFinishes and the TTL; omit those.")
        if (seconds := self.ttl_seconds_after_finished) and (seconds < 0 or not self.shutdown_after_job_finishes):
            yield ManifestError(f"The TTL is {seconds} s; expected 0 or more, together with shutdownAfterJobFinishes.")
        if cluster and cluster.auth_options.enable_k8s_token_auth:
            yield ManifestError("A RayJob cannot use Kubernetes tokens; omit enableK8sTokenAuth.")


class RayJob(Resource):
    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayJob"] = "RayJob"
    spec: RayJobSpec

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.is_queued and (self.spec.cluster_selector or not self.spec.shutdown_after_job_finishes):
            raise ManifestError(
                "Kueue queues only RayJobs that create and delete their own cluster; set shutdownAfterJobFinishes and "
                "no clusterSelector, or omit --queue."
            )
        if self.spec.ray_cluster_spec:
            _check_queued(self, self.spec.ray_cluster_spec)
        return self


class RayCronJobSpec(Model):
    schedule: str
    time_zone: str | None = None
    job_template: RayJobSpec


class RayCronJob(Resource):
    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayCronJob"] = "RayCronJob"
    spec: RayCronJobSpec

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.is_queued:
            raise ManifestError("The jobs of a RayCronJob get no Kueue label; use cronjob, or omit --queue.")
        return self


def _check_queued(resource: Resource, cluster: RayClusterSpec) -> None:
    """Kueue's rules for clusters that it queues."""
    if not resource.is_queued:
        return
    if (number := len(cluster.worker_group_specs)) > MAX_KUEUE_GROUPS:
        raise ManifestError(f"There are {number} worker groups and Kueue accepts {MAX_KUEUE_GROUPS}; merge some.")
    elastic = (resource.metadata.annotations or {}).get(ELASTIC_ANNOTATION) == "true"
    if cluster.enable_in_tree_autoscaling and not elastic:
        raise ManifestError(
            f"Kueue does not admit autoscaling clusters; annotate {ELASTIC_ANNOTATION}: 'true' (Kueue 0.15), or turn "
            "autoscaling off."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
