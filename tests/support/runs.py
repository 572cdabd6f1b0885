"""Builders of run folders without any generation: typed manifests and records with made-up numbers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.plan.run import Run
from pipeline.prompts import slug
from pipeline.store import manifest as manifests
from pipeline.store.manifest import Hardware, Manifest, Session, UsedWeights
from pipeline.store.records import Done, Failed, Generated, GenerationFacts, JobEntry, Scores
from pipeline.store.run_folder import Store

SESSION = Session(
    started_utc="2026-01-02T03:04:05+00:00",
    command="segmentdreamer bench",
    commit="c0ffee",
    versions={"torch": "2"},
    hardware=Hardware(system="Linux", cpu="a CPU", cores=2, memory_gib=8.0, gpus=()),
)


def facts(**changes: Any) -> GenerationFacts:
    known = {
        "init_seconds": 1.0, "optimize_seconds": 50.0, "seconds": 60.0, "resumed_from": 0, "iterations": 4,
        "image_size": 64, "num_gaussians": 300, "loss": 1.0, "skipped_iterations": 0, "peak_bytes": 2**30,
        "device": "cpu",
    }  # fmt: skip
    return GenerationFacts(**known | changes)


def job(job_id: str, prompt: str = "a red cube", method: str = "sctd", **changes: Any) -> JobEntry:
    known = {"prompt_id": slug(prompt), "objective": method, "seed": 0} | changes
    return JobEntry(job_id=job_id, prompt=prompt, method=method, **known)


def scores(clip: float = 30.0, ir: float = 0.5, clip_rprec: float = 0.75) -> Scores:
    return {
        "clip": {"mean": clip, "sd": 1.0, "p10": clip - 2},
        "ir": {"mean": ir, "sd": 0.1, "p10": ir - 0.2},
        "clip_rprec": {"mean": clip_rprec, "sd": 0.0, "p10": 0.0},
    }


def done(entry: JobEntry, **changes: Any) -> Done:
    known = {"evaluation": "e", "deaths": 0, "scores": scores(), "evaluation_seconds": 2.0, "generation": facts()}
    return Done(**entry.identity, **known | changes)


def generated(entry: JobEntry) -> Generated:
    return Generated(**entry.identity, evaluation=None, deaths=0, generation=facts())


def failed(entry: JobEntry, **changes: Any) -> Failed:
    reason = {"failed_stage": "generate", "error_kind": "numeric", "error": "NaN in the loss", "details": ""}
    return Failed(**entry.identity, **{"evaluation": "e", "deaths": 0} | reason | changes)


def recipe(method: str) -> dict[str, Any]:
    return {"name": "embedded", "guidance": {"scale": 7.5}, "objective": {"name": method}}


def manifest(
    store: Store,
    jobs: Iterable[JobEntry],
    folder: Path = Path("weights"),
    sha256: Mapping[str, str] = MappingProxyType({}),
    **changes: Any,
) -> Manifest:
    """Write and return the manifest of these jobs, scored with the weights in `folder`.

    Like those of older versions it has no digest of its evaluation.
    """
    jobs = tuple(jobs)
    known = {
        "run_id": store.root.name, "suite": "cubes", "seed": 0, "views": 12, "protocol": "paper12", "metric_version": 1,
        "recipes": {entry.method: recipe(entry.method) for entry in jobs}, "jobs": jobs, "sessions": (SESSION,),
        "weights": UsedWeights(name="embedded", folder=str(folder), sha256={"prior": "p", **sha256}),
    }  # fmt: skip
    made = Manifest(**known | changes)
    manifests.write(store, made)
    return made


def begin(store: Store, run: Run, argv: Sequence[str] = ("bench",)) -> Manifest:
    """Write the manifest of `run` as a command does that starts or resumes it. Raises UserError."""
    made = Manifest.of(run, store, manifests.check_same(store, run)).with_session(list(argv))
    manifests.write(store, made)
    return made
