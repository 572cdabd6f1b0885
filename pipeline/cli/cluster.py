"""The commands `manifest`, `submit`, `schedule` and `job`: options become a checked job, then YAML or a submission."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipeline.cli.cluster_options import (
    KFP_LOOPBACK,
    KUBEFLOW,
    LOOPBACK,
    OF_JOBS,
    Address,
    BenchCommand,
    Command,
    DashboardHost,
    Delete,
    Endpoint,
    FolderName,
    JobAddress,
    JobEndpoint,
    JobName,
    JobNamespace,
    OptionalBenchCommand,
    OptionalCommand,
    OptionalSchedule,
    RayName,
    RefusedTimeZone,
    Resubmit,
    Schedule,
    Target,
    TimeZone,
    Wait,
    program_of,
    with_cluster_options,
)
from pipeline.cli.options import AsJson

Verbs = tuple[tuple[str, Callable[..., int]], ...]


manifest, submit, schedule, job = (typer.Typer() for _ in range(4))


# ---- manifest -----------------------------------------------------------------------------------------------------


@with_cluster_options("Name of the RayJob.")
def _ray_job(chosen: dict[str, Any], command: Command) -> int:
    """Print a RayJob, which runs one command on a new cluster.

    The cluster is deleted --keep-minutes after the command has ended. A failed job is retried on a new cluster, and
    each retry resumes the run.
    """
    from pipeline.commands import cluster as commands

    return commands.show_ray_job(chosen, command)


@with_cluster_options(
    "Name of the RayCluster.",
    {
        "storage": {"show_default": False},
        "weights": {"show_default": "embedded"},
        "queue": {"help": "Kueue LocalQueue to submit the cluster to."},
    },
    hidden=OF_JOBS,
)
def _ray_cluster(chosen: dict[str, Any], dashboard_host: DashboardHost = "127.0.0.1") -> int:
    """Print a RayCluster for `submit ray`.

    Use kubectl port-forward to reach its dashboard.
    """
    from pipeline.commands import cluster as commands

    return commands.show_ray_cluster(chosen, dashboard_host)


@with_cluster_options("Name of the CronJob.")
def _cron_job(chosen: dict[str, Any], command: Command, schedule: Schedule, time_zone: TimeZone = None) -> int:
    """Print a CronJob that runs `submit kuberay`.

    Also prints its RBAC objects. Jobs do not overlap.
    """
    from pipeline.commands import cluster as commands

    return commands.show_cron_job(chosen, command, schedule, time_zone)


@with_cluster_options("Name of the RayCronJob.", hidden=["queue"])
def _ray_cron_job(chosen: dict[str, Any], command: Command, schedule: Schedule, time_zone: TimeZone = None) -> int:
    """Print a RayCronJob (KubeRay's scheduler resource).

    RayCronJobs are alpha and disabled by default. Kueue queues are not supported, and jobs may overlap.
    """
    from pipeline.commands import cluster as commands

    return commands.show_ray_cron_job(chosen, command, schedule, time_zone)


@with_cluster_options("Name of the RayJob of bench and of the run folder.", KUBEFLOW, required="storage")
def _pipeline(chosen: dict[str, Any], command: BenchCommand) -> int:
    """Print a Kubeflow pipeline as IR YAML.

    Its steps are weights, reference, bench (a RayJob), evaluate and leaderboard.
    """
    from pipeline.commands import cluster as commands

    return commands.show_pipeline(chosen, command)


MANIFESTS: Verbs = (
    ("kfp", _pipeline),
    ("rayjob", _ray_job),
    ("raycluster", _ray_cluster),
    ("cronjob", _cron_job),
    ("raycronjob", _ray_cron_job),
)
for _verb, _command in MANIFESTS:
    manifest.command(_verb)(_command)


# ---- submit ------------------------------------------------------------------------------------------------------


def _local(context: typer.Context, command: Command, name: FolderName = None) -> int:
    """Run the command on this machine.

    Run it again to resume; finished work is not repeated.
    """
    from pipeline.commands import cluster as commands

    return commands.run_named(program_of(context), command, name)


def _on_ray(
    context: typer.Context,
    command: Command,
    name: RayName,
    address: Address = LOOPBACK,
    wait: Wait = False,
    resubmit: Resubmit = False,
) -> int:
    """Run the command on an existing Ray cluster, through its Jobs API.

    Attaches to an existing job with the same name and the same command.
    """
    from pipeline.commands import cluster as commands

    return commands.submit_to_ray(program_of(context), command, name, address, wait=wait, resubmit=resubmit)


@with_cluster_options("Name of the RayJob; also of the run folder, if the command has no --out.")
def _on_kuberay(chosen: dict[str, Any], command: Command, wait: Wait = False, resubmit: Resubmit = False) -> int:
    """Run the command as a RayJob on a dedicated cluster.

    Attaches to an existing job with the same name and the same specification.
    """
    from pipeline.commands import cluster as commands

    return commands.submit_to_kuberay(chosen, command, wait=wait, resubmit=resubmit)


@with_cluster_options("Name of the pipeline run, its RayJob and its run folder.", KUBEFLOW, required="storage")
def _on_kubeflow(
    chosen: dict[str, Any],
    command: BenchCommand,
    endpoint: Endpoint = KFP_LOOPBACK,
    wait: Wait = False,
    resubmit: Resubmit = False,
) -> int:
    """Run bench as a Kubeflow pipeline.

    Attaches to an existing pipeline run with the same name and the same specification.
    """
    from pipeline.commands import cluster as commands

    return commands.submit_to_kubeflow(chosen, command, endpoint, wait=wait, resubmit=resubmit)


SUBMITS: Verbs = (("local", _local), ("ray", _on_ray), ("kuberay", _on_kuberay), ("kfp", _on_kubeflow))
for _verb, _command in SUBMITS:
    submit.command(_verb)(_command)

# ---- schedule -----------------------------------------------------------------------------------------------------


@with_cluster_options("Name of the CronJob.")
def _by_cron_job(
    chosen: dict[str, Any],
    command: OptionalCommand = None,
    schedule: OptionalSchedule = "",
    time_zone: TimeZone = None,
    delete: Delete = False,
) -> int:
    """Create, update or delete a Kubernetes CronJob.

    Each time, it starts a RayJob with a new run folder. Jobs do not overlap.
    """
    from pipeline.commands import cluster as commands

    return commands.schedule_by_cron_job(chosen, command, schedule, time_zone, delete=delete)


@with_cluster_options("Name of the recurring run.", KUBEFLOW, required="storage")
def _by_kubeflow(
    chosen: dict[str, Any],
    command: OptionalBenchCommand = None,
    schedule: OptionalSchedule = "",
    time_zone: RefusedTimeZone = None,
    endpoint: Endpoint = KFP_LOOPBACK,
    delete: Delete = False,
) -> int:
    """Create, update or delete a Kubeflow Pipelines recurring run.

    Each time, it starts a pipeline run with a new RayJob and a new run folder. Pipeline runs do not overlap.
    """
    from pipeline.commands import cluster as commands

    return commands.schedule_by_kubeflow(chosen, command, schedule, time_zone, endpoint, delete=delete)


SCHEDULES: Verbs = (("cronjob", _by_cron_job), ("kfp", _by_kubeflow))
for _verb, _command in SCHEDULES:
    schedule.command(_verb)(_command)

# ---- job ----------------------------------------------------------------------------------------------------------


def _status(
    target: Target,
    name: JobName,
    address: JobAddress = LOOPBACK,
    namespace: JobNamespace = None,
    endpoint: JobEndpoint = KFP_LOOPBACK,
    json: AsJson = False,
) -> int:
    """Print the state of a job: waiting, running, succeeded or failed.

    For a failed job, the reason is printed. Exit status: 3 if the job failed, else 0.
    """
    from pipeline.commands import cluster as commands

    return commands.show_status(target, name, address if target == "ray" else endpoint, namespace, as_json=json)


def _logs(
    target: Target,
    name: JobName,
    address: JobAddress = LOOPBACK,
    namespace: JobNamespace = None,
    endpoint: JobEndpoint = KFP_LOOPBACK,
) -> int:
    """Print the output of a job."""
    from pipeline.commands import cluster as commands

    return commands.show_logs(target, name, address if target == "ray" else endpoint, namespace)


def _cancel(
    target: Target,
    name: JobName,
    address: JobAddress = LOOPBACK,
    namespace: JobNamespace = None,
    endpoint: JobEndpoint = KFP_LOOPBACK,
) -> int:
    """Stop and delete a job; its run folder is kept."""
    from pipeline.commands import cluster as commands

    return commands.cancel(target, name, address if target == "ray" else endpoint, namespace)


JOBS: Verbs = (("status", _status), ("logs", _logs), ("cancel", _cancel))
for _verb, _command in JOBS:
    job.command(_verb)(_command)


def encoded(context: typer.Context, command: Annotated[list[str], typer.Argument()]) -> int:
    """Run a command that `cluster.jobs.description.encoded` encoded."""
    from cluster.jobs.description import decoded
    from pipeline.commands import cluster as commands

    return commands.run_here(program_of(context), decoded(command))
