"""The options and arguments of `manifest`, `submit`, `schedule` and `job`."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args

import typer

from pipeline.cli.completion import choices

KFP_LOOPBACK = "http://127.0.0.1:8888"
LOOPBACK = "http://127.0.0.1:8265"
NOT_FOR_DELETION = "Required unless --delete is given."

Command = Annotated[
    list[str],
    typer.Argument(
        metavar="-- COMMAND...", help="Command to run: bench, generate, evaluate or reference, with its options."
    ),
]
BenchCommand = Annotated[
    list[str],
    typer.Argument(metavar="-- COMMAND...", help="Command to run: bench with its options. A pipeline runs bench only."),
]
OptionalCommand = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="-- COMMAND...",
        help=f"Command to run: bench, generate, evaluate or reference, with its options. {NOT_FOR_DELETION}",
    ),
]
OptionalBenchCommand = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="-- COMMAND...",
        help=f"Command to run: bench with its options. A pipeline runs bench only. {NOT_FOR_DELETION}",
    ),
]
CRON = "Cron schedule: '0 2 * * *' or @daily."
Schedule = Annotated[str, typer.Option(metavar="CRON", help=CRON)]
OptionalSchedule = Annotated[str, typer.Option("--schedule", metavar="CRON", help=f"{CRON} {NOT_FOR_DELETION}")]
TimeZone = Annotated[str | None, typer.Option(metavar="ZONE", help="Time zone of the schedule: Europe/Berlin.")]
RefusedTimeZone = Annotated[str | None, typer.Option("--time-zone", hidden=True)]  # an error says why
Delete = Annotated[bool, typer.Option("--delete", help="Delete the schedule; running jobs are not affected.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the job to finish; exit status 3 if it fails.")]
Resubmit = Annotated[
    bool, typer.Option("--resubmit", "--again", help="Replace a failed job of this name; its run folder is kept.")
]
RayName = Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the job: its submission ID in Ray.")]
FolderName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Name of the run folder of bench or generate: runs/NAME.",
        show_default="SUITE-OBJECTIVES-DIGEST",
    ),
]
Address = Annotated[
    str, typer.Option(metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="Address of the Ray dashboard.")
]
Endpoint = Annotated[
    str, typer.Option(metavar="URL", envvar="KF_PIPELINES_ENDPOINT", help="Address of the Kubeflow Pipelines API.")
]
DashboardHost = Annotated[str, typer.Option(metavar="HOST", help="Address that the dashboard listens on.")]

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
JobAddress = Annotated[
    str,
    typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="ray: address of the dashboard."),
]
JobNamespace = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        metavar="NAME",
        help="kuberay: Kubernetes namespace. kfp: namespace of the profile, with several profiles.",
        show_default="the current one for kuberay",
    ),
]
JobEndpoint = Annotated[
    str,
    typer.Option(
        "--endpoint",
        metavar="URL",
        envvar="KF_PIPELINES_ENDPOINT",
        help="kfp: address of the Kubeflow Pipelines API.",
    ),
]

# ---- jobs on Kubernetes -------------------------------------------------------------------------------------------


def cluster_options(
    name: Annotated[str, typer.Option(metavar="NAME")],
    image: Annotated[
        str, typer.Option(metavar="IMAGE", help="Container image that contains segmentdreamer; see cluster/deploy.")
    ],
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Kubernetes namespace.", show_default="the current one")
    ] = None,
    gpus: Annotated[
        int, typer.Option(metavar="N", help="Total number of GPUs; 0 starts one worker without a GPU.")
    ] = 1,
    gpus_per_worker: Annotated[int, typer.Option(metavar="N", help="GPUs per pod.")] = 1,
    gpu_type: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE", help="GPU type: a value of the node label nvidia.com/gpu.product, or LABEL=VALUE."
        ),
    ] = None,
    gpu_memory: Annotated[
        int | None, typer.Option(metavar="GB", help="Minimum memory of a GPU, in GB (10^9 bytes).")
    ] = None,
    cpus: Annotated[int, typer.Option(metavar="N", help="CPU cores per worker pod.")] = 8,
    memory: Annotated[int, typer.Option(metavar="GIB", help="Memory per worker pod, in GiB (2^30 bytes).")] = 32,
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
            metavar="SECRET=KEY",
            help="Set the environment variable KEY from the key KEY of the Kubernetes Secret SECRET. Repeatable.",
        ),
    ] = None,
    queue: Annotated[str | None, typer.Option(metavar="NAME", help="Kueue LocalQueue to submit the job to.")] = None,
    retries: Annotated[
        int,
        typer.Option(
            metavar="N", help="Number of retries of a failed job, each with a new cluster that resumes the run."
        ),
    ] = 2,
    deadline_hours: Annotated[
        float, typer.Option(metavar="HOURS", help="Maximum duration of the job, in hours.")
    ] = 24.0,
    start_minutes: Annotated[
        float, typer.Option(metavar="MINUTES", help="Maximum time until the job starts, in minutes.")
    ] = 30.0,
    keep_minutes: Annotated[
        float, typer.Option(metavar="MINUTES", help="Time to keep the pods after the job has ended, in minutes.")
    ] = 60.0,
    ray_version: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Ray version in the image.", show_default="the installed version"),
    ] = None,
) -> dict[str, Any]:
    """The options of the commands that describe a job on Kubernetes, by name."""
    return dict(locals())


OF_JOBS = "retries", "deadline_hours", "start_minutes", "keep_minutes"
Attributes = Mapping[str, Any]  # of an option: help, metavar, show_default
KUBEFLOW: Mapping[str, Attributes] = {
    "storage": {
        "metavar": "CLAIM",
        "help": "ReadWriteMany PersistentVolumeClaim for run folders, mounted at /storage.",
    },
    "weights": {
        "metavar": "NAME|CLAIM",
        "help": "Model weights: embedded, published (downloaded once per node), or a PersistentVolumeClaim shared by "
        "all nodes (downloaded once).",
    },
}


def program_of(context: typer.Context) -> Any:
    """The whole command line, with which `submit` and `manifest` parse the command after --."""
    return context.find_root().command


def with_cluster_options(
    name: str, changes: Mapping[str, Attributes] | None = None, *, required: str = "", hidden: Sequence[str] = ()
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Add the options of `cluster_options` to a command, which gets them as its first argument.

    `name` is the help of --name, `changes` are attributes of other options. `required` is an option that the command
    checks itself. `hidden` options have no effect or are refused by the command.
    """

    def decorated(command: Callable[..., int]) -> Callable[..., int]:
        own = list(inspect.signature(command).parameters.values())[1:]
        shared = dict(inspect.signature(cluster_options).parameters)
        can_delete = any(parameter.name == "delete" for parameter in own)
        shared["name"] = _with(shared["name"], help=name)
        for key, attributes in (changes or {}).items():
            shared[key] = _with(shared[key], **attributes)
        for key in hidden:
            shared[key] = _with(shared[key], hidden=True)
        for key in [required] * bool(required) + ["image"] * can_delete:
            note = f" {NOT_FOR_DELETION}" if can_delete else "  [required]"
            shared[key] = _with(shared[key], help=_option(shared[key]).help + note, show_default=False)
        if can_delete:
            shared["image"] = shared["image"].replace(default="")

        @functools.wraps(command)
        def run(context: typer.Context, **options: Any) -> int:
            chosen = {key: options.pop(key) for key in shared}
            return command(chosen | {"program": program_of(context)}, **options)

        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [context, *(p.replace(kind=p.KEYWORD_ONLY) for p in (*own, *shared.values()))]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorated


def _option(parameter: inspect.Parameter) -> Any:
    """The typer.Option of a parameter's annotation."""
    return get_args(parameter.annotation)[1]


def _with(parameter: inspect.Parameter, **attributes: Any) -> inspect.Parameter:
    """The parameter, with these attributes of its option changed."""
    option = copy.copy(_option(parameter))
    vars(option).update(attributes)
    return parameter.replace(annotation=Annotated[get_args(parameter.annotation)[0], option])
