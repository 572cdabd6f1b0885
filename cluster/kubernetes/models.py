"""Models of the Kubernetes objects that this package sends: pods, KubeRay's resources, CronJobs and their rights.

They have the fields that are set here. The CRD schemas define the fields, and tests validate against these. Some rules
exist only in the controllers' code (KubeRay's `validation.go`, Kueue's webhooks): those that a job can break are
validators here, so that a manifest that a cluster would reject is never printed.
"""

import re
from typing import Any, Literal, Self

import yaml
from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from cluster.jobs.errors import CheckedModel, ManifestError

QUEUE_LABEL, PRIORITY_LABEL = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
ELASTIC_ANNOTATION = "kueue.x-k8s.io/elastic-job"
JOB_LABEL = "app.kubernetes.io/instance"  # of all pods of a job
# KubeRay and Kubernetes append to these names: 11 characters to that of a CronJob, whose Jobs name the RayJobs.
MAX_CHARACTERS = {"RayJob": 47, "RayCluster": 63, "RayCronJob": 36, "CronJob": 38}
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
FIRST_RAY_WITH_TOKENS = 2, 52


class Model(CheckedModel):
    """Field names are those of the API, in snake case."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Metadata(Model):
    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Resource(Model):
    """A top-level object of the API."""

    api_version: str
    kind: str
    metadata: Metadata

    @model_validator(mode="after")
    def _name(self) -> Self:
        name, limit = self.metadata.name or "", MAX_CHARACTERS.get(self.kind, 63)
        if len(name) > limit or not DNS_1035.fullmatch(name):
            raise ManifestError(
                f"`name` is {name!r}; the name of a {self.kind} has 1 to {limit} characters of a-z, 0-9 and -, begins "
                "with a letter and does not end with -."
            )
        return self

    def tree(self) -> dict[str, Any]:
        """The object as the API accepts it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def as_yaml(*resources: Resource) -> str:
    """YAML documents, as `kubectl apply -f -` reads them."""
    return yaml.safe_dump_all([resource.tree() for resource in resources], sort_keys=False, width=10_000)


# ---- pods ---------------------------------------------------------------------------------------------------------


class SecretKey(Model):
    name: str
    key: str


class FieldPath(Model):
    field_path: str


class ValueFrom(Model):
    secret_key_ref: SecretKey | None = None
    field_ref: FieldPath | None = None


class EnvVar(Model):
    name: str
    value: str | None = None
    value_from: ValueFrom | None = None


class VolumeMount(Model):
    name: str
    mount_path: str
    read_only: bool | None = None


class Claim(Model):
    claim_name: str


class Nfs(Model):
    server: str
    path: str


class HostPath(Model):
    path: str
    type: Literal["DirectoryOrCreate"] = "DirectoryOrCreate"


class EmptyDir(Model):
    medium: Literal["Memory"]
    size_limit: str


class Volume(Model):
    name: str
    persistent_volume_claim: Claim | None = None
    nfs: Nfs | None = None
    host_path: HostPath | None = None
    empty_dir: EmptyDir | None = None


class Resources(Model):
    limits: dict[str, str]
    requests: dict[str, str]


class Capabilities(Model):
    drop: tuple[str, ...] = ("ALL",)


class SeccompProfile(Model):
    type: Literal["RuntimeDefault"] = "RuntimeDefault"


class SecurityContext(Model):
    """The security context of a container; that of a user is accepted by Kubernetes' profile "restricted"."""

    run_as_user: int | None = None
    run_as_non_root: bool | None = None
    allow_privilege_escalation: bool = False
    capabilities: Capabilities = Capabilities()
    seccomp_profile: SeccompProfile = SeccompProfile()


class Container(Model):
    name: str
    image: str
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[EnvVar, ...] | None = None
    resources: Resources
    security_context: SecurityContext
    volume_mounts: tuple[VolumeMount, ...] | None = None


class Expression(Model):
    key: str
    operator: Literal["Gt", "In"]
    values: tuple[str, ...]


class NodeSelectorTerm(Model):
    match_expressions: tuple[Expression, ...]


class NodeSelector(Model):
    node_selector_terms: tuple[NodeSelectorTerm, ...]


class NodeAffinity(Model):
    required_during_scheduling_ignored_during_execution: NodeSelector


class Affinity(Model):
    node_affinity: NodeAffinity


class Toleration(Model):
    key: str
    operator: Literal["Exists", "Equal"]
    value: str | None = None
    effect: str | None = None  # all effects without one


class PodSecurity(Model):
    """The security context of a pod."""

    fs_group: int


class PodSpec(Model):
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] | None = None
    volumes: tuple[Volume, ...] | None = None
    node_selector: dict[str, str] | None = None
    affinity: Affinity | None = None
    tolerations: tuple[Toleration, ...] | None = None
    restart_policy: Literal["Never"]
    security_context: PodSecurity | None = None
    service_account_name: str | None = None
    priority_class_name: str | None = None
    automount_service_account_token: bool | None = None


class PodTemplate(Model):
    metadata: Metadata | None = None
    spec: PodSpec


# ---- KubeRay ------------------------------------------------------------------------------------------------------


class AuthOptions(Model):
    mode: Literal["token"] = "token"


class HeadGroup(Model):
    service_type: Literal["ClusterIP"] = "ClusterIP"
    ray_start_params: dict[str, str]
    template: PodTemplate


class WorkerGroup(Model):
    group_name: str
    replicas: int
    min_replicas: int  # KubeRay requires both limits of a cluster without autoscaling
    max_replicas: int
    ray_start_params: dict[str, str]
    template: PodTemplate


class AutoscalerOptions(Model):
    resources: Resources
    security_context: SecurityContext
    idle_timeout_seconds: int


class RayClusterSpec(Model):
    managed_by: str | None = None
    ray_version: str
    auth_options: AuthOptions = AuthOptions()
    enable_in_tree_autoscaling: Literal[True] | None = None
    autoscaler_options: AutoscalerOptions | None = None
    head_group_spec: HeadGroup
    worker_group_specs: tuple[WorkerGroup, ...]

    @model_validator(mode="after")
    def _has_tokens(self) -> Self:
        if tuple(int(part) for part in re.findall(r"\d+", self.ray_version)[:2]) < FIRST_RAY_WITH_TOKENS:
            raise ManifestError(
                f"`ray_version` is {self.ray_version!r}; token authentication requires Ray 2.52 or later."
            )
        return self


class RayCluster(Resource):
    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayCluster"] = "RayCluster"
    spec: RayClusterSpec


class RayJobSpec(Model):
    managed_by: str | None = None
    submission_mode: Literal["K8sJobMode"] = "K8sJobMode"
    entrypoint: str
    backoff_limit: int
    active_deadline_seconds: int
    pre_running_deadline_seconds: int
    shutdown_after_job_finishes: Literal[True] = True  # Kueue requires it, and so does the TTL
    ttl_seconds_after_finished: int
    submitter_pod_template: PodTemplate
    ray_cluster_spec: RayClusterSpec

    @model_validator(mode="after")
    def _deadlines(self) -> Self:
        if (seconds := min(self.active_deadline_seconds, self.pre_running_deadline_seconds)) <= 0:
            raise ManifestError(f"A deadline is {seconds} s; expected more than 0.")
        return self


class RayJob(Resource):
    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayJob"] = "RayJob"
    spec: RayJobSpec


class RayCronJobSpec(Model):
    schedule: str
    time_zone: str | None = None
    job_template: RayJobSpec


class RayCronJob(Resource):
    api_version: Literal["ray.io/v1"] = "ray.io/v1"
    kind: Literal["RayCronJob"] = "RayCronJob"
    spec: RayCronJobSpec

    @model_validator(mode="after")
    def _is_not_queued(self) -> Self:
        if QUEUE_LABEL in (self.metadata.labels or {}):
            raise ManifestError("The jobs of a RayCronJob get no Kueue label; use cronjob, or omit `queue`.")
        return self


# ---- CronJob ------------------------------------------------------------------------------------------------------


class JobSpec(Model):
    backoff_limit: int
    template: PodTemplate


class JobTemplate(Model):
    spec: JobSpec


class CronJobSpec(Model):
    schedule: str
    time_zone: str | None = None
    concurrency_policy: Literal["Forbid"] = "Forbid"
    starting_deadline_seconds: int
    successful_jobs_history_limit: int = 7
    failed_jobs_history_limit: int = 7
    job_template: JobTemplate


class CronJob(Resource):
    api_version: Literal["batch/v1"] = "batch/v1"
    kind: Literal["CronJob"] = "CronJob"
    spec: CronJobSpec


class ServiceAccount(Resource):
    api_version: Literal["v1"] = "v1"
    kind: Literal["ServiceAccount"] = "ServiceAccount"


class PolicyRule(Model):
    api_groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


class Role(Resource):
    api_version: Literal["rbac.authorization.k8s.io/v1"] = "rbac.authorization.k8s.io/v1"
    kind: Literal["Role"] = "Role"
    rules: tuple[PolicyRule, ...]


class RoleRef(Model):
    api_group: str = "rbac.authorization.k8s.io"
    kind: Literal["Role"] = "Role"
    name: str


class Subject(Model):
    kind: Literal["ServiceAccount"] = "ServiceAccount"
    name: str


class RoleBinding(Resource):
    api_version: Literal["rbac.authorization.k8s.io/v1"] = "rbac.authorization.k8s.io/v1"
    kind: Literal["RoleBinding"] = "RoleBinding"
    role_ref: RoleRef
    subjects: tuple[Subject, ...]


class LabelSelector(Model):
    match_labels: dict[str, str] | None = None


class Peer(Model):
    """Pods; with a selector of namespaces, those of other namespaces."""

    namespace_selector: LabelSelector | None = None
    pod_selector: LabelSelector


class Port(Model):
    port: int


class Ingress(Model):
    peers: tuple[Peer, ...] = Field(serialization_alias="from")
    ports: tuple[Port, ...] | None = None


class NetworkPolicySpec(Model):
    pod_selector: LabelSelector
    policy_types: tuple[Literal["Ingress"], ...] = ("Ingress",)
    ingress: tuple[Ingress, ...]


class NetworkPolicy(Resource):
    api_version: Literal["networking.k8s.io/v1"] = "networking.k8s.io/v1"
    kind: Literal["NetworkPolicy"] = "NetworkPolicy"
    spec: NetworkPolicySpec


Manifest = NetworkPolicy | RayJob | RayCluster | RayCronJob | CronJob | ServiceAccount | Role | RoleBinding
