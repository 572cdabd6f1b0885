"""The generator worker: initialization → distillation → .ply, turntable and contact sheet, with one prior for all jobs.

All files are in the item's folder. An interrupted job resumes from its checkpoint; a finished job is not run again.
"""

import math
import time
from collections.abc import Callable, Generator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import torch

from cluster.scheduling.workers import Progress
from pipeline.assets import images
from pipeline.assets.objects import files_of
from pipeline.plan import score_at
from pipeline.plan.jobs import Job
from pipeline.store.attempts import Attempt, published
from pipeline.store.records import GeneratedAsset, GenerationFacts
from pipeline.store.run_folder import CONTACT, SNAPSHOT, TURNTABLE, VIEWS, Store
from pipeline.weights.models import Weights
from pipeline.work import devices, warm_up
from pipeline.work.meter import Meter
from pipeline.work.recovery import Recovery
from pipeline.work.roofline import Roofline, matrix_teraflops, operations
from sctd.formats import splat
from sctd.point_e import PointE
from sctd.prior.control import Control, controlled
from sctd.recipe.compute import ComputeConfig
from sctd.scene.cameras import Cameras, orbit
from sctd.scene.gaussians import Gaussians
from sctd.train import representations
from sctd.train.gradient import Controlled
from sctd.train.initialization import initial_gaussians
from sctd.train.optimize import optimize
from sctd.types import Images

TURNTABLE_VIEWS, TURNTABLE_ELEVATION_DEGREES = 120, 15.0


class Sharing(NamedTuple):
    """The number of generators on a GPU, and why they cannot compute side by side (`pipeline.work.mps`), if so."""

    per_gpu: int = 1
    problem: str | None = None

    @property
    def warnings(self) -> list[str]:
        return [f"the assets of a GPU take turns: {self.problem}"] if self.problem else []


ALONE = Sharing()


class AssetGenerator:
    """A worker with one prior on one device. For the live view it writes a snapshot every `snapshot_seconds`.

    After each of the `shares` of the iterations it writes a snapshot that is scored.
    """

    def __init__(
        self,
        store: Store,
        weights: Weights,
        checkpoint_seconds: float,
        compute: ComputeConfig,
        snapshot_seconds: float = math.inf,
        sharing: Sharing = ALONE,
        shares: Sequence[float] = (),
    ):
        self.store, self.weights, self.sharing, self.shares = store, weights, sharing, shares
        self.checkpoint_seconds, self.snapshot_seconds = checkpoint_seconds, snapshot_seconds
        self.device = devices.prepare()
        self.compute, self.prior = compute, warm_up.load_prior(weights, compute, self.device)

    def __call__(self, job: Job) -> Generator[Progress, bool | None, GeneratedAsset]:
        facts = published(self.store, job.id)
        if facts is None:
            if job.recipe.compute != self.compute:  # a sweep may change it from job to job
                self.compute = job.recipe.compute
                self.prior = warm_up.load_prior(self.weights, self.compute, self.device)
            attempt = Attempt.start(self.store, job.id)
            facts = attempt.commit((yield from self._generate(job, attempt)))
        return GeneratedAsset(job.id, job.prompt.text, facts)

    def _generate(self, job: Job, attempt: Attempt) -> Generator[Progress, bool | None, GenerationFacts]:
        meter, kind = Meter(self.prior), representations.of_recipe(job.recipe)
        if job.recipe.initialization.kind == "point_e":
            yield _preparing(job, 0, "sampling a point cloud with Point-E")
        initial = self._initial(job)
        meter.initialized()
        run = partial(optimize, job.recipe, self.prior, initial, job.prompt.text, control=self._control(job))
        recovery = Recovery(run, attempt, job.seed, job.recipe.cameras.views, meter.mark, self._free)
        meter.resume(recovery.start)
        yield from self._compile(job, recovery)
        saved, saved_at, shown_at = recovery.start.iteration, time.monotonic(), -math.inf
        warnings = [*recovery.warnings, *self.sharing.warnings]  # in the first event only
        scored = score_at.snapshots(self.shares, job.recipe.iterations)
        for step in recovery.steps():
            sizes = [f"{count:,} {unit}" for unit, count in kind.counts(step.scene).items()]
            numbers, note = meter.step(step), "; ".join([*sizes, *warnings])
            if time.monotonic() - shown_at > self.snapshot_seconds:
                if (gaussians := kind.gaussians(step.scene)) is not None:
                    attempt.write_output(SNAPSHOT, splat.to_splat(gaussians, drop_invalid=True))
                shown_at = time.monotonic()
            if step.iteration in scored:
                name, content = next(iter(files_of(kind, step.scene, self.prior.image_size).items()))
                attempt.write_snapshot(meter.snapshot(step), content, name)
            peak = devices.peak_bytes(self.device)
            is_requested = yield Progress(step.iteration, step.iterations, note, peak, saved, numbers)
            is_due = is_requested or time.monotonic() - saved_at >= self.checkpoint_seconds
            if is_due and step.iteration < step.iterations:
                saved, saved_at = step.iteration, time.monotonic()
                attempt.save(meter.checkpoint(step))
            warnings = []
        files = files_of(kind, step.scene, self.prior.image_size)
        for name, content in files.items():
            attempt.write_output(name, content)
        self._write_images(job, attempt, kind.shown(step.scene))
        facts = meter.facts(step, recovery, self._roofline)
        return facts.model_copy(update={"assets_per_gpu": self.sharing.per_gpu, "has_views": VIEWS in files or None})

    def _compile(self, job: Job, recovery: Recovery) -> Generator[Progress, bool | None, None]:
        """Compile what the first iteration needs. If memory does not suffice, that iteration compiles what it needs."""
        try:
            for build in warm_up.builds(job.recipe, self.prior, recovery.views_at_once):
                yield _preparing(job, recovery.start.iteration, build.note)
                build.run()
        except torch.OutOfMemoryError:
            self._free()

    def _free(self) -> None:
        self.prior.release_graphs()
        devices.free(self.device)

    def _roofline(self) -> Roofline:
        return Roofline(self._operations, matrix_teraflops(self.device, self.prior.dtype))

    @cached_property
    def _operations(self) -> dict[str, float]:
        return operations(self.prior)

    def _initial(self, job: Job) -> Gaussians:
        config, text = job.recipe.initialization, job.prompt.shape_text
        generator = torch.Generator().manual_seed(job.seed)
        point_e = self._point_e if config.kind == "point_e" else None
        return initial_gaussians(config, text, generator, point_e).to(self.device)

    @cached_property
    def _point_e(self) -> PointE:
        from evaluation.clip_score import ClipScorer

        scorer = ClipScorer.load(self.weights.part("scorer"), self.device, self.weights.name)
        return PointE.load(self.weights.part("shape"), scorer.text_features, self.device)

    def _control(self, job: Job) -> Controlled | None:
        """A function that makes the ControlNet-conditioned denoiser of a render; None if the recipe has no control."""
        guidance = job.recipe.guidance
        if guidance.control == "none":
            return None
        return partial(controlled, self.prior, self._control_model, scale=guidance.control_scale)

    @cached_property
    def _control_model(self) -> Control:
        return Control.load(self.weights.part("control"), self.device)

    @torch.no_grad()
    def _write_images(self, job: Job, attempt: Attempt, shown: Callable[[Cameras], Images]) -> None:
        cameras = orbit(TURNTABLE_VIEWS, TURNTABLE_ELEVATION_DEGREES, 3.5, 0.55, self.prior.image_size)
        views = images.rendered(shown, cameras)
        attempt.write_output(TURNTABLE, images.video(views))
        attempt.write_output(CONTACT, images.contact_sheet(views, job.prompt.text))


def _preparing(job: Job, done: int, note: str) -> Progress:
    """The heartbeat before something that takes seconds or minutes before the next iteration."""
    return Progress(done, job.recipe.iterations, note, is_preparing=True)
