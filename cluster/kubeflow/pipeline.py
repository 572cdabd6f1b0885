"""A Kubeflow pipeline of steps one after the other, compiled to IR YAML.

The steps are pods of the job's image, so nothing is installed when they start (`install_kfp_package=False`). Caching is
off, so that a nightly run always runs.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl, kubernetes
from kfp.dsl import PipelineTask

from cluster.jobs.description import NFS, STORAGE, WEIGHTS, ClusterJob
from cluster.jobs.errors import ManifestError
from cluster.kubernetes.models import MAX_CHARACTERS
from cluster.kubernetes.rayjob import ray_job

ATTEMPTS, STEP_MINUTES = 3, 60.0
Step = Callable[..., Any]


class Steps(NamedTuple):
    """The steps of a pipeline: functions of `job`, a `ClusterJob.text`, and `run_id`, empty except in a schedule.

    The first one also gets `again`: whether to forget failed RayJobs. kfp copies the source of each into the pipeline.
    """

    name: str
    description: str
    functions: tuple[Step, ...]
    waiting: tuple[Step, ...]  # those that wait for a RayJob
    suffix_characters: int  # that a step appends to the job's name


def pipeline_of(steps: Steps, described: ClusterJob, *, each_run: bool = False) -> Any:
    """The pipeline of a job. Its parameters are a `ClusterJob.text` and whether to resubmit failed RayJobs.

    With `each_run`, each run of the pipeline has its own RayJobs and run folder. Raises ManifestError for a job that a
    pipeline does not support.
    """
    _check(steps, described)
    make = dsl.component(base_image=described.image, install_kfp_package=False)
    components = [make(function) for function in steps.functions]

    @dsl.pipeline(name=steps.name, description=steps.description)
    def chain(job: str = described.text, again: bool = False) -> None:
        run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER if each_run else ""
        tasks: list[PipelineTask] = []
        for function, component in zip(steps.functions, components, strict=True):
            more = {} if tasks else {"again": again}
            task = component(job=job, run_id=run_id, **more).after(*tasks[-1:])
            _configure(task, described, waits_for_ray=function in steps.waiting)
            tasks.append(task)

    return chain


def compiled(pipeline: Any) -> str:
    """A pipeline as IR YAML: its graph, then a second document with the Kubernetes settings."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path.read_text(encoding="utf-8")


def _configure(task: PipelineTask, job: ClusterJob, *, waits_for_ray: bool) -> None:
    """Set retries, timeout, secrets and volumes of a step's pod."""
    task.set_caching_options(False)
    task.set_retry(num_retries=ATTEMPTS - 1, backoff_duration="60s", backoff_factor=2.0)
    minutes = 60 * job.deadline_hours + job.start_minutes if waits_for_ray else 0
    kubernetes.set_timeout(task, round(60 * (minutes + STEP_MINUTES)))
    for secret in job.secrets:
        kubernetes.use_secret_as_env(task, secret_name=secret.name, secret_key_to_env={secret.key: secret.key})
    kubernetes.mount_pvc(task, pvc_name=job.storage, mount_path=STORAGE)
    if job.claims_weights:
        kubernetes.mount_pvc(task, pvc_name=job.weights, mount_path=WEIGHTS)


def _check(steps: Steps, job: ClusterJob) -> None:
    """Raise ManifestError for a job that KubeRay rejects or a pipeline does not support."""
    ray_job(job)
    limit = MAX_CHARACTERS["RayJob"] - steps.suffix_characters
    if len(job.name) > limit:
        raise ManifestError(
            f"`name` is {job.name!r}; a pipeline appends to it to name its RayJobs: use at most {limit} characters."
        )
    for field, claim in (("`storage`", job.storage or ""), ("`weights`", job.weights)):
        if claim.startswith(NFS):
            raise ManifestError(f"{field} is {claim!r}; Kubeflow mounts only claims: pass a PersistentVolumeClaim.")
