"""Manifests for Kubernetes as values: KubeRay's resources and a CronJob, and the rules of their controllers.

A CRD's schema says which fields there are; which of them go together is in the controllers' code (KubeRay's
`validation.go`, Kueue's `rayjob_webhook.go`). Those rules are validators here, so that a manifest that a cluster would
refuse is never printed. Field names are those of the API, in Python's case.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

QUEUE_LABEL, ELASTIC_ANNOTATION = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/elastic-job"
# KubeRay and Kubernetes append to these names; of a CronJob 11 characters, of its Jobs what becomes a RayJob's name.
MOST_CHARACTERS = {"RayJob": 47, "RayCluster": 63, "RayCronJob": 36, "CronJob": 38}
MOST_KUEUE_GROUPS = 17  # a Workload has 18 pod sets at most, and the head is one
FIRST_RAY_WITH_TOKENS = 2, 52
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


class ManifestError(ValueError):
    """A manifest that a cluster would refuse; the message says which rule, and what to do."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


# ---- pods ---------------------------------------------------------------------------------------------------------


class SecretKey(_Model):
    name: str
    key: str


class FieldPath(_Model):
    field_path: str


class ValueFrom(_Model):
    secret_key_ref: SecretKey | None = None
    field_ref: FieldPath | None = None


class EnvVar(_Model):
    name: str
    value: str | None = None
    value_from: ValueFrom | None = None


class VolumeMount(_Model):
    name: str
    mount_path: str
    read_only: bool | None = None


class Claim(_Model):
    claim_name: str


class Nfs(_Model):
    server: str
    path: str


class HostPath(_Model):
    path: str
    type: Literal["DirectoryOrCreate"] = "DirectoryOrCreate"


class EmptyDir(_Model):
    medium: Literal["Memory"] | None = None
    size_limit: str | None = None


class Volume(_Model):
    name: str
    persistent_volume_claim: Claim | None = None
    nfs: Nfs | None = None
    host_path: HostPath | None = None
    empty_dir: EmptyDir | None = None


class Resources(_Model):
    limits: dict[str, str]
    requests: dict[str, str]


class Capabilities(_Model):
    drop: tuple[str, ...] = ("ALL",)


class SecurityContext(_Model):
    """Of a container."""

    run_as_user: int | None = None
    run_as_non_root: bool | None = None
    allow_privilege_escalation: bool = False
    capabilities: Capabilities = Capabilities()


class Container(_Model):
    name: str
    image: str
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[EnvVar, ...] | None = None
    resources: Resources | None = None
    security_context: SecurityContext | None = None
    volume_mounts: tuple[VolumeMount, ...] | None = None


class Expression(_Model):
    key: str
    operator: Literal["In", "Gt", "Exists"]
    values: tuple[str, ...] | None = None


class NodeSelectorTerm(_Model):
    match_expressions: tuple[Expression, ...]


class NodeSelector(_Model):
    node_selector_terms: tuple[NodeSelectorTerm, ...]


class NodeAffinity(_Model):
    required_during_scheduling_ignored_during_execution: NodeSelector


class Affinity(_Model):
    node_affinity: NodeAffinity


class Toleration(_Model):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"]


class PodSecurity(_Model):
    fs_group: int


class PodSpec(_Model):
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] | None = None
    volumes: tuple[Volume, ...] | None = None
    node_selector: dict[str, str] | None = None
    affinity: Affinity | None = None
    tolerations: tuple[Toleration, ...] | None = None
    restart_policy: Literal["Always", "OnFailure", "Never"] | None = None
    security_context: PodSecurity | None = None
    service_account_name: str | None = None
    automount_service_account_token: bool | None = None


class Metadata(_Model):
    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class PodTemplate(_Model):
    metadata: Metadata | None = None
    spec: PodSpec


# ---- Ray ----------------------------------------------------------------------------------------------------------


class AuthOptions(_Model):
    mode: Literal["token", "disabled"] = "token"
    secret_name: str | None = None
    enable_k8s_token_auth: bool | None = Field(default=None, alias="enableK8sTokenAuth")


class HeadGroup(_Model):
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    ray_start_params: dict[str, str]
    template: PodTemplate


class WorkerGroup(_Model):
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
                f"Worker group {self.group_name} has {self.replicas} replicas between {lowest} and {highest}; expected "
                "0 <= minReplicas <= replicas <= maxReplicas."
            )
        return self


class AutoscalerOptions(_Model):
    version: Literal["v1", "v2"] | None = None
    idle_timeout_seconds: int | None = None


class RayClusterSpec(_Model):
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
                    f"Worker group {group.group_name} has no minReplicas or no maxReplicas; without autoscaling "
                    "KubeRay expects both."
                )
            if autoscales and group.suspend:
                raise ManifestError(
                    f"Worker group {group.group_name} is suspended and the autoscaler on; turn one of them off."
                )
        for template in (self.head_group_spec.template, *(group.template for group in self.worker_group_specs)):
            if is_v2 and template.spec.restart_policy not in (None, "Never"):
                raise ManifestError(
                    f"restartPolicy is {template.spec.restart_policy}; the autoscaler v2 expects Never, or none."
                )
        if self.auth_options.mode == "token" and _numbers(self.ray_version) < FIRST_RAY_WITH_TOKENS:
            raise ManifestError(f"--ray-version is {self.ray_version!r}; tokens need Ray 2.52 or later.")
        return self


class _Resource(_Model):
    """What lies in a file of its own."""

    api_version: str
    kind: str
    metadata: Metadata

    @model_validator(mode="after")
    def _name(self) -> Self:
        name, most = self.metadata.name or "", MOST_CHARACTERS.get(self.kind, 63)
        if len(name) > most or not DNS_1035.fullmatch(name):
            raise ManifestError(
                f"--name is {name!r}; a {self.kind} needs 1 to {most} of a-z, 0-9 and -, a letter first and no - last."
            )
        return self

    @property
    def is_queued(self) -> bool:
        return QUEUE_LABEL in (self.metadata.labels or {})

    def tree(self) -> dict[str, Any]:
        """As the API takes it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class RayCluster(_Resource):
    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayCluster"] = "RayCluster"
    spec: RayClusterSpec

    @model_validator(mode="after")
    def _rules(self) -> Self:
        _check_queued(self, self.spec)
        return self


class Condition(_Model):
    job_status: Literal["SUCCEEDED", "FAILED"] | None = None
    job_deployment_status: Literal["Failed"] | None = None
    ttl_seconds: int | None = None


class DeletionRule(_Model):
    policy: Literal["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]
    condition: Condition


class DeletionStrategy(_Model):
    deletion_rules: tuple[DeletionRule, ...]


class SubmitterConfig(_Model):
    backoff_limit: int


class RayJobSpec(_Model):
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
        for error in self._broken():
            raise error
        return self

    def _broken(self) -> Iterator[ManifestError]:
        cluster, selects = self.ray_cluster_spec, bool(self.cluster_selector)
        head = cluster.head_group_spec.template.spec if cluster else None
        if selects == (cluster is not None):
            yield ManifestError("A RayJob has rayClusterSpec or clusterSelector; give exactly one.")
        if self.backoff_limit < 0:
            yield ManifestError(f"backoffLimit is {self.backoff_limit}; give 0 or more.")
        if selects and self.backoff_limit:
            yield ManifestError("backoffLimit makes a new cluster and clusterSelector none; leave one of them out.")
        if self.submission_mode == "InteractiveMode" and self.backoff_limit:
            yield ManifestError("backoffLimit does not go with InteractiveMode; set it to 0.")
        if self.suspend and (selects or not self.shutdown_after_job_finishes):
            yield ManifestError("suspend takes the cluster away; set shutdownAfterJobFinishes and no clusterSelector.")
        if self.submission_mode == "SidecarMode":
            if selects or self.submitter_config or self.submitter_pod_template:
                yield ManifestError("SidecarMode has no submitter and no clusterSelector; leave out their fields.")
            if head and head.restart_policy not in (None, "Never"):
                yield ManifestError(f"restartPolicy is {head.restart_policy}; SidecarMode expects Never, or none.")
        for seconds in (self.active_deadline_seconds, self.pre_running_deadline_seconds):
            if seconds is not None and seconds <= 0:
                yield ManifestError(f"A deadline is {seconds} s; give more than 0, or none.")
        if self.deletion_strategy and (self.shutdown_after_job_finishes or self.ttl_seconds_after_finished):
            yield ManifestError("deletionRules say what is deleted; leave out shutdownAfterJobFinishes and the TTL.")
        if (seconds := self.ttl_seconds_after_finished) and (seconds < 0 or not self.shutdown_after_job_finishes):
            yield ManifestError(f"The TTL is {seconds} s; give 0 or more, and shutdownAfterJobFinishes with it.")
        if cluster and cluster.auth_options.enable_k8s_token_auth:
            yield ManifestError("A RayJob cannot use Kubernetes' own tokens; leave enableK8sTokenAuth out.")


class RayJob(_Resource):
    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayJob"] = "RayJob"
    spec: RayJobSpec

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.is_queued and (self.spec.cluster_selector or not self.spec.shutdown_after_job_finishes):
            raise ManifestError(
                "Kueue queues a RayJob with a cluster of its own that ends with it; set shutdownAfterJobFinishes and "
                "no clusterSelector, or leave --queue out."
            )
        if self.spec.ray_cluster_spec:
            _check_queued(self, self.spec.ray_cluster_spec)
        return self


class RayCronJobSpec(_Model):
    schedule: str
    time_zone: str | None = None
    job_template: RayJobSpec


class RayCronJob(_Resource):
    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayCronJob"] = "RayCronJob"
    spec: RayCronJobSpec

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.is_queued:
            raise ManifestError("The jobs of a RayCronJob carry no label of Kueue; use cronjob, or leave --queue out.")
        return self


def _check_queued(resource: _Resource, cluster: RayClusterSpec) -> None:
    """Kueue's own rules, for what it shall queue."""
    if not resource.is_queued:
        return
    if (number := len(cluster.worker_group_specs)) > MOST_KUEUE_GROUPS:
        raise ManifestError(f"There are {number} worker groups and Kueue takes {MOST_KUEUE_GROUPS}; merge some.")
    elastic = (resource.metadata.annotations or {}).get(ELASTIC_ANNOTATION) == "true"
    if cluster.enable_in_tree_autoscaling and not elastic:
        raise ManifestError(
            f"Kueue admits no autoscaling cluster; annotate {ELASTIC_ANNOTATION}: 'true' (Kueue 0.15), or turn it off."
        )


# ---- what starts a job by the clock -------------------------------------------------------------------------------


class JobSpec(_Model):
    backoff_limit: int
    template: PodTemplate


class JobTemplate(_Model):
    spec: JobSpec


class CronJobSpec(_Model):
    schedule: str
    time_zone: str | None = None
    concurrency_policy: Literal["Forbid", "Replace", "Allow"] = "Forbid"
    starting_deadline_seconds: int
    successful_jobs_history_limit: int = 7
    failed_jobs_history_limit: int = 7
    job_template: JobTemplate


class CronJob(_Resource):
    api_version: Literal["batch/v1"] = "batch/v1"
    kind: Literal["CronJob"] = "CronJob"
    spec: CronJobSpec


class ServiceAccount(_Resource):
    api_version: Literal["v1"] = "v1"
    kind: Literal["ServiceAccount"] = "ServiceAccount"


class PolicyRule(_Model):
    api_groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


class Role(_Resource):
    api_version: Literal["rbac.authorization.k8s.io/v1"] = "rbac.authorization.k8s.io/v1"
    kind: Literal["Role"] = "Role"
    rules: tuple[PolicyRule, ...]


class RoleRef(_Model):
    api_group: str = "rbac.authorization.k8s.io"
    kind: Literal["Role"] = "Role"
    name: str


class Subject(_Model):
    kind: Literal["ServiceAccount"] = "ServiceAccount"
    name: str


class RoleBinding(_Resource):
    api_version: Literal["rbac.authorization.k8s.io/v1"] = "rbac.authorization.k8s.io/v1"
    kind: Literal["RoleBinding"] = "RoleBinding"
    role_ref: RoleRef
    subjects: tuple[Subject, ...]


Manifest = RayJob | RayCluster | RayCronJob | CronJob | ServiceAccount | Role | RoleBinding


@contextmanager
def refusing() -> Iterator[None]:
    """What pydantic says of a model that is built within becomes a ManifestError: of the first rule that is broken."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        broken = first.get("ctx", {}).get("error")
        if isinstance(broken, ManifestError):
            raise broken from None
        key = ".".join(map(str, first["loc"]))
        raise ManifestError(f"{key} is {first['input']!r}: {first['msg']}; mend it.") from error


def as_yaml(*manifests: Manifest) -> str:
    """Documents as `kubectl apply -f -` reads them."""
    return yaml.safe_dump_all([manifest.tree() for manifest in manifests], sort_keys=False, width=10_000)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
