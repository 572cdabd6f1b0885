"""The options and arguments of `manifest`, `submit`, `schedule` and `job`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any

import typer

from cluster.jobs.description import ClusterJob
from pipeline.cli.values import with_options
from pipeline.option import option

TARGETS = "ray", "kuberay", "kfp"
NOT_FOR_DELETION = "Required unless --delete is given."
_WORDS, _CRON = "-- COMMAND...", "Cron schedule: '0 2 * * *' or @daily."
_COMMAND = "Command to run: bench, generate, evaluate or reference, with its options."
_BENCH = "Command to run: bench with its options. A pipeline runs bench only."

Words = Annotated[list[str], typer.Argument(metavar=_WORDS, help=_COMMAND)]
BenchWords = Annotated[list[str], typer.Argument(metavar=_WORDS, help=_BENCH)]
OptionalWords = Annotated[list[str] | None, typer.Argument(metavar=_WORDS, help=f"{_COMMAND} {NOT_FOR_DELETION}")]
OptionalBenchWords = Annotated[list[str] | None, typer.Argument(metavar=_WORDS, help=f"{_BENCH} {NOT_FOR_DELETION}")]
Schedule = Annotated[str, typer.Option(metavar="CRON", help=_CRON)]
OptionalSchedule = Annotated[str, typer.Option("--schedule", metavar="CRON", help=f"{_CRON} {NOT_FOR_DELETION}")]
TimeZone = Annotated[str | None, typer.Option(metavar="ZONE", help="Time zone of the schedule: Europe/Berlin.")]
RefusedTimeZone = Annotated[str | None, typer.Option("--time-zone", hidden=True)]  # an error says why
Delete = Annotated[bool, typer.Option("--delete", help="Delete the schedule; running jobs are not affected.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the job to finish; exit status 3 if it fails.")]
Resubmit = Annotated[
    bool, typer.Option("--resubmit", "--again", help="Replace a failed job of this name; its run folder is kept.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the pods, the quota that they need and who would refuse them; submit nothing."
    ),
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
Target = Annotated[
    str,
    typer.Argument(
        metavar="|".join(TARGETS), autocompletion=lambda: list(TARGETS), help="Where the job was submitted."
    ),
]
JobName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the job.")]


PolicyName = Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the job, and of the policy.")]
PolicyNamespace = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NAME", help="Kubernetes namespace.", show_default="the current one"),
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


@dataclass(frozen=True)
class Services:
    """Where the services are that jobs are submitted to."""

    address: str = option(
        "http://127.0.0.1:8265",
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Address of the Ray dashboard.",
    )
    endpoint: str = option(
        "http://127.0.0.1:8888",
        metavar="URL",
        envvar="KF_PIPELINES_ENDPOINT",
        help="Address of the Kubeflow Pipelines API.",
    )


# ---- jobs on Kubernetes -------------------------------------------------------------------------------------------

Attributes = Mapping[str, Any]  # of an option
_FIELDS = [key for key, field in ClusterJob.model_fields.items() if field.description and key != "dashboard_host"]
_ONLY_KUBEFLOW = ("run_deadline_hours",)
CLUSTER_JOB: Mapping[str, Attributes] = {
    "image": {"default": Parameter.empty},
    "secrets": {"type": list[str] | None, "default": None},
    "node_selectors": {"type": list[str] | None, "default": None},
    "tolerations": {"type": list[str] | None, "default": None},
    "storage": {"show_default": "the command's --out"},
    "weights": {"default": "", "show_default": "the weights of the command's recipe"},
}
KUBEFLOW: Mapping[str, Attributes] = {
    "storage": {
        "metavar": "CLAIM",
        "help": "ReadWriteMany PersistentVolumeClaim for run folders, mounted at /storage.",
        "note": "  [required]",  # the pipeline checks it
        "show_default": False,
    },
    "weights": {
        "metavar": "NAME|CLAIM",
        "help": "Model weights: embedded, published (downloaded once per node), or a PersistentVolumeClaim shared by "
        "all nodes (downloaded once).",
    },
    "deadline_hours": {"help": "Maximum duration of each RayJob, in hours."},
    "keep_minutes": {
        "help": "Time to keep the pods of a RayJob after its end, and (kfp 2.17 or later) those of the steps after the "
        "end of the run, at least 1, in minutes."
    },
}


DELETABLE: Mapping[str, Attributes] = {
    "image": {
        "default": "",
        "help": f"{ClusterJob.model_fields['image'].description} {NOT_FOR_DELETION}",
        "show_default": False,
    },
}


def with_job(
    name: str,
    *names: str,
    changes: Mapping[str, Attributes] | None = None,
    hidden: Sequence[str] = (),
    deletable: bool = False,
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """`with_options` for a command with a parameter `job`, a `ClusterJob`: its options follow the others, `names`.

    `name` is the help of --name. `hidden` options have no effect or are refused by the command. A `deletable` job needs
    fewer options.
    """
    differ: dict[str, dict[str, Any]] = {"name": {"help": name}} | {key: {"hidden": True} for key in hidden}
    for each in (CLUSTER_JOB, changes or {}, DELETABLE if deletable else {}):
        for key, attributes in each.items():
            differ[key] = differ.get(key, {}) | {**attributes}
    if note := differ["storage"].pop("note", ""):
        differ["storage"]["help"] += f" {NOT_FOR_DELETION}" if deletable else note
    fields = [key for key in _FIELDS if changes is KUBEFLOW or key not in _ONLY_KUBEFLOW]
    return with_options("context", *names, *fields, **differ)
