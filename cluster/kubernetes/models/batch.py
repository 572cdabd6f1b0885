"""Models of a CronJob and of the service account, role and role binding of its launcher."""

from typing import Literal

from cluster.kubernetes.models.base import Model, Resource
from cluster.kubernetes.models.pods import PodTemplate


class JobSpec(Model):
    backoff_limit: int
    template: PodTemplate


class JobTemplate(Model):
    spec: JobSpec


class CronJobSpec(Model):
    schedule: str
    time_zone: str | None = None
    concurrency_policy: Literal["Forbid", "Replace", "Allow"] = "Forbid"
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
