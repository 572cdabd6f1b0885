"""`record.json`: the result of one job: done, generated (not scored yet) or failed. Every job has exactly one."""

from typing import Any

from cluster.scheduling.executor import Outcome
from pipeline.plan.jobs import GeneratedAsset, Job, ScoredAsset
from pipeline.store.run_folder import GENERATION, Store


def of_job(outcome: Outcome, evaluation: str | None, store: Store) -> dict[str, Any]:
    """The record of a job that went through generation and, unless `evaluation` is None, evaluation."""
    job: Job = outcome.item
    about = {
        "job_id": job.id,
        "prompt_id": job.prompt.id,
        "prompt": job.prompt.text,
        "method": job.method,
        "objective": job.objective,
        "seed": job.seed,
    }
    generation = store.read_json(store.item(job.id) / GENERATION)
    return about | _end(outcome, evaluation) | ({"generation": generation} if generation else {})


def of_asset(outcome: Outcome, job: dict[str, Any], evaluation: str) -> dict[str, Any]:
    """The record of an asset that was scored; `job` is its entry in the manifest."""
    asset: GeneratedAsset = outcome.item
    about = {key: job[key] for key in ("job_id", "prompt_id", "prompt", "method", "objective", "seed")}
    return about | _end(outcome, evaluation) | {"generation": asset.facts}


def _end(outcome: Outcome, evaluation: str | None) -> dict[str, Any]:
    if outcome.error is not None:
        return {
            "status": "failed",
            "evaluation": evaluation,
            "failed_stage": outcome.failed_stage,
            "error_kind": outcome.error.kind,
            "error": outcome.error.message,
            "details": outcome.error.details,
            "deaths": outcome.deaths,
        }
    end = {"status": "generated", "evaluation": None, "error_kind": "", "error": "", "deaths": outcome.deaths}
    if evaluation is None:
        return end
    scored: ScoredAsset = outcome.result
    return end | {
        "status": "done",
        "evaluation": evaluation,
        "scores": scored.scores,
        "evaluation_seconds": scored.seconds,
    }
