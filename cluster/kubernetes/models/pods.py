"""Models of pods."""

from typing import Literal

from cluster.kubernetes.models.base import Metadata, Model


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
    medium: Literal["Memory"] | None = None
    size_limit: str | None = None


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


class SecurityContext(Model):
    """The security context of a container."""

    run_as_user: int | None = None
    run_as_non_root: bool | None = None
    allow_privilege_escalation: bool = False
    capabilities: Capabilities = Capabilities()


class Container(Model):
    name: str
    image: str
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[EnvVar, ...] | None = None
    resources: Resources | None = None
    security_context: SecurityContext | None = None
    volume_mounts: tuple[VolumeMount, ...] | None = None


class Expression(Model):
    key: str
    operator: Literal["In", "Gt", "Exists"]
    values: tuple[str, ...] | None = None


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
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"]


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
    restart_policy: Literal["Always", "OnFailure", "Never"] | None = None
    security_context: PodSecurity | None = None
    service_account_name: str | None = None
    automount_service_account_token: bool | None = None


class PodTemplate(Model):
    metadata: Metadata | None = None
    spec: PodSpec
