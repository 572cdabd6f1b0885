"""The verbs for clusters: `manifest`, `submit`, `job`. Options → a checked job → YAML, or a launcher."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from pipeline.cli.completion import words_of
from pipeline.cli.options import AsJson

Guard = Callable[[Callable[..., int]], Callable[..., None]]

Command = Annotated[
    list[str], typer.Argument(metavar="-- COMMAND...", help="bench, generate, evaluate or reference, and its options.")
]
Name = Annotated[str, typer.Option(metavar="NAME", help="Of the job: the same name again changes nothing.")]
Schedule = Annotated[str, typer.Option(metavar="CRON", help="When, as '0 2 * * *'.")]
TimeZone = Annotated[str | None, typer.Option(metavar="ZONE", help="Of the schedule, as Europe/Berlin.")]
Wait = Annotated[bool, typer.Option("--wait", help="Until the job has ended; status 3 if it failed.")]
Namespace = Annotated[str | None, typer.Option(metavar="NAME", show_default="the current one")]
Address = Annotated[
    str, typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="Of the cluster's dashboard.")
]
Endpoint = Annotated[
    str, typer.Option(metavar="URL", envvar="KF_PIPELINES_ENDPOINT", help="Of the API of Kubeflow Pipelines.")
]
KFP_LOOPBACK = "http://127.0.0.1:8888"
LOOPBACK = "http://127.0.0.1:8265"


Again = Annotated[bool, typer.Option("--again", help="If the job of this name has failed, begin it anew; files stay.")]


def machines(
    name: Name,
    image: Annotated[str, typer.Option(metavar="IMAGE", help="With this program: see cluster/deploy.")],
    namespace: Namespace = None,
    gpus: Annotated[int, typer.Option(help="GPUs in all; 0: one worker without.")] = 1,
    gpus_per_worker: Annotated[int, typer.Option(help="GPUs of one pod.")] = 1,
    gpu_type: Annotated[
        str | None,
        typer.Option(metavar="VALUE", help="A value of the node label nvidia.com/gpu.product, or LABEL=VALUE."),
    ] = None,
    gpu_memory: Annotated[int | None, typer.Option(metavar="GB", help="What a GPU has at least.")] = None,
    cpus: Annotated[int, typer.Option(help="Cores of a worker's pod.")] = 8,
    memory: Annotated[int, typer.Option(metavar="GIB", help="Memory of a worker's pod.")] = 32,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="CLAIM|NFS|URL",
            help="Where run folders are made: a PersistentVolumeClaim that many nodes write, or nfs://SERVER/PATH "
            "(/storage in every pod), or s3://BUCKET/PATH.",
            show_default="where the command's --out is",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|CLAIM|NFS",
            help="embedded; published: fetched once a node; or a volume for all nodes, fetched once.",
            show_default="what the command's recipe runs on",
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=KEY", help="A key of a Kubernetes Secret, as an environment variable of that name."),
    ] = None,
    queue: Annotated[str | None, typer.Option(metavar="NAME", help="A LocalQueue of Kueue.")] = None,
    retries: Annotated[
        int, typer.Option(help="New clusters for a job that failed; each goes on where it stopped.")
    ] = 2,
    deadline_hours: Annotated[float, typer.Option(help="The most that the job may take.")] = 24.0,
    start_minutes: Annotated[float, typer.Option(help="The most that it may take to start.")] = 30.0,
    keep_minutes: Annotated[float, typer.Option(help="How long the pods of a job stay that ended.")] = 60.0,
    ray_version: Annotated[
        str | None, typer.Option(help="Of the image.", show_default="the one installed here")
    ] = None,
) -> dict[str, Any]:
    """The options that describe a job; `manifest` and `submit kuberay` share them."""
    return dict(locals())


def program_of(context: typer.Context) -> Any:
    """The command line that the context belongs to: `submit` and `manifest` parse the command after -- with it."""
    return context.find_root().command


def with_machines(command: Callable[..., int]) -> Callable[..., int]:
    """`command`, called with the options of `machines` as its first argument."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = dict(inspect.signature(machines).parameters)
    if any(parameter.name == "delete" for parameter in own):
        shared["image"] = shared["image"].replace(default="")  # what is deleted needs none

    @functools.wraps(command)
    def run(context: typer.Context, **options: Any) -> int:
        asked = {key: options.pop(key) for key in shared}
        return command(asked | {"program": program_of(context)}, **options)

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *(p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *shared.values()))]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


Verbs = tuple[tuple[str, Callable[..., int]], ...]


def add_to(app: typer.Typer, guarded: Guard) -> None:
    """Hang these verbs into the command line."""
    for name, text, verbs in (
        ("manifest", "Print manifests for Kubernetes: pipe them into kubectl apply -f -.", MANIFESTS),
        ("submit", "Run a command: here, on a Ray cluster, or as a RayJob on Kubernetes.", SUBMITS),
        ("schedule", "Have a command run by the clock. The same name again changes nothing, or what differs.", CLOCKS),
        ("job", "Look after a job that was submitted.", JOBS),
    ):
        group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)
        for verb, command in verbs:
            group.command(verb)(guarded(command))
        app.add_typer(group, name=name)
    app.command("encoded", hidden=True, context_settings={"ignore_unknown_options": True})(guarded(_encoded))


# ---- manifest -----------------------------------------------------------------------------------------------------


@with_machines
def _ray_job(asked: dict[str, Any], command: Command) -> int:
    """A RayJob: a cluster for one command, which ends with it; three attempts, each of which goes on."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.show_ray_job(asked, command)


@with_machines
def _ray_cluster(
    asked: dict[str, Any],
    dashboard_host: Annotated[str, typer.Option(help="What its dashboard listens on.")] = "127.0.0.1",
) -> int:
    """A RayCluster, which stays: for `submit ray` through kubectl port-forward."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.show_ray_cluster(asked, dashboard_host)


@with_machines
def _cron_job(asked: dict[str, Any], command: Command, schedule: Schedule, time_zone: TimeZone = None) -> int:
    """A CronJob whose ticks run `submit kuberay`, one at a time, and the rights that it needs."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.show_cron_job(asked, command, schedule, time_zone)


@with_machines
def _ray_cron_job(asked: dict[str, Any], command: Command, schedule: Schedule, time_zone: TimeZone = None) -> int:
    """A RayCronJob, KubeRay's own clock: alpha, off by default, without queues and without a guard against overlap."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.show_ray_cron_job(asked, command, schedule, time_zone)


@with_machines
def _pipeline(asked: dict[str, Any], command: Command) -> int:
    """A pipeline of Kubeflow as IR YAML: weights, references, the bench as a RayJob, judgement, a board."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.show_pipeline(asked, command)


MANIFESTS: Verbs = (
    ("kfp", _pipeline),
    ("rayjob", _ray_job),
    ("raycluster", _ray_cluster),
    ("cronjob", _cron_job),
    ("raycronjob", _ray_cron_job),
)


# ---- submit, and what comes after ---------------------------------------------------------------------------------


def _local(
    context: typer.Context,
    command: Command,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the run folder in runs/.", show_default="by the settings")
    ] = None,
) -> int:
    """Run the command here; again, it finishes what is unfinished and does nothing twice."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.run_named(program_of(context), command, name)


def _on_ray(
    context: typer.Context,
    command: Command,
    name: Name,
    address: Address = LOOPBACK,
    wait: Wait = False,
    again: Again = False,
) -> int:
    """Run it on a Ray cluster that is there, through its Jobs API."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.submit_to_ray(program_of(context), command, name, address, wait=wait, again=again)


@with_machines
def _on_kuberay(asked: dict[str, Any], command: Command, wait: Wait = False, again: Again = False) -> int:
    """Run it as a RayJob: a cluster is made for it. Attaches to a job of this name that asks for the same."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.submit_to_kuberay(asked, command, wait=wait, again=again)


@with_machines
def _on_kubeflow(
    asked: dict[str, Any],
    command: Command,
    endpoint: Endpoint = KFP_LOOPBACK,
    wait: Wait = False,
    again: Again = False,
) -> int:
    """Run a bench as a pipeline of Kubeflow. Attaches to a run of this name that asks for the same."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.submit_to_kubeflow(asked, command, endpoint, wait=wait, again=again)


SUBMITS: Verbs = (("local", _local), ("ray", _on_ray), ("kuberay", _on_kuberay), ("kfp", _on_kubeflow))

# ---- schedule -----------------------------------------------------------------------------------------------------

When = Annotated[str, typer.Option("--schedule", metavar="CRON", help="When, as '0 2 * * *' or @daily.")]
Delete = Annotated[bool, typer.Option("--delete", help="Have no such schedule; what it has begun goes on.")]
PerhapsCommand = Annotated[
    list[str] | None, typer.Argument(metavar="-- COMMAND...", help="What to run; nothing with --delete.")
]


@with_machines
def _by_cron_job(
    asked: dict[str, Any],
    command: PerhapsCommand = None,
    schedule: When = "",
    time_zone: TimeZone = None,
    delete: Delete = False,
) -> int:
    """A CronJob of Kubernetes: each tick a RayJob with a run folder of its own, never two at a time."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.schedule_by_cron_job(asked, command, schedule, time_zone, delete=delete)


@with_machines
def _by_kubeflow(
    asked: dict[str, Any],
    command: PerhapsCommand = None,
    schedule: When = "",
    time_zone: TimeZone = None,
    endpoint: Endpoint = KFP_LOOPBACK,
    delete: Delete = False,
) -> int:
    """A recurring run of Kubeflow: each a pipeline with a RayJob and a run folder of its own, never two at a time."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.schedule_by_kubeflow(asked, command, schedule, time_zone, endpoint, delete=delete)


CLOCKS: Verbs = (("cronjob", _by_cron_job), ("kfp", _by_kubeflow))

# ---- job ----------------------------------------------------------------------------------------------------------

Where = Annotated[
    str,
    typer.Argument(
        metavar="ray|kuberay|kfp",
        autocompletion=words_of("pipeline.commands.cluster", "PLACES"),
        help="Where it was submitted.",
    ),
]
Which = Annotated[str, typer.Argument(metavar="NAME", help="Of the job.")]


def _status(
    where: Where,
    name: Which,
    address: Address = LOOPBACK,
    namespace: Namespace = None,
    endpoint: Endpoint = KFP_LOOPBACK,
    json: AsJson = False,
) -> int:
    """waiting, running, succeeded or failed, and why. Status 3 if it failed."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.show_status(where, name, address if where == "ray" else endpoint, namespace, as_json=json)


def _logs(
    where: Where,
    name: Which,
    address: Address = LOOPBACK,
    namespace: Namespace = None,
    endpoint: Endpoint = KFP_LOOPBACK,
) -> int:
    """What the command has printed."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.show_logs(where, name, address if where == "ray" else endpoint, namespace)


def _cancel(
    where: Where,
    name: Which,
    address: Address = LOOPBACK,
    namespace: Namespace = None,
    endpoint: Endpoint = KFP_LOOPBACK,
) -> int:
    """Stop it and forget it, so that its name is free; the run folder stays."""
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.cancel(where, name, address if where == "ray" else endpoint, namespace)


JOBS: Verbs = (("status", _status), ("logs", _logs), ("cancel", _cancel))


def _encoded(context: typer.Context, command: Annotated[list[str], typer.Argument()]) -> int:
    """Run a command whose words `cluster.kubernetes.job.encoded` wrote."""
    from cluster.kubernetes.job import decoded
    from pipeline.commands import cluster as commands_cluster

    return commands_cluster.run_here(program_of(context), decoded(command))
