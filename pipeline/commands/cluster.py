"""The commands `manifest`, `submit`, `schedule` and `job`."""

import functools
import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.jobs import description as jobs
from cluster.jobs import launcher as launchers
from cluster.jobs.description import EMBEDDED, PUBLISHED, Job
from cluster.jobs.errors import LaunchError
from cluster.jobs.launcher import Change, Launcher
from cluster.kubernetes import cronjob, rayjob
from cluster.kubernetes.models import Manifest, as_yaml
from pipeline.errors import UserError, nearest
from pipeline.weights import models

RUNNABLE = "bench", "generate", "evaluate", "reference"
OK, FAILED = 0, 3
TARGETS = "ray", "kuberay", "kfp"
Program = Any  # the whole command line, a click group


def show_ray_job(options: Mapping[str, Any], command: Sequence[str]) -> int:
    return _show(rayjob.ray_job(described(options, command)))


def show_ray_cluster(options: Mapping[str, Any], dashboard_host: str) -> int:
    return _show(rayjob.ray_cluster(described(options, (), dashboard_host=dashboard_host)))


def show_cron_job(options: Mapping[str, Any], command: Sequence[str], schedule: str, time_zone: str | None) -> int:
    job = described(options, command)
    return _show(*cronjob.cron_job(job, schedule, time_zone, launch_options(job)))


def show_ray_cron_job(options: Mapping[str, Any], command: Sequence[str], schedule: str, time_zone: str | None) -> int:
    return _show(cronjob.ray_cron_job(described(options, command), schedule, time_zone))


def show_pipeline(options: Mapping[str, Any], command: Sequence[str]) -> int:
    sys.stdout.write(_kubeflow().compiled(described(options, command)))
    return OK


def run_named(program: Program, words: Sequence[str], name: str | None) -> int:
    """`run_here` with the run folder runs/NAME. The same command resumes there; another one is refused."""
    if name is None:
        return run_here(program, words)
    job = jobs.job(name=name, command=tuple(words))
    return run_here(
        program, [*words, "--out", f"runs/{name}"] if words[0] in jobs.MAKES_A_FOLDER and not job.folder else words
    )


def run_here(program: Program, words: Sequence[str]) -> int:
    """Run a command of this program in this process. Returns its exit status."""
    try:
        program(list(words), standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else OK
    return OK


def submit_to_ray(
    program: Program, command: Sequence[str], name: str, address: str, *, wait: bool, resubmit: bool
) -> int:
    weights_of(program, command)
    job = jobs.job(name=name, command=tuple(command))
    return _submit(_launcher("ray", address, None), job, wait=wait, resubmit=resubmit)


def submit_to_kuberay(options: Mapping[str, Any], command: Sequence[str], *, wait: bool, resubmit: bool) -> int:
    job = described(options, command)
    rayjob.ray_job(job)  # raises errors before the API server is asked
    return _submit(_launcher("kuberay", "", job.namespace), job, wait=wait, resubmit=resubmit)


def submit_to_kubeflow(
    options: Mapping[str, Any], command: Sequence[str], endpoint: str, *, wait: bool, resubmit: bool
) -> int:
    job = described(options, command)
    _kubeflow().pipeline_of(job)
    return _submit(_launcher("kfp", endpoint, job.namespace, resubmit=resubmit), job, wait=wait, resubmit=resubmit)


def schedule_by_cron_job(
    options: Mapping[str, Any], command: Sequence[str] | None, schedule: str, time_zone: str | None, *, delete: bool
) -> int:
    from cluster.kubernetes.jobs import KubeRayJobs

    if delete:
        return _changed(options["name"], KubeRayJobs(options["namespace"]).unschedule(options["name"]))
    job = described(*_required(options, command, schedule))
    manifests = cronjob.cron_job(job, schedule, time_zone, launch_options(job))
    rayjob.ray_job(job)  # raises errors now instead of at the scheduled time
    return _changed(job.name, KubeRayJobs(job.namespace).schedule(manifests))


def schedule_by_kubeflow(
    options: Mapping[str, Any],
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
        return _changed(options["name"], KubeflowRuns(endpoint, options["namespace"]).unschedule(options["name"]))
    job, cron = described(*_required(options, command, schedule)), six_fields(schedule, time_zone)
    return _changed(job.name, KubeflowRuns(endpoint, job.namespace).schedule(job, cron))


def _required(
    options: Mapping[str, Any], command: Sequence[str] | None, schedule: str
) -> tuple[Mapping[str, Any], Sequence[str]]:
    """Require what only `--delete` works without. Raises UserError."""
    for found, option in ((options["image"], "--image"), (schedule, "--schedule"), (command, "the command after --")):
        if not found:
            raise UserError(f"There is no {option.removeprefix('the ')}; pass it, or --delete to delete the schedule.")
    return options, command or ()


def _changed(name: str, change: Change) -> int:
    print(f"{name}: {change}", flush=True)
    return OK


def _kubeflow() -> Any:
    try:
        from cluster.kubeflow import pipeline as kubeflow
    except ImportError as error:
        raise LaunchError("kfp is not installed; install it with pip install 'segmentdreamer[kubeflow]'.") from error
    return kubeflow


def show_status(target: str, name: str, address: str, namespace: str | None, *, as_json: bool = False) -> int:
    status = _launcher(target, address, namespace).status(name)
    print(json.dumps(status._asdict(), ensure_ascii=False) if as_json else status)
    return FAILED if status.state == "failed" else OK


def show_logs(target: str, name: str, address: str, namespace: str | None) -> int:
    sys.stdout.write(_launcher(target, address, namespace).logs(name))
    return OK


def cancel(target: str, name: str, address: str, namespace: str | None) -> int:
    _launcher(target, address, namespace).cancel(name)
    return OK


def described(options: Mapping[str, Any], command: Sequence[str], **more: Any) -> Job:
    """The job that the options describe. Raises UserError, ManifestError."""
    fields = dict(options)
    program = fields.pop("program")
    needs = weights_of(program, command) if command else EMBEDDED
    secrets = tuple(jobs.secret(text) for text in fields.pop("secret") or ())
    fields["weights"] = fields["weights"] or needs
    fields["ray_version"] = fields["ray_version"] or importlib.metadata.version("ray")
    return jobs.job(**fields, command=tuple(command), secrets=secrets, **more)


def weights_of(program: Program, words: Sequence[str]) -> str:
    """The weights that a command needs: published or embedded. Raises UserError for an invalid command."""
    import typer

    usage_error: Any = typer.BadParameter.__base__  # of click, or of the click inside typer

    verb, *rest = words or [""]
    if verb not in RUNNABLE:
        raise UserError(
            f"The command after -- is {verb!r}; expected one of {', '.join(RUNNABLE)}{nearest(verb, RUNNABLE)}."
        )
    try:
        context = program.commands[verb].make_context(verb, list(rest))
    except usage_error as error:
        raise UserError(
            f"The command after -- is invalid: {error.format_message().rstrip('.')}; see {verb} --help."
        ) from error
    weights = context.params.get("weights") or (
        models.default_for(context.params["recipe"]) if "recipe" in context.params else PUBLISHED
    )
    return PUBLISHED if weights == PUBLISHED else EMBEDDED


def launch_options(job: Job) -> list[str]:
    """The options of `submit kuberay` that describe this job, except its name."""
    words: list[str] = []
    for key, field in Job.model_fields.items():
        value = getattr(job, key)
        if key in ("name", "command", "secrets", "dashboard_host") or value == field.default != EMBEDDED:
            continue
        words += [f"--{key.replace('_', '-')}", f"{value}"]
    return words + [word for s in job.secrets for word in ("--secret", f"{s.name}={s.key}")]


def _launcher(target: str, address: str, namespace: str | None, *, resubmit: bool = False) -> Launcher:
    if target not in TARGETS:
        hint = nearest(target, TARGETS)
        raise UserError(f"Unknown backend {target!r}; choose from {', '.join(TARGETS)}{hint}.")
    if target == "ray":
        from cluster.ray.jobs import RayJobs

        return RayJobs(address)
    if target == "kfp":
        _kubeflow()
        from cluster.kubeflow.runs import KubeflowRuns

        return KubeflowRuns(address, namespace, resubmit=resubmit)
    from cluster.kubernetes.jobs import KubeRayJobs

    return KubeRayJobs(namespace)


def _submit(launcher: Launcher, job: Job, *, wait: bool, resubmit: bool) -> int:
    handle = launchers.resubmit(launcher, job) if resubmit else launcher.submit(job)
    print(f"{handle.name}: {'submitted' if handle.is_new else 'already submitted'}", flush=True)
    if not wait:
        return OK
    status = launchers.wait(launcher, handle.name, functools.partial(print, flush=True))
    return FAILED if status.state == "failed" else OK


def _show(*manifests: Manifest) -> int:
    sys.stdout.write(as_yaml(*manifests))
    return OK
