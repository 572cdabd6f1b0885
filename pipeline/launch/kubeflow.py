"""The benchmark as a Kubeflow pipeline: weights → reference → bench (a RayJob) → evaluate → leaderboard."""

from typing import Any

from kfp.dsl import Dataset, Markdown, Metrics, Model, Output

from cluster.jobs.description import ClusterJob, in_bucket
from cluster.jobs.errors import ManifestError
from cluster.kubeflow import pipeline
from pipeline.launch.steps import REFERENCE_SUFFIX, RUN_CHARACTERS


def weights(job: str, run_id: str, again: bool, listing: Output[Model]) -> None:
    from pipeline.launch import steps

    described = steps.job_of(job, run_id)
    if again:
        steps.forget_failed(described)
    text = steps.fetch_weights(described)
    with open(listing.path, "w", encoding="utf-8") as file:
        file.write(text)
    listing.metadata.update(steps.facts_of_weights(described, text))


def reference(job: str, run_id: str) -> str:
    from pipeline.launch import steps

    return steps.make_reference(steps.job_of(job, run_id))


def bench(job: str, run_id: str) -> None:
    from pipeline.launch import steps

    steps.launch(steps.job_of(job, run_id))


def evaluate(job: str, run_id: str) -> None:
    from pipeline.launch import steps

    steps.evaluate(steps.job_of(job, run_id))


def leaderboard(
    job: str, run_id: str, board: Output[Dataset], report: Output[Markdown], scores: Output[Metrics]
) -> None:
    from pipeline.launch import steps

    described = steps.job_of(job, run_id)
    table, text, numbers = steps.rank(described)
    for artifact, content in ((board, table), (report, text)):
        with open(artifact.path, "w", encoding="utf-8") as file:
            file.write(content)
        artifact.metadata.update(steps.facts_of_results(described))
    for name, value in numbers.items():
        scores.log_metric(name, value)


STEPS = pipeline.Steps(
    name="segmentdreamer",
    description="Weights, reference set, bench on Ray, evaluation, leaderboard.",
    functions=(weights, reference, bench, evaluate, leaderboard),
    waiting=(reference, bench),
    suffix_characters=len(REFERENCE_SUFFIX) + RUN_CHARACTERS + 1,
)


def pipeline_of(job: ClusterJob, *, each_run: bool = False) -> Any:
    """The pipeline of a job; with `each_run`, for a schedule. Raises ManifestError."""
    if job.command.words[:1] != ("bench",):
        raise ManifestError(
            f"The command after -- is {(job.command.words or ('',))[0]!r}; a Kubeflow pipeline runs bench only."
        )
    if in_bucket(job.results):
        raise ManifestError(
            f"The run folder is {job.results}, but the steps of a pipeline read it from a volume; set `storage` to a "
            "PersistentVolumeClaim, with no --out in a bucket."
        )
    return pipeline.pipeline_of(STEPS, job, each_run=each_run)
