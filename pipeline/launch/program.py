"""This program as a cluster knows it: its jobs, and which of its commands a job can run."""

from collections.abc import Sequence
from typing import Any, cast

from pydantic import Field

from cluster.jobs.description import EMBEDDED, PUBLISHED, ClusterJob, Command, Program
from pipeline.errors import UserError, nearest
from pipeline.weights import models

NAME = "segmentdreamer"
PROGRAM = Program(
    decode=(NAME, "encoded"),
    fetch=(NAME, "weights", "fetch"),
    shared_files="reference*.npz",
    weights_variable=models.FOLDER_VARIABLE,
    weights_cache="/var/cache/segmentdreamer/weights",
)
RUNNABLE = "bench", "generate", "evaluate", "reference"
MAKES_A_FOLDER = "bench", "generate"
OUT = "--out"
REFERENCE = Command(words=("reference",), place="storage", option=OUT, weights=PUBLISHED)
# CronJobs that have been created have the options in this order, and their digests cover it.
_FIRST, _LAST = ("image", "ray_version"), ("secrets",)
_OTHERS = "name", "dashboard_host", "run_deadline_hours"  # are no such options


class ProgramJob(ClusterJob):
    """A job of this program."""

    program: Program = Field(default=PROGRAM, exclude=True)


def parsed(command_line: Any, words: Sequence[str]) -> Command:
    """Parse a command for a job with the whole command line, a click group. Raises UserError."""
    import typer

    usage_error: Any = typer.BadParameter.__base__  # of click, or of the click inside typer

    verb, *rest = words or [""]
    if verb not in RUNNABLE:
        raise UserError(
            f"The command after -- is {verb!r}; expected one of {', '.join(RUNNABLE)}{nearest(verb, RUNNABLE)}."
        )
    try:
        found = command_line.commands[verb].make_context(verb, list(rest)).params
    except usage_error as error:
        raise UserError(
            f"The command after -- is invalid: {error.format_message().rstrip('.')}; see {verb} --help."
        ) from error
    weights = found.get("weights") or (models.default_for(found["recipe"]) if "recipe" in found else PUBLISHED)
    command = Command(words=tuple(words), weights=PUBLISHED if weights == PUBLISHED else EMBEDDED)
    if verb == "evaluate":
        return command.model_copy(update={"results": found["folder"]})
    if found["out"] is None:
        place = "folder" if verb in MAKES_A_FOLDER else "storage"
        return command.model_copy(update={"place": place, "option": OUT})
    # `reference` writes only to folders, so its --out outlives no pod without a volume.
    return command.model_copy(update={"results": found["out"]}) if verb in MAKES_A_FOLDER else command


def launch_options(job: ClusterJob) -> list[str]:
    """The options of `submit kuberay` that describe this job, except its name. It has none of a pipeline run."""
    words: list[str] = []
    fields = {key: field for key, field in ClusterJob.model_fields.items() if field.description}
    for key in [*_FIRST, *(key for key in fields if key not in {*_FIRST, *_LAST, *_OTHERS}), *_LAST]:
        value, extra = getattr(job, key), cast(dict[str, Any], fields[key].json_schema_extra)
        if value == fields[key].default != EMBEDDED:
            continue
        if value is True:
            words += extra["flags"]
            continue
        (flag,) = extra.get("flags") or (f"--{key.replace('_', '-')}",)
        words += [word for each in (value if isinstance(value, tuple) else [value]) for word in (flag, f"{each}")]
    return words
