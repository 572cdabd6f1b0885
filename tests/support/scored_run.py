"""A run folder like one of `bench`, with records written directly."""

import io

import numpy as np

from evaluation.fid import Moments
from evaluation.references import Reference, to_bytes
from pipeline.store.run_folder import Store

WIDTH = 3
SCORES = {"red": (30.0, 0.5), "green": (20.0, -0.5), "blue": (40.0, 0.3)}


def features(seed: int, count: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def write_reference(folder, seed=99, file="reference.npz"):
    reference = Reference(Moments.of(features(seed, 200)), features(seed, 200), {"network": "embedded", "seed": seed})
    folder.mkdir(exist_ok=True)
    (folder / file).write_bytes(to_bytes(reference))
    return reference


def write_run(root, weights, objectives=("sctd",), failed=("green",), missing=(), sha256=None):
    """Write a folder with three prompts for each objective. `sha256` adds digests of scorers to its manifest."""
    store = Store(root)
    jobs = [
        {
            "job_id": f"{objective}-{name}",
            "prompt_id": name,
            "prompt": f"a {name} cube",
            "objective": objective,
            "seed": 0,
        }
        for name in SCORES
        for objective in objectives
    ]
    session = {
        "started_utc": "2026-01-02T03:04:05+00:00",
        "command": "segmentdreamer bench",
        "commit": "c0ffee",
        "versions": {"torch": "2"},
        "hardware": {"cpu": "a CPU", "cores": 2, "gpus": []},
    }
    store.write_json(
        root / "run.json",
        {
            "run_id": root.name,
            "suite": "cubes",
            "seed": 0,
            "views": 12,
            "protocol": "paper12",
            "metric_version": 1,
            "recipes": {name: {"name": "embedded", "guidance": {"scale": 7.5}} for name in objectives},
            "weights": {"name": "embedded", "folder": str(weights), "sha256": {"prior": "p"} | (sha256 or {})},
            "jobs": jobs,
            "sessions": [session],
        },
    )
    for number, job in enumerate(jobs):
        about = {key: job[key] for key in ("job_id", "prompt_id", "prompt", "objective", "seed")}
        if job["prompt_id"] in missing:
            continue
        if job["prompt_id"] in failed:
            reason = {"failed_stage": "generate", "error_kind": "numeric", "error": "NaN in the loss", "deaths": 0}
            store.write_record(about | reason | {"status": "failed", "evaluation": "e"})
            continue
        clip, ir = SCORES[job["prompt_id"]]
        facts = {
            "seconds": 60.0, "init_seconds": 1.0, "optimize_seconds": 50.0, "peak_bytes": 2**30, "num_gaussians": 300,
            "device": "cpu", "resumed_from": 0,
        }  # fmt: skip
        scores = {
            "clip": {"mean": clip, "sd": 1.0, "p10": clip - 2},
            "ir": {"mean": ir, "sd": 0.1, "p10": ir - 0.2},
            "clip_rprec": {"mean": 0.75, "sd": 0.0, "p10": 0.0},
        }
        end = {"status": "done", "evaluation": "e", "error_kind": "", "error": "", "deaths": 0}
        store.write_record(about | end | {"scores": scores, "evaluation_seconds": 2.0, "generation": facts})
        arrays = io.BytesIO()
        np.savez(arrays, features=features(number), features_fid=features(50 + number))
        store.write(store.item(job["job_id"]) / "evaluation.npz", arrays.getvalue())
    return store
