"""The generator worker: initialization → distillation → .ply, turntable and contact sheet, with one prior for all jobs.

All files are in the item's folder. An interrupted job resumes from its checkpoint; a finished job is not run again.
"""

import hashlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from cluster.scheduling.executor import Progress
from pipeline.assets import images
from pipeline.plan.jobs import GeneratedAsset, Job
from pipeline.store import files
from pipeline.store.attempts import BEFORE, NO_CHECKPOINT, Attempt, Checkpoint, published
from pipeline.store.run_folder import ASSET, CHECKPOINT, CONTACT, SNAPSHOT, TURNTABLE, Store
from pipeline.weights.models import Weights
from pipeline.work import devices
from pipeline.work.roofline import Work, matrix_teraflops
from sctd.formats import ply, splat
from sctd.point_e import PointE
from sctd.prior.control import Control, controlled
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.recipe.compute import ComputeConfig
from sctd.scene.cameras import orbit
from sctd.scene.densify import DensifyError
from sctd.scene.gaussians import Gaussians
from sctd.train.checkpoint import reseeded
from sctd.train.gradient import Controlled
from sctd.train.initialization import initial_gaussians
from sctd.train.optimize import OptimizeError, Step, optimize

TURNTABLE_VIEWS, TURNTABLE_ELEVATION_DEGREES = 120, 15.0
MIN_LOSS = 1e-30  # keeps the logarithm finite
LOSSES = 20  # iterations in the reported mean loss: the loss of one depends on its random time and noise


class NumericError(ArithmeticError):
    """A numeric failure: distillation ended in NaN, infinity or no Gaussians."""


class AssetGenerator:
    """A worker with one prior on one device. For the live view it writes a snapshot every `snapshot_seconds`."""

    def __init__(
        self,
        store: Store,
        weights: Weights,
        checkpoint_seconds: float,
        compute: ComputeConfig,
        snapshot_seconds: float = math.inf,
    ):
        self.store, self.weights = store, weights
        self.checkpoint_seconds, self.snapshot_seconds = checkpoint_seconds, snapshot_seconds
        self.device = devices.prepare()
        self.compute, self.prior = compute, self._prior(compute)
        self.views_at_once, self.parts = 0, Counter[str]()  # of the current job

    def _prior(self, compute: ComputeConfig) -> StableDiffusionPrior:
        """The prior with these compute settings."""
        self.rate: tuple[Work, float] | None = None
        dtype = getattr(torch, compute.dtype)
        prior = StableDiffusionPrior.load(self.weights.part("prior"), self.device, dtype)
        return (
            prior.with_cuda_graphs().with_cpu_offload() if compute.cuda_graphs and self.device.type == "cuda" else prior
        )

    def __call__(self, job: Job) -> Generator[Progress, bool | None, GeneratedAsset]:
        facts = published(self.store, job.id)
        if facts is None:
            if job.recipe.compute != self.compute:  # a sweep may change it from job to job
                self.compute, self.prior = job.recipe.compute, self._prior(job.recipe.compute)
            attempt = Attempt.start(self.store, job.id)
            facts = attempt.commit((yield from self._generate(job, attempt)))
        return GeneratedAsset(job.id, job.prompt.text, facts)

    def _generate(self, job: Job, attempt: Attempt) -> Generator[Progress, bool | None, dict[str, Any]]:
        started, build_seconds_before, warnings = time.monotonic(), self.prior.build_seconds, list[str]()
        devices.reset_peak(self.device)
        initial = self._initial(job)
        init_seconds = time.monotonic() - started
        steps, start = self._steps(job, attempt, initial, warnings)
        saved_at, saved, log_loss = time.monotonic(), start.iteration, start.log_loss
        recent, shown_at = deque[float](maxlen=LOSSES), saved_at - self.snapshot_seconds
        for step in steps:
            recent.append(math.log(max(step.loss, MIN_LOSS)))
            log_loss += recent[-1]
            seconds = start.seconds + time.monotonic() - started
            new_warnings = warnings if step.iteration == start.iteration + 1 else []
            note, peak = (
                "; ".join([f"{step.num_gaussians:,} Gaussians", *new_warnings]),
                devices.peak_bytes(self.device),
            )
            loss = math.exp(sum(recent) / len(recent))
            numbers = {"loss": loss, "gaussians": float(step.num_gaussians), "seconds": seconds}
            if time.monotonic() - shown_at > self.snapshot_seconds:
                attempt.write(SNAPSHOT, splat.to_splat(step.gaussians.to("cpu")))
                shown_at = time.monotonic()
            is_requested = yield Progress(step.iteration, step.iterations, note, peak, saved, numbers)
            is_due = is_requested or time.monotonic() - saved_at >= self.checkpoint_seconds
            if is_due and step.iteration < step.iterations:
                saved_at, saved = time.monotonic(), step.iteration
                attempt.save(Checkpoint(step.iteration, seconds, step.checkpoint(), log_loss))
        attempt.write(ASSET, ply.to_ply(step.gaussians))
        self._write_images(job, attempt, step.gaussians)
        build_seconds = self.prior.build_seconds - build_seconds_before
        iterations_here = step.iterations - start.iteration
        seconds_each = (seconds - start.seconds - init_seconds - build_seconds) / iterations_here
        return {
            "init_seconds": init_seconds,
            "optimize_seconds": seconds,
            "seconds": start.seconds + time.monotonic() - started,
            "build_seconds": build_seconds,
            "seconds_per_iteration": seconds_each,
            "times_floor": seconds_each / (self._roofline_seconds() / iterations_here),
            "views_at_once": self.views_at_once,
            "resumed_from": start.iteration,
            "attempt": attempt.fence.number,
            "sub_seed": attempt.sub_seed,
            "warnings": warnings,
            "iterations": step.iterations,
            "image_size": self.prior.image_size,
            "num_gaussians": step.num_gaussians,
            "loss": step.loss,
            "mean_loss": math.exp(log_loss / step.iterations),
            "skipped_iterations": step.skipped,
            "peak_bytes": devices.peak_bytes(self.device),
            "device": devices.name(self.device),
        }

    def _roofline_seconds(self) -> float:
        """A lower bound for the networks' time in this job: their operations at the rate of a large matrix product."""
        if self.rate is None:
            self.rate = Work.of(self.prior), matrix_teraflops(self.device, self.prior.dtype)
        work, teraflops = self.rate
        each = ((work.of_part(part, self.views_at_once) or 0) * count for part, count in self.parts.items())
        return sum(each) / teraflops / 1e12

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

    def _steps(
        self, job: Job, attempt: Attempt, initial: Gaussians, warnings: list[str]
    ) -> tuple[Iterator[Step], Checkpoint]:
        """The remaining iterations, and the checkpoint they resume from: the newest one that is usable.

        Each checkpoint that is damaged or of another version adds a text to `warnings`.
        """
        self.views_at_once, self.parts = job.recipe.cameras.views, Counter()
        run = partial(
            optimize, job.recipe, self.prior, initial, job.prompt.text, seed_of(job, attempt.sub_seed),
            control=self._control(job), mark=lambda part: self.parts.update([part]),
        )  # fmt: skip
        for name in (CHECKPOINT, BEFORE):
            path = self.store.item(job.id) / name
            try:
                saved = Checkpoint.from_bytes(files.read(path))
                steps = self._within_memory(run, run(resume=saved.state), saved.state)
            except FileNotFoundError:
                continue
            except (ValueError, TypeError) as error:
                warnings.append(f"{name} cannot be used ({' '.join(str(error).split())})")
                continue
            return self._record_numeric_failures(job, attempt, steps), saved
        return self._record_numeric_failures(job, attempt, self._within_memory(run, run(), None)), NO_CHECKPOINT

    def _record_numeric_failures(self, job: Job, attempt: Attempt, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps. After a numeric failure the next attempt starts from checkpoint-before with another seed."""
        iteration = 0
        try:
            for step in steps:
                iteration = step.iteration
                yield step
        except NumericError as error:
            before = Checkpoint.read(self.store.item(job.id) / BEFORE)
            if before.iteration:
                state = reseeded(before.state, seed_of(job, attempt.sub_seed + 1))
                attempt.record_numeric_failure(str(error), iteration, replace(before, state=state))
            else:
                attempt.record_numeric_failure(str(error), iteration, None)
            raise

    def _within_memory(
        self, run: Callable[..., Iterator[Step]], steps: Iterator[Step], state: bytes | None
    ) -> Iterator[Step]:
        """The steps. If the device runs out of memory, continue after the last step with half as many views at once."""
        last: Step | None = None
        while True:
            try:
                for last in _as_numeric_errors(steps):
                    yield last
                return
            except torch.OutOfMemoryError:
                if self.views_at_once == 1:
                    raise
            self.views_at_once //= 2
            state = state if last is None else last.checkpoint()
            self.prior.release_graphs()
            devices.free(self.device)
            steps = run(resume=state, views_at_once=self.views_at_once)

    @torch.no_grad()
    def _write_images(self, job: Job, attempt: Attempt, gaussians: Gaussians) -> None:
        cameras = orbit(TURNTABLE_VIEWS, TURNTABLE_ELEVATION_DEGREES, 3.5, 0.55, self.prior.image_size)
        views = images.on_white(gaussians, cameras)
        attempt.write(TURNTABLE, images.video(views))
        attempt.write(CONTACT, images.contact_sheet(views, job.prompt.text))


def seed_of(job: Job, sub_seed: int) -> int:
    """The seed of an attempt: the job's own seed, or after `sub_seed` numeric failures one derived from it."""
    if not sub_seed:
        return job.seed
    return int.from_bytes(hashlib.sha256(f"{job.seed} after breakdown {sub_seed}".encode()).digest()[:7])


def _as_numeric_errors(steps: Iterator[Step]) -> Iterator[Step]:
    """The steps, with numeric failures raised as NumericError, which the executor does not treat as an input error."""
    try:
        yield from steps
    except (OptimizeError, DensifyError) as error:
        raise NumericError(str(error)) from error
