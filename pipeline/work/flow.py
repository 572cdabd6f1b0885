"""The flow of a run: jobs → assets → scores → records. Finished jobs are not run again."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from cluster.scheduling.executor import Executor, Outcome, Stage, Worker
from cluster.scheduling.workers import Watcher, ignore_event
from pipeline.plan.imports import ImportJob
from pipeline.plan.jobs import Job
from pipeline.plan.protocol import Protocol
from pipeline.plan.run import Run
from pipeline.store.records import Done, GeneratedAsset, StoredRecord, of_outcome
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from pipeline.weights.models import Weights
from pipeline.work import devices, mps
from pipeline.work.execution import AUTO, ExecutionOptions
from pipeline.work.placement import Placement, most_per_gpu, place
from sctd.recipe.compute import ComputeConfig


def bench(
    run: Run,
    jobs: Sequence[Job],
    results: RunResults,
    executor: Executor,
    execution: ExecutionOptions,
    watcher: Watcher = ignore_event,
) -> RunResults:
    """Generate, render and score these jobs of a run; returns the results."""
    store = results.store
    placement = placement_of(run, jobs, executor, execution, execution.eval_placement)
    texts = [prompt.text for prompt in run.prompts]
    evaluating = evaluation(store, run.weights, placement, run.protocol, texts, run.evaluation)
    if placement.takes_turns:
        evaluating = replace(evaluating, handoff=max(evaluating.handoff, len(jobs)))
    generating = generation(run, store, placement, execution, results.manifest.score_at or ())
    outcomes = executor.run([generating, evaluating], jobs, watcher)
    return results.updated(_written(outcome, outcome.item.id, results, run.evaluation) for outcome in outcomes)


def generate(
    run: Run,
    jobs: Sequence[Job],
    results: RunResults,
    executor: Executor,
    execution: ExecutionOptions,
    watcher: Watcher = ignore_event,
) -> RunResults:
    """Generate the assets of these jobs of a run without scoring them; returns the results."""
    placement = placement_of(run, jobs, executor, execution)
    stage = generation(run, results.store, placement, execution, results.manifest.score_at or ())
    outcomes = executor.run([stage], jobs, watcher)
    return results.updated(_written(outcome, outcome.item.id, results, None) for outcome in outcomes)


def import_assets(
    jobs: Sequence[ImportJob],
    results: RunResults,
    weights: Weights,
    executor: Executor,
    watcher: Watcher = ignore_event,
) -> RunResults:
    """Import these assets without scoring them; returns the results."""
    placement, store = place(executor, len(jobs), None), results.store
    make = partial(_importer, store.absolute(), weights, Protocol(results.manifest.views))
    stage = Stage("import", make, workers=placement.generators, gpus=placement.generator_gpus, cpus=1)
    outcomes = executor.run([stage], jobs, watcher)
    return results.updated(_written(outcome, outcome.item.id, results, None) for outcome in outcomes)


def placement_of(
    run: Run, jobs: Sequence[Job], executor: Executor, execution: ExecutionOptions, evaluation: str = AUTO
) -> Placement:
    """The workers for these jobs of a run."""
    per_gpu = 1
    if execution.assets_per_gpu != AUTO:
        per_gpu = int(execution.assets_per_gpu)
    elif execution.cluster is None and execution.workers is None:
        per_gpu = most_per_gpu(run.recipes, executor.gpus())
    return place(executor, len(jobs), execution.workers, evaluation, per_gpu)


def unscored(results: RunResults) -> list[GeneratedAsset]:
    """The assets of a run folder without scores by the scorers and views of its manifest."""
    return [
        GeneratedAsset(record.job_id, record.prompt, facts)
        for record in results.records.values()
        if not isinstance(record, Done) and (facts := results.store.generation(record.job_id))
    ]


def evaluate(
    results: RunResults,
    scorers: Weights,
    digest: str,
    assets: list[GeneratedAsset],
    executor: Executor,
    watcher: Watcher = ignore_event,
) -> RunResults:
    """Score these assets of a run folder with the views of its manifest; returns the results."""
    about = results.manifest
    placement, protocol = place(executor, len(assets), 1), Protocol(about.views)
    stage = evaluation(results.store, scorers, placement, protocol, about.prompts, digest)
    outcomes = executor.run([stage], assets, watcher)
    return results.updated(_written(outcome, outcome.item.job_id, results, digest) for outcome in outcomes)


def _written(outcome: Outcome, job_id: str, results: RunResults, evaluation: str | None) -> StoredRecord:
    """The record of an outcome, after it is written to the run folder."""
    generation = results.store.generation(job_id) if outcome.error else None
    record = of_outcome(outcome, results.records[job_id], evaluation, generation)
    results.store.write_record(record)
    return record


def generation(
    run: Run, store: Store, placement: Placement, execution: ExecutionOptions, shares: Sequence[float] = ()
) -> Stage:
    """The generation stage. Its GPUs are large enough for every recipe, because any worker may get any job.

    `shares`: of the iterations, after which a snapshot of the asset is written.
    """
    compute, per_gpu = run.recipes[0].compute, placement.generators_per_gpu
    make = partial(_generator, store.absolute(), run.weights, compute, execution, per_gpu, shares)
    return Stage(
        "generate",
        make,
        workers=placement.generators,
        gpus=placement.generator_gpus,
        per_gpu=placement.generators_per_gpu,
        cpus=1,
        min_gpu_gib=max(recipe.compute.min_gpu_gib for recipe in run.recipes),
        elastic=execution.workers is None,
        expected_seconds=views_rendered,
    )


def views_rendered(job: Job) -> float:
    """The expected duration of a job in rendered views, so that the longest jobs start first."""
    return float(job.recipe.iterations * job.recipe.cameras.views)


def evaluation(
    store: Store, weights: Weights, placement: Placement, protocol: Protocol, texts: list[str], digest: str
) -> Stage:
    """The evaluation stage; `digest` identifies scorers, views and prompts.

    It reserves no CPU core, so that it can start even if generators reserve all of them.
    """
    is_shared = placement.generators_per_gpu > 1 and 0 < placement.evaluator_gpus < 1
    make = partial(_evaluator, store.absolute(), weights, protocol, texts, digest, is_shared)
    return Stage("evaluate", make, workers=placement.evaluators, gpus=placement.evaluator_gpus, cpus=0)


def _generator(
    store: Store,
    weights: Weights,
    compute: ComputeConfig,
    execution: ExecutionOptions,
    per_gpu: int,
    shares: Sequence[float],
) -> Worker:
    """`per_gpu`: the number of generators that share a GPU."""
    problem = mps.join() if per_gpu > 1 else None
    with devices.loading():
        from pipeline.work.generate import AssetGenerator, Sharing  # imported here, so that only workers load torch

        sharing, saves, shows = Sharing(per_gpu, problem), execution.checkpoint_seconds, execution.snapshot_seconds
        return AssetGenerator(store, weights, saves, compute, shows, sharing, shares)


def _importer(store: Store, weights: Weights, protocol: Protocol) -> Worker:
    with devices.loading():
        from pipeline.work.importer import Importer

        return Importer(store, weights, protocol)


def _evaluator(
    store: Store, weights: Weights, protocol: Protocol, texts: list[str], digest: str, is_shared: bool
) -> Worker:
    if is_shared:
        mps.join()  # if it fails, the generators say so
    with devices.loading():
        from pipeline.work.evaluate import Evaluator

        return Evaluator(store, weights, protocol, texts, digest)
