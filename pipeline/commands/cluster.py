"""The commands `manifest`, `submit`, `schedule` and `job`: options become a checked job, then YAML or a submission."""

import functools
import importlib.metadata
import sys
from collections.abc import Sequence
from json import dumps
from typing import Annotated, Any

import typer

from cluster.jobs import launcher as launchers
from cluster.jobs.description import ClusterJob, Command, decoded
from cluster.jobs.errors import LaunchError
from cluster.jobs.launcher import Launcher, ScheduleChange
from cluster.kubernetes import cronjob, quota, rayjob
from cluster.kubernetes.models import Manifest, as_yaml
from pipeline.cli.cluster_options import (
    KUBEFLOW,
    TARGETS,
    BenchWords,
    Delete,
    DryRun,
    FolderName,
    JobName,
    JobNamespace,
    OptionalBenchWords,
    OptionalSchedule,
    OptionalWords,
    PolicyName,
    PolicyNamespace,
    RayName,
    RefusedTimeZone,
    Resubmit,
    Schedule,
    Services,
    Target,
    TimeZone,
    Wait,
    Words,
    with_job,
)
from pipeline.cli.error_handling import JOBS_FAILED, OK
from pipeline.cli.options import AsJson
from pipeline.cli.values import with_options
from pipeline.errors import UserError, nearest
from pipeline.launch.program import MAKES_A_FOLDER, NAME, OUT, ProgramJob, launch_options, parsed

OF_JOBS = "retries", "deadline_hours", "start_minutes", "keep_minutes"

manifest, submit, schedule, job = (typer.Typer() for _ in range(4))

# ---- manifest -----------------------------------------------------------------------------------------------------


@manifest.command("kfp")
@with_job("Name of the RayJob of bench and of the run folder.", "command", changes=KUBEFLOW)
def print_pipeline(context: typer.Context, command: BenchWords, job: ProgramJob) -> int:
    """Print a Kubeflow pipeline as IR YAML.

    Its steps are weights, reference, bench (a RayJob), evaluate and leaderboard.
    """
    pipeline_of = _pipeline_of()
    from cluster.kubeflow.pipeline import compiled

    sys.stdout.write(compiled(pipeline_of(_described(context, job, command))))
    return OK


@manifest.command("rayjob")
@with_job("Name of the RayJob.", "command")
def print_ray_job(context: typer.Context, command: Words, job: ProgramJob) -> int:
    """Print a RayJob, which runs one command on a new cluster.

    The cluster is deleted --keep-minutes after the command has ended. A failed job is retried on a new cluster, and
    each retry resumes the run.
    """
    return _print(rayjob.ray_job(_described(context, job, command)))


@manifest.command("raycluster")
@with_job(
    "Name of the RayCluster.",
    "dashboard_host",
    changes={
        "storage": {"show_default": False},
        "weights": {"show_default": "embedded"},
        "queue": {"help": "Kueue LocalQueue to submit the cluster to."},
    },
    hidden=OF_JOBS,
)
def print_ray_cluster(context: typer.Context, job: ProgramJob) -> int:
    """Print a RayCluster for `submit ray`.

    Use kubectl port-forward to reach its dashboard.
    """
    return _print(rayjob.ray_cluster(_described(context, job)))


@manifest.command("cronjob")
@with_job("Name of the CronJob.", "command", "schedule", "time_zone")
def print_cron_job(
    context: typer.Context, command: Words, schedule: Schedule, job: ProgramJob, time_zone: TimeZone = None
) -> int:
    """Print a CronJob that runs `submit kuberay`.

    Also prints its RBAC objects. Jobs do not overlap.
    """
    return _print(*_cron_job(_described(context, job, command), schedule, time_zone))


@manifest.command("networkpolicy")
def print_network_policy(name: PolicyName, namespace: PolicyNamespace = None) -> int:
    """Print a NetworkPolicy for the pods of a job.

    It lets in the job's own pods, KubeRay's operator and Prometheus.
    """
    return _print(rayjob.network_policy(name, namespace))


@manifest.command("raycronjob")
@with_job("Name of the RayCronJob.", "command", "schedule", "time_zone", hidden=["queue"])
def print_ray_cron_job(
    context: typer.Context, command: Words, schedule: Schedule, job: ProgramJob, time_zone: TimeZone = None
) -> int:
    """Print a RayCronJob (KubeRay's scheduler resource).

    RayCronJobs are alpha and disabled by default. Kueue queues are not supported, and jobs may overlap.
    """
    return _print(cronjob.ray_cron_job(_described(context, job, command), schedule, time_zone))


def _print(*manifests: Manifest) -> int:
    sys.stdout.write(as_yaml(*manifests))
    return OK


# ---- submit -------------------------------------------------------------------------------------------------------


@submit.command("local")
def run_here(context: typer.Context, command: Words, name: FolderName = None) -> int:
    """Run the command on this machine.

    Run it again to resume; finished work is not repeated.
    """
    if name is not None and command[0] in MAKES_A_FOLDER and not parsed(_command_line(context), command).results:
        command = [*command, OUT, f"runs/{name}"]
    return _run(context, command)


@submit.command("ray")
@with_options("context", "command", "name", "address", "wait", "resubmit")
def submit_to_ray(
    context: typer.Context,
    command: Words,
    name: RayName,
    services: Services,
    wait: Wait = False,
    resubmit: Resubmit = False,
) -> int:
    """Run the command on an existing Ray cluster, through its Jobs API.

    Attaches to an existing job with the same name and the same command.
    """
    job = ProgramJob(name=name, command=parsed(_command_line(context), command))
    return _submit(_launcher("ray", services), job, wait=wait, resubmit=resubmit)


@submit.command("kuberay")
@with_job(
    "Name of the RayJob; also of the run folder, if the command has no --out.", "command", "wait", "resubmit", "dry_run"
)
def submit_to_kuberay(
    context: typer.Context,
    command: Words,
    job: ProgramJob,
    wait: Wait = False,
    resubmit: Resubmit = False,
    dry_run: DryRun = False,
) -> int:
    """Run the command as a RayJob on a dedicated cluster.

    Attaches to an existing job with the same name and the same specification.
    """
    job = _described(context, job, command)
    if dry_run:
        sys.stdout.write(quota.table(job))
        return OK
    return _submit(_launcher("kuberay", Services(), job.namespace), job, wait=wait, resubmit=resubmit)


@submit.command("kfp")
@with_job(
    "Name of the pipeline run, its RayJob and its run folder.",
    "command",
    "endpoint",
    "wait",
    "resubmit",
    changes=KUBEFLOW,
)
def submit_to_kubeflow(
    context: typer.Context,
    command: BenchWords,
    job: ProgramJob,
    services: Services,
    wait: Wait = False,
    resubmit: Resubmit = False,
) -> int:
    """Run bench as a Kubeflow pipeline.

    Attaches to an existing pipeline run with the same name and the same specification.
    """
    job = _described(context, job, command)
    return _submit(_launcher("kfp", services, job.namespace), job, wait=wait, resubmit=resubmit)


def _submit(launcher: Launcher, job: ClusterJob, *, wait: bool, resubmit: bool) -> int:
    if resubmit:
        launcher.forget_failed(job)
    handle = launcher.submit(job)
    print(f"{handle.name}: {'submitted' if handle.is_new else 'already submitted'}", flush=True)
    if not wait:
        return OK
    status = launchers.wait(launcher, handle.name, functools.partial(print, flush=True))
    return JOBS_FAILED if status.state == "failed" else OK


# ---- schedule -----------------------------------------------------------------------------------------------------


@schedule.command("cronjob")
@with_job("Name of the CronJob.", "command", "schedule", "time_zone", "delete", deletable=True)
def schedule_cron_job(
    context: typer.Context,
    job: ProgramJob,
    command: OptionalWords = None,
    schedule: OptionalSchedule = "",
    time_zone: TimeZone = None,
    delete: Delete = False,
) -> int:
    """Create, update or delete a Kubernetes CronJob.

    Each time, it starts a RayJob with a new run folder. Jobs do not overlap.
    """
    from cluster.kubernetes.jobs import KubeRayJobs

    launcher = KubeRayJobs(job.namespace)
    if delete:
        return _print_change(job, launcher.unschedule(job.name))
    job = _described(context, job, _required(job, command, schedule))
    return _print_change(job, launcher.schedule(_cron_job(job, schedule, time_zone)))


@schedule.command("kfp")
@with_job(
    "Name of the recurring run.",
    "command",
    "schedule",
    "time_zone",
    "endpoint",
    "delete",
    deletable=True,
    changes=KUBEFLOW,
)
def schedule_recurring_run(
    context: typer.Context,
    job: ProgramJob,
    services: Services,
    command: OptionalBenchWords = None,
    schedule: OptionalSchedule = "",
    time_zone: RefusedTimeZone = None,
    delete: Delete = False,
) -> int:
    """Create, update or delete a Kubeflow Pipelines recurring run.

    Each time, it starts a pipeline run with a new RayJob and a new run folder. Pipeline runs do not overlap.
    """
    launcher: Any = _launcher("kfp", services, job.namespace)
    if delete:
        return _print_change(job, launcher.unschedule(job.name))
    job = _described(context, job, _required(job, command, schedule))
    return _print_change(job, launcher.schedule(job, schedule, time_zone))


def _required(job: ProgramJob, command: Sequence[str] | None, schedule: str) -> Sequence[str]:
    """The command. Raises UserError if something is missing that only `--delete` works without."""
    for found, option in ((job.image, "--image"), (schedule, "--schedule"), (command, "command after --")):
        if not found:
            raise UserError(f"There is no {option}; pass it, or --delete to delete the schedule.")
    return command or ()


def _print_change(job: ClusterJob, change: ScheduleChange) -> int:
    print(f"{job.name}: {change}", flush=True)
    return OK


# ---- job ----------------------------------------------------------------------------------------------------------

OF_SERVICES: dict[str, Any] = {
    "address": {"help": "ray: address of the dashboard."},
    "endpoint": {"help": "kfp: address of the Kubeflow Pipelines API."},
}
NAMES = "target", "name", "address", "namespace", "endpoint"


@job.command("status")
@with_options(*NAMES, "json", **OF_SERVICES)
def print_status(
    target: Target, name: JobName, services: Services, namespace: JobNamespace = None, json: AsJson = False
) -> int:
    """Print the state of a job: waiting, running, succeeded or failed.

    For a failed job, the reason is printed. Exit status: 3 if the job failed, else 0.
    """
    status = _launcher(target, services, namespace).status(name)
    print(dumps(status._asdict(), ensure_ascii=False) if json else status)
    return JOBS_FAILED if status.state == "failed" else OK


@job.command("logs")
@with_options(*NAMES, **OF_SERVICES)
def print_logs(target: Target, name: JobName, services: Services, namespace: JobNamespace = None) -> int:
    """Print the output of a job."""
    sys.stdout.write(_launcher(target, services, namespace).logs(name))
    return OK


@job.command("cancel")
@with_options(*NAMES, **OF_SERVICES)
def cancel(target: Target, name: JobName, services: Services, namespace: JobNamespace = None) -> int:
    """Stop and delete a job; its run folder is kept."""
    _launcher(target, services, namespace).cancel(name)
    return OK


def encoded(context: typer.Context, command: Annotated[list[str], typer.Argument()]) -> int:
    """Run a command that `cluster.jobs.description.encoded` encoded."""
    return _run(context, decoded(command))


# ---- shared -------------------------------------------------------------------------------------------------------


def _command_line(context: typer.Context) -> Any:
    """The whole command line, which parses the command after --."""
    return context.find_root().command


def _run(context: typer.Context, words: Sequence[str]) -> int:
    """Run a command of this program in this process. Returns its exit status."""
    try:
        _command_line(context)(list(words), standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else OK
    return OK


def _described(context: typer.Context, job: ProgramJob, words: Sequence[str] = ()) -> ProgramJob:
    """A job with its command, and with what follows from it. Raises UserError, ManifestError."""
    command = parsed(_command_line(context), words) if words else Command()
    ray_version = job.ray_version or importlib.metadata.version("ray")
    return ProgramJob(
        **dict(job) | {"command": command, "weights": job.weights or command.weights, "ray_version": ray_version}
    )


def _cron_job(job: ClusterJob, schedule: str, time_zone: str | None) -> tuple[Manifest, ...]:
    """The manifests of a CronJob that runs `submit kuberay`."""
    launch = NAME, "submit", "kuberay", "--wait", "--name", cronjob.JOB_NAME
    return cronjob.cron_job(job, schedule, time_zone, launch, [*launch_options(job), "--", *job.command.words])


def _launcher(target: str, services: Services, namespace: str | None = None) -> Launcher:
    if target not in TARGETS:
        hint = nearest(target, TARGETS)
        raise UserError(f"Unknown backend {target!r}; choose from {', '.join(TARGETS)}{hint}.")
    if target == "ray":
        from cluster.ray.jobs import RayJobs

        return RayJobs(services.address)
    if target == "kfp":
        pipeline_of = _pipeline_of()
        from cluster.kubeflow.runs import KubeflowRuns

        return KubeflowRuns(services.endpoint, pipeline_of, namespace)
    from cluster.kubernetes.jobs import KubeRayJobs

    return KubeRayJobs(namespace)


def _pipeline_of() -> Any:
    """The function of the Kubeflow pipeline of a job. Raises LaunchError."""
    try:
        from pipeline.launch.kubeflow import pipeline_of
    except ImportError as error:
        raise LaunchError("kfp is not installed; install it with pip install 'segmentdreamer[kubeflow]'.") from error
    return pipeline_of
