"""The benchmark as a Kubeflow pipeline, compiled to IR YAML.

weights → reference → bench (a RayJob) → evaluate → leaderboard. The steps are pods of the job's image, so nothing is
installed when they start (`install_kfp_package=False`). Caching is off, so that a nightly run always runs.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes
from kfp.dsl import Artifact, Dataset, Markdown, Metrics, Output, PipelineTask

from cluster.jobs.description import NFS, STORAGE, WEIGHTS, Job, in_bucket
from cluster.jobs.errors import ManifestError
from cluster.kubeflow.steps import REFERENCE, RUN_CHARACTERS
from cluster.kubernetes.models import MAX_CHARACTERS
from cluster.kubernetes.rayjob import ray_job

PIPELINE = "segmentdreamer"
ATTEMPTS, STEP_MINUTES = 3, 60.0
MAX_NAME_CHARACTERS = MAX_CHARACTERS["RayJob"] - len(f"-{REFERENCE}") - RUN_CHARACTERS - 1


def weights(job: str, run_id: str, again: bool, listing: Output[Artifact]):
    from cluster.kubeflow import steps

    if again:
        steps.forget_failed(steps.job_of(job, run_id))
    with open(listing.path, "w") as file:
        file.write(steps.fetch_weights(steps.job_of(job, run_id)))


def reference(job: str, run_id: str) -> str:
    from cluster.kubeflow import steps

    return steps.make_reference(steps.job_of(job, run_id))


def bench(job: str, run_id: str):
    from cluster.kubeflow import steps

    steps.launch(steps.job_of(job, run_id))


def evaluate(job: str, run_id: str):
    from cluster.kubeflow import steps

    steps.evaluate(steps.job_of(job, run_id))


def leaderboard(job: str, run_id: str, board: Output[Dataset], report: Output[Markdown], scores: Output[Metrics]):
    from cluster.kubeflow import steps

    table, text, numbers = steps.rank(steps.job_of(job, run_id))
    for artifact, content in ((board, table), (report, text)):
        with open(artifact.path, "w", encoding="utf-8") as file:
            file.write(content)
    for name, value in numbers.items():
        scores.log_metric(name, value)


STEPS: tuple[Callable[..., Any], ...] = weights, reference, bench, evaluate, leaderboard
WAIT_FOR_RAY = reference, bench


def compiled(job: Job, *, each_run: bool = False) -> str:
    """The pipeline as IR YAML: its graph, then a second document with the Kubernetes settings.

    With `each_run`, each run of the pipeline has its own RayJobs and run folder. Raises ManifestError.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline_of(job, each_run=each_run), str(path))
        return path.read_text(encoding="utf-8")


def pipeline_of(described: Job, *, each_run: bool = False) -> Any:
    """The pipeline of a job. Its parameters are a `Job.text` and whether to resubmit failed RayJobs.

    Raises ManifestError for a job that a pipeline does not support.
    """
    _check(described)
    components = [dsl.component(base_image=described.image, install_kfp_package=False)(step) for step in STEPS]

    @dsl.pipeline(name=PIPELINE, description="Weights, reference set, bench on Ray, evaluation, leaderboard.")
    def benchmark(job: str = described.text, again: bool = False):
        run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER if each_run else ""
        tasks: list[PipelineTask] = []
        for step, component in zip(STEPS, components, strict=True):
            more = {} if tasks else {"again": again}
            task = component(job=job, run_id=run_id, **more).after(*tasks[-1:])
            _configure(task, described, waits_for_ray=step in WAIT_FOR_RAY)
            tasks.append(task)

    return benchmark


def _configure(task: PipelineTask, job: Job, *, waits_for_ray: bool) -> None:
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


def _check(job: Job) -> None:
    """Raise ManifestError for a job that KubeRay rejects or a pipeline does not support."""
    ray_job(job)
    if not job.command or job.command[0] != "bench":
        raise ManifestError(
            f"The command after -- is {(job.command or ('',))[0]!r}; a Kubeflow pipeline runs bench only."
        )
    if len(job.name) > MAX_NAME_CHARACTERS:
        raise ManifestError(
            f"--name is {job.name!r}; a pipeline appends to it to name its RayJobs: use at most "
            f"{MAX_NAME_CHARACTERS} characters."
        )
    if in_bucket(job.folder):
        raise ManifestError(
            f"The run folder is {job.folder}, but the steps of a pipeline read it from a volume; set --storage to a "
            "PersistentVolumeClaim, with no --out in a bucket."
        )
    for option, claim in (("--storage", job.storage or ""), ("--weights", job.weights)):
        if claim.startswith(NFS):
            raise ManifestError(f"{option} is {claim!r}; Kubeflow mounts only claims: pass a PersistentVolumeClaim.")
