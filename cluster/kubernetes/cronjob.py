"""The manifests of scheduled jobs: Kubernetes' CronJob and KubeRay's RayCronJob."""

import hashlib
from collections.abc import Sequence

from cluster.jobs.description import ClusterJob
from cluster.jobs.errors import ManifestError
from cluster.kubernetes import models as m
from cluster.kubernetes.pod_template import UNPRIVILEGED, resources
from cluster.kubernetes.rayjob import SPEC_ANNOTATION, metadata, ray_job, ray_job_spec

JOB_NAME = "$(JOB_NAME)"  # Kubernetes substitutes the name of the tick's Job
_RULES = (
    m.PolicyRule(api_groups=("ray.io",), resources=("rayjobs",), verbs=("create", "get", "delete")),
    m.PolicyRule(api_groups=("",), resources=("pods", "pods/log"), verbs=("get", "list")),
)


def ray_cron_job(job: ClusterJob, schedule: str, time_zone: str | None) -> m.RayCronJob:
    """KubeRay's own schedule, an alpha feature. Raises ManifestError."""
    spec = m.RayCronJobSpec(schedule=_cron(schedule), time_zone=time_zone, job_template=ray_job_spec(job))
    return m.RayCronJob(metadata=metadata(job), spec=spec)


def cron_job(
    job: ClusterJob, schedule: str, time_zone: str | None, launch: Sequence[str], arguments: Sequence[str]
) -> tuple[m.Manifest, ...]:
    """A CronJob that runs a launcher, preceded by its service account, role and binding. Raises ManifestError.

    `launch` is a command that submits a RayJob named `JOB_NAME` and waits for its end, so that ticks do not overlap;
    `arguments` are its remaining words. Each tick's RayJob has the name that Kubernetes gives the tick's Job, so a
    restarted launcher attaches to it.
    """
    ray_job(job)  # raises errors now instead of at the scheduled time
    account = account_of(job.name)
    container = m.Container(
        name="launcher",
        image=job.image,
        command=tuple(launch),
        args=tuple(word.replace("$", "$$") for word in arguments),
        env=(_from_field("JOB_NAME", "metadata.labels['batch.kubernetes.io/job-name']"),),
        resources=resources({"cpu": "500m", "memory": "1Gi"}),
        security_context=UNPRIVILEGED,
    )
    pod = m.PodSpec(containers=(container,), restart_policy="Never", service_account_name=account)
    spec = m.CronJobSpec(
        schedule=_cron(schedule),
        time_zone=time_zone,
        starting_deadline_seconds=3600,
        job_template=m.JobTemplate(spec=m.JobSpec(backoff_limit=3, template=m.PodTemplate(spec=pod))),
    )
    named = m.Metadata(name=account, namespace=job.namespace)
    return (
        m.ServiceAccount(metadata=named),
        m.Role(metadata=named, rules=_RULES),
        m.RoleBinding(metadata=named, role_ref=m.RoleRef(name=account), subjects=(m.Subject(name=account),)),
        m.CronJob(
            metadata=m.Metadata(
                name=job.name,
                namespace=job.namespace,
                annotations={SPEC_ANNOTATION: hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]},
            ),
            spec=spec,
        ),
    )


def account_of(cron_job: str) -> str:
    """The name of the service account, role and role binding of a CronJob."""
    return f"{cron_job}-launcher"


def _from_field(name: str, path: str) -> m.EnvVar:
    return m.EnvVar(name=name, value_from=m.ValueFrom(field_ref=m.FieldPath(field_path=path)))


def _cron(schedule: str) -> str:
    if not schedule.startswith("@") and len(schedule.split()) != 5:
        raise ManifestError(
            f"`schedule` is {schedule!r}; expected five cron fields, for example '0 2 * * *', or @daily."
        )
    return schedule
