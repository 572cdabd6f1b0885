"""The commands `manifest`, `submit`, `schedule` and `job`: options become a checked job, then YAML or a submission."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipeline.cli.completion import choices
from pipeline.cli.error_handling import handle_errors
from pipeline.cli.options import AsJson

Command = Annotated[
    list[str],
    typer.Argument(
        metavar="-- COMMAND...", help="Command to run: bench, generate, evaluate or reference with options."
    ),
]
Name = Annotated[
    str,
    typer.Option(metavar="NAME", help="Name of the job or schedule. Submitting the same job again changes nothing."),
]
Schedule = Annotated[str, typer.Option(metavar="CRON", help="Cron schedule: '0 2 * * *'.")]
TimeZone = Annotated[str | None, typer.Option(metavar="ZONE", help="Time zone of the schedule: Europe/Berlin.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the job has ended; status 3 if it failed.")]
Resubmit = Annotated[
    bool, typer.Option("--resubmit", "--again", help="Replace a failed job of this name; its files are kept.")
]
Namespace = Annotated[
    str | None, typer.Option(metavar="NAME", help="Kubernetes namespace.", show_default="the current one")
]
Address = Annotated[
    str, typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="Address of the Ray dashboard.")
]
Endpoint = Annotated[
    str, typer.Option(metavar="URL", envvar="KF_PIPELINES_ENDPOINT", help="Address of the Kubeflow Pipelines API.")
]
KFP_LOOPBACK = "http://127.0.0.1:8888"
LOOPBACK = "http://127.0.0.1:8265"


def cluster_options(
    name: Name,
    image: Annotated[str, typer.Option(metavar="IMAGE", help="Container image with this program; see cluster/deploy.")],
    namespace: Namespace = None,
    gpus: Annotated[int, typer.Option(help="Total number of GPUs; 0 starts one worker without a GPU.")] = 1,
    gpus_per_worker: Annotated[int, typer.Option(help="GPUs per pod.")] = 1,
    gpu_type: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE", help="GPU type: a value of the node label nvidia.com/gpu.product, or LABEL=VALUE."
        ),
    ] = None,
    gpu_memory: Annotated[int | None, typer.Option(metavar="GB", help="Minimum memory of a GPU, in GB.")] = None,
    cpus: Annotated[int, typer.Option(help="CPU cores per worker pod.")] = 8,
    memory: Annotated[int, typer.Option(metavar="GIB", help="Memory per worker pod, in GiB.")] = 32,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="CLAIM|NFS|URL",
            help="Storage for run folders: a ReadWriteMany PersistentVolumeClaim or nfs://SERVER/PATH (both mounted at "
            "/storage), or s3://BUCKET/PATH.",
            show_default="the command's --out",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|CLAIM|NFS",
            help="Model weights: embedded, published (downloaded once per node), or a volume shared by all nodes "
            "(downloaded once).",
            show_default="the weights of the command's recipe",
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=KEY", help="Pass a key of a Kubernetes Secret as an environment variable of that name."
        ),
    ] = None,
    queue: Annotated[str | None, typer.Option(metavar="NAME", help="Kueue LocalQueue.")] = None,
    retries: Annotated[
        int, typer.Option(help="Number of retries of a failed job, each with a new cluster that resumes the run.")
    ] = 2,
    deadline_hours: Annotated[float, typer.Option(help="Maximum duration of the job, in hours.")] = 24.0,
    start_minutes: Annotated[float, typer.Option(help="Maximum time until the job starts, in minutes.")] = 30.0,
    keep_minutes: Annotated[
        float, typer.Option(help="Time to keep the pods after the job has ended, in minutes.")
    ] = 60.0,
    ray_version: Annotated[
        str | None, typer.Option(help="Ray version in the image.", show_default="the installed version")
    ] = None,
) -> dict[str, Any]:
    """The options of the commands that describe a job on Kubernetes, by name."""
    return dict(locals())


def program_of(context: typer.Context) -> Any:
    """The whole command line, with which `submit` and `manifest` parse the command after --."""
    return context.find_root().command


def with_cluster_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options of `cluster_options` to a command, which gets them as its first argument."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = dict(inspect.signature(cluster_options).parameters)
    if any(parameter.name == "delete" for parameter in own):
        shared["image"] = shared["image"].replace(default="")  # not needed with --delete

    @functools.wraps(command)
    def run(context: typer.Context, **options: Any) -> int:
        chosen = {key: options.pop(key) for key in shared}
        return command(chosen | {"program": program_of(context)}, **options)

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *(p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *shared.values()))]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


Verbs = tuple[tuple[str, Callable[..., int]], ...]


def add_to(app: typer.Typer) -> None:
    """Add these groups of commands."""
    for name, text, verbs in (
        ("manifest", "Print Kubernetes manifests for kubectl apply -f -.", MANIFESTS),
        ("submit", "Run a command here, on Ray, KubeRay or Kubeflow Pipelines.", SUBMITS),
        ("schedule", "Run a command on a schedule. The same name updates the existing schedule.", SCHEDULES),
        ("job", "Show the status and logs of a submitted job, or cancel it.", JOBS),
    ):
        group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
        for verb, command in verbs:
            group.command(verb)(handle_errors(command))
        app.add_typer(group, name=name)
    app.command("encoded", hidden=True, context_settings={"ignore_unknown_options": True})(handle_errors(_encoded))


# ---- manifest -----------------------------------------------------------------------------------------------------


@with_cluster_options
def _ray_job(chosen: dict[str, Any], command: Command) -> int:
    """Print a RayJob: a cluster for one command.

    The cluster ends with the command. A failed job is retried on a new cluster, and each retry resumes the run.
    """
    from pipeline.commands import cluster as commands

    return commands.show_ray_job(chosen, command)


@with_cluster_options
def _ray_cluster(
    chosen: dict[str, Any],
    dashboard_host: Annotated[str, typer.Option(help="Address that the dashboard listens on.")] = "127.0.0.1",
) -> int:
    """Print a RayCluster for `submit ray`.

    Its dashboard is reached through kubectl port-forward.
    """
    from pipeline.commands import cluster as commands

    return commands.show_ray_cluster(chosen, dashboard_host)


@with_cluster_options
def _cron_job(chosen: dict[str, Any], command: Command, schedule: Schedule, time_zone: TimeZone = None) -> int:
    """Print a CronJob that runs `submit kuberay`.

    Its RBAC objects are printed, too. Jobs do not overlap.
    """
    from pipeline.commands import cluster as commands

    return commands.show_cron_job(chosen, command, schedule, time_zone)


@with_cluster_options
def _ray_cron_job(chosen: dict[str, Any], command: Command, schedule: Schedule, time_zone: TimeZone = None) -> int:
    """Print a RayCronJob, KubeRay's own schedule.

    RayCronJobs are alpha and disabled by default. They have no queues, and jobs may overlap.
    """
    from pipeline.commands import cluster as commands

    return commands.show_ray_cron_job(chosen, command, schedule, time_zone)


@with_cluster_options
def _pipeline(chosen: dict[str, Any], command: Command) -> int:
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


# ---- submit ------------------------------------------------------------------------------------------------------


def _local(
    context: typer.Context,
    command: Command,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the run folder in runs/.", show_default="named after the settings"),
    ] = None,
) -> int:
    """Run the command on this machine.

    Run it again to resume; finished work is not repeated.
    """
    from pipeline.commands import cluster as commands

    return commands.run_named(program_of(context), command, name)


def _on_ray(
    context: typer.Context,
    command: Command,
    name: Name,
    address: Address = LOOPBACK,
    wait: Wait = False,
    resubmit: Resubmit = False,
) -> int:
    """Run the command on an existing Ray cluster, through its Jobs API."""
    from pipeline.commands import cluster as commands

    return commands.submit_to_ray(program_of(context), command, name, address, wait=wait, resubmit=resubmit)


@with_cluster_options
def _on_kuberay(chosen: dict[str, Any], command: Command, wait: Wait = False, resubmit: Resubmit = False) -> int:
    """Run the command as a RayJob, on a cluster of its own.

    If a job of this name with the same request exists, attach to it.
    """
    from pipeline.commands import cluster as commands

    return commands.submit_to_kuberay(chosen, command, wait=wait, resubmit=resubmit)


@with_cluster_options
def _on_kubeflow(
    chosen: dict[str, Any],
    command: Command,
    endpoint: Endpoint = KFP_LOOPBACK,
    wait: Wait = False,
    resubmit: Resubmit = False,
) -> int:
    """Run bench as a Kubeflow pipeline.

    If a run of this name with the same request exists, attach to it.
    """
    from pipeline.commands import cluster as commands

    return commands.submit_to_kubeflow(chosen, command, endpoint, wait=wait, resubmit=resubmit)


SUBMITS: Verbs = (("local", _local), ("ray", _on_ray), ("kuberay", _on_kuberay), ("kfp", _on_kubeflow))

# ---- schedule -----------------------------------------------------------------------------------------------------

OptionalSchedule = Annotated[
    str, typer.Option("--schedule", metavar="CRON", help="Cron schedule: '0 2 * * *' or @daily.")
]
Delete = Annotated[bool, typer.Option("--delete", help="Delete the schedule; jobs that it started continue.")]
OptionalCommand = Annotated[
    list[str] | None, typer.Argument(metavar="-- COMMAND...", help="Command to run; omit it with --delete.")
]


@with_cluster_options
def _by_cron_job(
    chosen: dict[str, Any],
    command: OptionalCommand = None,
    schedule: OptionalSchedule = "",
    time_zone: TimeZone = None,
    delete: Delete = False,
) -> int:
    """Create, update or delete a Kubernetes CronJob.

    It starts a RayJob with a new run folder each time. Jobs do not overlap.
    """
    from pipeline.commands import cluster as commands

    return commands.schedule_by_cron_job(chosen, command, schedule, time_zone, delete=delete)


@with_cluster_options
def _by_kubeflow(
    chosen: dict[str, Any],
    command: OptionalCommand = None,
    schedule: OptionalSchedule = "",
    time_zone: TimeZone = None,
    endpoint: Endpoint = KFP_LOOPBACK,
    delete: Delete = False,
) -> int:
    """Create, update or delete a recurring run of Kubeflow.

    It starts a pipeline with a RayJob and a new run folder each time. Runs do not overlap.
    """
    from pipeline.commands import cluster as commands

    return commands.schedule_by_kubeflow(chosen, command, schedule, time_zone, endpoint, delete=delete)


SCHEDULES: Verbs = (("cronjob", _by_cron_job), ("kfp", _by_kubeflow))

# ---- job ----------------------------------------------------------------------------------------------------------

Target = Annotated[
    str,
    typer.Argument(
        metavar="ray|kuberay|kfp",
        autocompletion=choices("pipeline.commands.cluster", "TARGETS"),
        help="Where the job was submitted.",
    ),
]
JobName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the job.")]


def _status(
    target: Target,
    name: JobName,
    address: Address = LOOPBACK,
    namespace: Namespace = None,
    endpoint: Endpoint = KFP_LOOPBACK,
    json: AsJson = False,
) -> int:
    """Print the state of a job: waiting, running, succeeded or failed.

    For a failed job, the reason is printed and the exit status is 3.
    """
    from pipeline.commands import cluster as commands

    return commands.show_status(target, name, address if target == "ray" else endpoint, namespace, as_json=json)


def _logs(
    target: Target,
    name: JobName,
    address: Address = LOOPBACK,
    namespace: Namespace = None,
    endpoint: Endpoint = KFP_LOOPBACK,
) -> int:
    """Print the output of a job."""
    from pipeline.commands import cluster as commands

    return commands.show_logs(target, name, address if target == "ray" else endpoint, namespace)


def _cancel(
    target: Target,
    name: JobName,
    address: Address = LOOPBACK,
    namespace: Namespace = None,
    endpoint: Endpoint = KFP_LOOPBACK,
) -> int:
    """Stop and delete a job; its run folder is kept."""
    from pipeline.commands import cluster as commands

    return commands.cancel(target, name, address if target == "ray" else endpoint, namespace)


JOBS: Verbs = (("status", _status), ("logs", _logs), ("cancel", _cancel))


def _encoded(context: typer.Context, command: Annotated[list[str], typer.Argument()]) -> int:
    """Run a command that `cluster.jobs.description.encoded` encoded."""
    from cluster.jobs.description import decoded
    from pipeline.commands import cluster as commands

    return commands.run_here(program_of(context), decoded(command))
