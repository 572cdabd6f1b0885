"""A run folder like one of `bench`, written directly: real files of every kind, with known scores."""

import io
from dataclasses import replace

import numpy as np
import torch

from evaluation.fid import Moments
from evaluation.references import Reference, to_bytes
from pipeline.assets import images
from pipeline.store import manifest
from pipeline.store.records import ScoredSnapshot, Snapshot
from pipeline.store.run_folder import Store
from sctd.formats import ply
from sctd.scene.gaussians import Gaussians
from tests.support import runs

VIEWS, WIDTH = 120, 3
RED, GREEN, BLUE = (0.9, 0.05, 0.05), (0.05, 0.7, 0.1), (0.05, 0.1, 0.9)
SH_CONSTANT = 0.28209479177387814


def asset() -> Gaussians:
    """A red ball with a blue cap on top (+z) and a green nose in front (+x)."""
    centres = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.75], [0.75, 0.0, 0.0]])
    scales = torch.tensor([0.3, 0.12, 0.12])
    colours = torch.tensor([RED, BLUE, GREEN])
    offsets = torch.randn(3, 300, 3, generator=torch.Generator().manual_seed(0)) * 0.4 * scales[:, None, None]
    number = offsets.shape[0] * offsets.shape[1]
    return Gaussians(
        means=(centres[:, None] + offsets).reshape(-1, 3),
        log_scales=(scales * 0.35).log().repeat_interleave(300)[:, None].expand(number, 3).clone(),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(number, 4).clone(),
        logit_opacities=torch.full((number,), 3.0),
        sh=((colours - 0.5) / SH_CONSTANT).repeat_interleave(300, dim=0)[:, None, :],
    )


def score(prompt: int, method: int) -> float:
    """A CLIP score: each method scores lower than the last, by nearly the same amount on every prompt."""
    return 30.0 + prompt % 7 - method * (1 + 0.01 * prompt)


def write(store: Store, weights, prompts, methods, *, failed=(), unfinished=()) -> None:
    """Write the folder. `failed`, `unfinished`: pairs of prompt index and method index."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(200, WIDTH)).astype(np.float32)
    weights.mkdir(exist_ok=True)
    reference = Reference(Moments.of(seen), seen, {"network": "embedded", "seed": 0})
    (weights / "reference.npz").write_bytes(to_bytes(reference))
    pairs = [(p, m) for p in range(len(prompts)) for m in range(len(methods))]
    jobs = {(p, m): runs.job(f"{p:02}{m:02}cafe", prompts[p], methods[m]) for p, m in pairs}
    runs.manifest(store, jobs.values(), weights, suite="made", views=VIEWS, protocol=f"paper{VIEWS}")
    files = {"asset.ply": ply.to_ply(asset()), "turntable.mp4": images.video(_frames())}
    for (p, m), job in jobs.items():
        if (p, m) in unfinished:
            continue
        if (p, m) in failed:
            reason = {"error_kind": "memory", "error": "the memory <b>ran</b> out", "deaths": 2}
            store.write_record(runs.failed(job, evaluation=None, **reason))
            continue
        made = runs.facts(seconds=60.0 + m, optimize_seconds=59.0 + m, num_gaussians=900)
        scores, arrays = _scored(score(p, m), rng)
        sheet = images.contact_sheet(_frames(), job.prompt)
        for name, content in {**files, "contact.png": sheet, "evaluation.npz": arrays}.items():
            store.write(store.item(job.job_id) / name, content)
        store.write_json(store.item(job.job_id) / "generation.json", made)
        store.write_record(runs.done(job, scores=scores, generation=made))


def add_snapshots(store: Store) -> None:
    """Give all assets but the last one a scored snapshot at iteration 2 of 8, as of `--score-at 0.25`."""
    about = manifest.read(store)
    recipes = {method: recipe | {"iterations": 8} for method, recipe in about.recipes.items()}
    manifest.write(store, about.model_copy(update={"recipes": recipes, "score_at": (0.25, 1.0)}))
    for job in about.jobs[:-1]:
        record = store.record(job.job_id)
        made = record.generation.model_copy(update={"snapshots": (Snapshot(iteration=2, seconds=20.0),)})
        scored = (ScoredSnapshot(iteration=2, scores=runs.scores(20.0)),)
        store.write_record(record.model_copy(update={"generation": made, "snapshots": scored}))


def _scored(clip: float, rng: np.random.Generator) -> tuple[dict, bytes]:
    """Scores of each view, highest at the front and lowest at 180°, and random features."""
    wave = np.cos(np.arange(VIEWS) * 2 * np.pi / VIEWS)
    views = {"clip": clip + 5 * wave, "ir": clip / 10 - 3 + wave, "clip_rprec": np.ones(VIEWS)}
    file = io.BytesIO()
    np.savez_compressed(file, features=rng.normal(size=(VIEWS, WIDTH)).astype(np.float32), **views)
    summaries = {
        name: {"mean": float(v.mean()), "sd": float(v.std()), "p10": float(np.quantile(v, 0.1))}
        for name, v in views.items()
    }
    return summaries, file.getvalue()


def _frames() -> np.ndarray:
    """Turntable frames: a black square on white that turns red."""
    frames = np.full((VIEWS, 32, 32, 3), 255, np.uint8)
    frames[:, 8:24, 8:24] = 0
    frames[:, 8:24, 8:24, 0] = np.linspace(0, 255, VIEWS, dtype=np.uint8)[:, None, None]
    return frames


def with_spherical_harmonics(gaussians: Gaussians) -> Gaussians:
    """The same colours, with zero spherical harmonics of degree 1 added."""
    return replace(gaussians, sh=torch.cat([gaussians.sh, torch.zeros(len(gaussians.sh), 3, 3)], dim=1))
