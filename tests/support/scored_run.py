"""A run folder like one of `bench`, with records written directly."""

import io

import numpy as np

from evaluation.fid import Moments
from evaluation.references import Reference, to_bytes
from pipeline.store.run_folder import Store
from tests.support import runs

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
        runs.job(f"{objective}-{name}", f"a {name} cube", objective, prompt_id=name)
        for name in SCORES
        for objective in objectives
    ]
    runs.manifest(store, jobs, weights, sha256 or {})
    for number, job in enumerate(jobs):
        if job.prompt_id in missing:
            continue
        if job.prompt_id in failed:
            store.write_record(runs.failed(job))
            continue
        store.write_record(runs.done(job, scores=runs.scores(*SCORES[job.prompt_id])))
        arrays = io.BytesIO()
        np.savez(arrays, features=features(number), features_fid=features(50 + number))
        store.write(store.item(job.job_id) / "evaluation.npz", arrays.getvalue())
    return store
