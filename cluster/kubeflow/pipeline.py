"""A Kubeflow pipeline of steps one after the other, compiled to IR YAML.

The steps are pods of the job's image, so nothing is installed when they start (`install_kfp_package=False`). Caching is
off, so that a nightly run always runs.

A step has three tries, with 5 and 10 seconds between them. A retry helps against a lost pod or a refused request; its
pod takes seconds to start, and while the API server is down, Argo starts none. Nothing tells a failure that would only
repeat from others: kfp retries all of them. So a step whose RayJob has failed reports that failure three times, within
a minute.
"""

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import kfp
from kfp import compiler, dsl, kubernetes
from kfp.dsl import PipelineTask

from cluster.jobs.description import NFS, STORAGE, WEIGHTS, ClusterJob
from cluster.jobs.errors import ManifestError
from cluster.kubernetes.models import MAX_CHARACTERS
from cluster.kubernetes.rayjob import ray_job

ATTEMPTS, STEP_MINUTES = 3, 60.0
WAIT_SECONDS, WAIT_FACTOR = 5, 2  # before the first retry; each further wait is longer by the factor
MIN_KEEP_SECONDS = 60  # in which Kubeflow records the end of a run, before its Workflow is deleted
MAX_SECONDS = 2**31 - 1  # of Kubernetes
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
    limits = [_step_seconds(described, waits_for_ray=function in steps.waiting) for function in steps.functions]
    longest = sum(map(_seconds_with_retries, limits))
    make = dsl.component(base_image=described.image, install_kfp_package=False)
    components = [make(function) for function in steps.functions]

    @dsl.pipeline(name=steps.name, description=steps.description, **_configuration(described, longest))
    def chain(job: str = described.text, again: bool = False) -> None:
        run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER if each_run else ""
        tasks: list[PipelineTask] = []
        for component, limit in zip(components, limits, strict=True):
            more = {} if tasks else {"again": again}
            task = component(job=job, run_id=run_id, **more).after(*tasks[-1:])
            _configure(task, described, limit)
            tasks.append(task)

    for task in chain.pipeline_spec.root.dag.tasks.values():
        # Argo retries no step, and kills a retried one, when this time has passed since the start of its first try. kfp
        # sets an hour by default, and 2.16 shortens any other value to it.
        task.retry_policy.backoff_max_duration.seconds = min(longest, MAX_SECONDS)
    return chain


def compiled(pipeline: Any) -> str:
    """A pipeline as IR YAML: its graph, then a second document with the Kubernetes settings."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path.read_text(encoding="utf-8")


def _configuration(job: ClusterJob, longest: int) -> dict[str, Any]:
    """The run's deadline, and the time that its pods are kept, as an argument of `dsl.pipeline`.

    kfp 2.16 has neither, and 2.17 reads 0 as unset. Raises ManifestError for a deadline that would be ignored.
    """
    if "active_deadline_seconds" not in inspect.signature(dsl.PipelineConfig).parameters:
        if job.run_deadline_hours is not None:
            raise ManifestError(
                f"`run_deadline_hours` needs kfp 2.17 or later, and kfp {kfp.__version__} is installed; upgrade kfp, "
                "or omit `run_deadline_hours`."
            )
        return {}
    deadline = longest if job.run_deadline_hours is None else max(1, round(3600 * job.run_deadline_hours))
    return {
        "pipeline_config": dsl.PipelineConfig(
            ttl_seconds_after_finished=min(max(MIN_KEEP_SECONDS, round(60 * job.keep_minutes)), MAX_SECONDS),
            active_deadline_seconds=min(deadline, MAX_SECONDS),
        )
    }


def _step_seconds(job: ClusterJob, *, waits_for_ray: bool) -> int:
    """The time limit of each try of a step."""
    minutes = 60 * job.deadline_hours + job.start_minutes if waits_for_ray else 0
    return min(round(60 * (minutes + STEP_MINUTES)), MAX_SECONDS)


def _seconds_with_retries(limit: int) -> int:
    """The longest time that a step can take, with a time limit of each try."""
    return ATTEMPTS * limit + sum(WAIT_SECONDS * WAIT_FACTOR**retry for retry in range(ATTEMPTS - 1))


def _configure(task: PipelineTask, job: ClusterJob, limit: int) -> None:
    """Set retries, timeout, secrets and volumes of a step's pod."""
    task.set_caching_options(False)
    task.set_retry(num_retries=ATTEMPTS - 1, backoff_duration=f"{WAIT_SECONDS}s", backoff_factor=float(WAIT_FACTOR))
    kubernetes.set_timeout(task, limit)
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
