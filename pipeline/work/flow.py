"""The flow of a run: jobs → assets → scores → records. Finished jobs are not run again."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

from cluster.scheduling.executor import Executor, Stage, Watcher, Worker, ignore_event
from pipeline.plan.jobs import GeneratedAsset, Job
from pipeline.plan.protocol import Protocol
from pipeline.plan.run import Run
from pipeline.store.records import of_asset, of_job
from pipeline.store.run_folder import GENERATION, Store
from pipeline.weights.models import Weights
from pipeline.work.placement import Placement, place


def bench(
    run: Run,
    executor: Executor,
    store: Store,
    workers: int | None,
    checkpoint_seconds: float,
    watcher: Watcher = ignore_event,
    eval_placement: str = "auto",
    snapshot_seconds: float = math.inf,
) -> None:
    """Generate, render and score every unfinished job."""
    jobs = store.unfinished(run.jobs, run.evaluation)
    placement = place(executor, len(jobs), workers, eval_placement)
    texts = [prompt.text for prompt in run.prompts]
    evaluating = evaluation(store, run.weights, placement, run.protocol, texts)
    if placement.takes_turns:
        evaluating = replace(evaluating, handoff=max(evaluating.handoff, len(jobs)))
    generating = generation(store, run, placement, checkpoint_seconds, snapshot_seconds, elastic=workers is None)
    stages = [generating, evaluating]
    for outcome in executor.run(stages, jobs, watcher):
        store.write_record(of_job(outcome, run.evaluation, store))


def generate(
    run: Run,
    executor: Executor,
    store: Store,
    workers: int | None,
    checkpoint_seconds: float,
    watcher: Watcher = ignore_event,
    snapshot_seconds: float = math.inf,
) -> None:
    """Generate every missing asset without scoring it."""
    jobs = store.unfinished(run.jobs, None)
    placement = place(executor, len(jobs), workers)
    stage = generation(store, run, placement, checkpoint_seconds, snapshot_seconds, elastic=workers is None)
    for outcome in executor.run([stage], jobs, watcher):
        store.write_record(of_job(outcome, None, store))


def unscored(store: Store, manifest: dict[str, Any], digest: str) -> list[GeneratedAsset]:
    """The assets of a run folder without scores by the scorers and views of `digest`."""
    jobs = {job["job_id"]: job for job in manifest["jobs"]}
    made = {job_id: store.read_json(store.item(job_id) / GENERATION) for job_id in jobs}
    scored = {
        record["job_id"]
        for record in store.records(jobs)
        if record["status"] == "done" and record["evaluation"] == digest
    }
    return [
        GeneratedAsset(job_id, jobs[job_id]["prompt"], facts)
        for job_id, facts in made.items()
        if facts and job_id not in scored
    ]


def evaluate(
    store: Store,
    manifest: dict[str, Any],
    scorers: Weights,
    digest: str,
    assets: list[GeneratedAsset],
    executor: Executor,
    watcher: Watcher = ignore_event,
) -> None:
    """Score these assets of a run folder."""
    jobs = {job["job_id"]: job for job in manifest["jobs"]}
    texts = list(dict.fromkeys(job["prompt"] for job in jobs.values()))
    stage = evaluation(store, scorers, place(executor, len(assets), 1), Protocol(manifest["views"]), texts)
    for outcome in executor.run([stage], assets, watcher):
        store.write_record(of_asset(outcome, jobs[outcome.item.job_id], digest))


def generation(
    store: Store,
    run: Run,
    placement: Placement,
    checkpoint_seconds: float,
    snapshot_seconds: float = math.inf,
    *,
    elastic: bool,
) -> Stage:
    """The generation stage. Its GPUs are large enough for every recipe, because any worker may get any job."""
    compute = run.recipes[0].compute
    make = partial(_generator, store.absolute(), run.weights, checkpoint_seconds, compute, snapshot_seconds)
    return Stage(
        "generate",
        make,
        workers=placement.generators,
        gpus=placement.generator_gpus,
        cpus=1,
        min_gpu_gib=max(recipe.compute.min_gpu_gib for recipe in run.recipes),
        elastic=elastic,
        expected_seconds=views_rendered,
    )


def views_rendered(job: Job) -> float:
    """The expected duration of a job in rendered views, so that the longest jobs start first."""
    return float(job.recipe.iterations * job.recipe.cameras.views)


def evaluation(store: Store, weights: Weights, placement: Placement, protocol: Protocol, texts: list[str]) -> Stage:
    """The evaluation stage. It reserves no CPU core, so that it can start even if generators reserve all of them."""
    make = partial(_evaluator, store.absolute(), weights, protocol, texts)
    return Stage("evaluate", make, workers=1, gpus=placement.evaluator_gpus, cpus=0)


def _generator(*arguments: Any) -> Worker:
    from pipeline.work.generate import AssetGenerator  # imported here, so that only workers load torch

    return AssetGenerator(*arguments)


def _evaluator(*arguments: Any) -> Worker:
    from pipeline.work.evaluate import Evaluator

    return Evaluator(*arguments)
