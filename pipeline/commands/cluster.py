"""What `segmentdreamer manifest …`, `submit …` and `job …` do, once their options are read."""

import functools
import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.kubernetes import job as jobs
from cluster.kubernetes.job import EMBEDDED, PUBLISHED, Job
from cluster.kubernetes.launcher import Change, Launcher, LaunchError, begin_anew
from cluster.kubernetes.launcher import wait as until_end
from cluster.kubernetes.manifests import Manifest, as_yaml
from pipeline.errors import UserError, nearest
from pipeline.weights import models

RUNNABLE = "bench", "generate", "evaluate", "reference"
OK, FAILED = 0, 3
PLACES = "ray", "kuberay", "kfp"
Program = Any  # the command line of this program: the click group that runs a list of words


def show_ray_job(asked: Mapping[str, Any], command: Sequence[str]) -> int:
    return _show(jobs.ray_job(described(asked, command)))


def show_ray_cluster(asked: Mapping[str, Any], dashboard_host: str) -> int:
    return _show(jobs.ray_cluster(described(asked, (), dashboard_host=dashboard_host)))


def show_cron_job(asked: Mapping[str, Any], command: Sequence[str], schedule: str, time_zone: str | None) -> int:
    job = described(asked, command)
    return _show(*jobs.cron_job(job, schedule, time_zone, launch_options(job)))


def show_ray_cron_job(asked: Mapping[str, Any], command: Sequence[str], schedule: str, time_zone: str | None) -> int:
    return _show(jobs.ray_cron_job(described(asked, command), schedule, time_zone))


def show_pipeline(asked: Mapping[str, Any], command: Sequence[str]) -> int:
    sys.stdout.write(_kubeflow().compiled(described(asked, command)))
    return OK


def run_named(program: Program, words: Sequence[str], name: str | None) -> int:
    """`run_here`, in a folder of this name: there the same command goes on, and another is refused."""
    if name is None:
        return run_here(program, words)
    job = jobs.job(name=name, command=tuple(words))
    return run_here(
        program, [*words, "--out", f"runs/{name}"] if words[0] in jobs.MAKES_A_FOLDER and not job.folder else words
    )


def run_here(program: Program, words: Sequence[str]) -> int:
    """Run a command of this program in this process; its status."""
    try:
        program(list(words), standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else OK
    return OK


def submit_to_ray(program: Program, command: Sequence[str], name: str, address: str, *, wait: bool, again: bool) -> int:
    weights_of(program, command)
    job = jobs.job(name=name, command=tuple(command))
    return _submit(_launcher("ray", address, None), job, wait=wait, again=again)


def submit_to_kuberay(asked: Mapping[str, Any], command: Sequence[str], *, wait: bool, again: bool) -> int:
    job = described(asked, command)
    jobs.ray_job(job)  # what is refused is refused before anybody is asked
    return _submit(_launcher("kuberay", "", job.namespace), job, wait=wait, again=again)


def submit_to_kubeflow(
    asked: Mapping[str, Any], command: Sequence[str], endpoint: str, *, wait: bool, again: bool
) -> int:
    job = described(asked, command)
    _kubeflow().pipeline_of(job)
    return _submit(_launcher("kfp", endpoint, job.namespace, again=again), job, wait=wait, again=again)


def schedule_by_cron_job(
    asked: Mapping[str, Any], command: Sequence[str] | None, schedule: str, time_zone: str | None, *, delete: bool
) -> int:
    from cluster.kubernetes.jobs import KubeRayJobs

    if delete:
        return _changed(asked["name"], KubeRayJobs(asked["namespace"]).unschedule(asked["name"]))
    job = described(*_needed(asked, command, schedule))
    manifests = jobs.cron_job(job, schedule, time_zone, launch_options(job))
    jobs.ray_job(job)  # what is refused is refused now, and not at night
    return _changed(job.name, KubeRayJobs(job.namespace).schedule(manifests))


def schedule_by_kubeflow(
    asked: Mapping[str, Any],
    command: Sequence[str] | None,
    schedule: str,
    time_zone: str | None,
    endpoint: str,
    *,
    delete: bool,
) -> int:
    _kubeflow()
    from cluster.kubeflow.runs import KubeflowRuns, six_fields

    if delete:
        return _changed(asked["name"], KubeflowRuns(endpoint, asked["namespace"]).unschedule(asked["name"]))
    job, cron = described(*_needed(asked, command, schedule)), six_fields(schedule, time_zone)
    return _changed(job.name, KubeflowRuns(endpoint, job.namespace).schedule(job, cron))


def _needed(
    asked: Mapping[str, Any], command: Sequence[str] | None, schedule: str
) -> tuple[Mapping[str, Any], Sequence[str]]:
    """What `--delete` does without."""
    for found, option in ((asked["image"], "--image"), (schedule, "--schedule"), (command, "the command after --")):
        if not found:
            raise UserError(f"There is no {option.removeprefix('the ')}; give it, or --delete for no such schedule.")
    return asked, command or ()


def _changed(name: str, change: Change) -> int:
    print(f"{name}: {change}", flush=True)
    return OK


def _kubeflow() -> Any:
    try:
        from cluster.kubeflow import pipeline as kubeflow
    except ImportError as error:
        raise LaunchError("kfp is not installed; run pip install 'segmentdreamer[kubeflow]'.") from error
    return kubeflow


def show_status(where: str, name: str, address: str, namespace: str | None, *, as_json: bool = False) -> int:
    status = _launcher(where, address, namespace).status(name)
    print(json.dumps(status._asdict(), ensure_ascii=False) if as_json else status)
    return FAILED if status.state == "failed" else OK


def show_logs(where: str, name: str, address: str, namespace: str | None) -> int:
    sys.stdout.write(_launcher(where, address, namespace).logs(name))
    return OK


def cancel(where: str, name: str, address: str, namespace: str | None) -> int:
    _launcher(where, address, namespace).cancel(name)
    return OK


def described(asked: Mapping[str, Any], command: Sequence[str], **more: Any) -> Job:
    """The job that the options describe. Raises UserError, ManifestError."""
    fields = dict(asked)
    program = fields.pop("program")
    needs = weights_of(program, command) if command else EMBEDDED
    secrets = tuple(jobs.secret(text) for text in fields.pop("secret") or ())
    fields["weights"] = fields["weights"] or needs
    fields["ray_version"] = fields["ray_version"] or importlib.metadata.version("ray")
    return jobs.job(**fields, command=tuple(command), secrets=secrets, **more)


def weights_of(program: Program, words: Sequence[str]) -> str:
    """The weights that a command runs on: published or embedded. Raises UserError for a command that cannot run."""
    import typer

    usage_error: Any = typer.BadParameter.__base__  # click's, or that of the click within typer

    verb, *rest = words or [""]
    if verb not in RUNNABLE:
        raise UserError(
            f"The command after -- is {verb!r}; it begins with one of {', '.join(RUNNABLE)}{nearest(verb, RUNNABLE)}."
        )
    try:
        context = program.commands[verb].make_context(verb, list(rest))
    except usage_error as error:
        raise UserError(
            f"The command after -- cannot run: {error.format_message().rstrip('.')}; see {verb} --help."
        ) from error
    weights = context.params.get("weights") or (
        models.default_for(context.params["recipe"]) if "recipe" in context.params else PUBLISHED
    )
    return PUBLISHED if weights == PUBLISHED else EMBEDDED


def launch_options(job: Job) -> list[str]:
    """The options of `submit kuberay` that describe this job, but for its name."""
    words: list[str] = []
    for key, field in Job.model_fields.items():
        value = getattr(job, key)
        if key in ("name", "command", "secrets", "dashboard_host") or value == field.default != EMBEDDED:
            continue
        words += [f"--{key.replace('_', '-')}", f"{value}"]
    return words + [word for s in job.secrets for word in ("--secret", f"{s.name}={s.key}")]


def _launcher(where: str, address: str, namespace: str | None, *, again: bool = False) -> Launcher:
    if where not in PLACES:
        hint = nearest(where, PLACES)
        raise UserError(f"There is no place {where!r} to send jobs to; choose from {', '.join(PLACES)}{hint}.")
    if where == "ray":
        from cluster.ray.jobs import RayJobs

        return RayJobs(address)
    if where == "kfp":
        _kubeflow()
        from cluster.kubeflow.runs import KubeflowRuns

        return KubeflowRuns(address, namespace, again=again)
    from cluster.kubernetes.jobs import KubeRayJobs

    return KubeRayJobs(namespace)


def _submit(launcher: Launcher, job: Job, *, wait: bool, again: bool) -> int:
    handle = begin_anew(launcher, job) if again else launcher.submit(job)
    print(f"{handle.name}: {'submitted' if handle.is_new else 'there already'}", flush=True)
    if not wait:
        return OK
    status = until_end(launcher, handle.name, functools.partial(print, flush=True))
    return FAILED if status.state == "failed" else OK


def _show(*manifests: Manifest) -> int:
    sys.stdout.write(as_yaml(*manifests))
    return OK
