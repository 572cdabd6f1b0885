"""From a job to an asset: load the prior once, then per job seed shape → distillation → .ply, turntable, contact sheet.

Everything lies in the item's folder: a job that was interrupted goes on from its checkpoint, one that was made is not
made again.
"""

import hashlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from collections.abc import Generator as Progressing
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from cluster.scheduling.executor import Progress
from pipeline.assets import images
from pipeline.plan.jobs import Asset, Job
from pipeline.store import files
from pipeline.store.attempts import BEFORE, NO_CHECKPOINT, Attempt, Checkpoint, published
from pipeline.store.run_folder import ASSET, CHECKPOINT, CONTACT, SNAPSHOT, TURNTABLE, Store
from pipeline.weights.models import Weights
from pipeline.work import devices
from pipeline.work.roofline import Work, matrix_teraflops
from sctd.formats import ply, splat
from sctd.prior.control import Control, controlled
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.recipe.compute import Compute
from sctd.scene.cameras import orbit
from sctd.scene.densify import DensifyError
from sctd.scene.gaussians import Gaussians
from sctd.train.checkpoint import reseeded
from sctd.train.gradient import Controlled
from sctd.train.initialization import cloud_prompt, initial_gaussians
from sctd.train.optimize import OptimizeError, Step, optimize

TURNTABLE_VIEWS, TURNTABLE_ELEVATION_DEGREES = 120, 15.0
LEAST_LOSS = 1e-30  # of which there is a logarithm
LOSSES = 20  # iterations whose mean loss is told: one alone depends on the time and the noise that it drew


class NumericError(ArithmeticError):
    """Distillation broke down in NaN, infinity or nothing."""


class Generator:
    """A worker: one prior on one device. It leaves a snapshot every `snapshot_seconds`, if anyone wants to look on."""

    def __init__(
        self,
        store: Store,
        weights: Weights,
        checkpoint_seconds: float,
        compute: Compute,
        snapshot_seconds: float = math.inf,
    ):
        self.store, self.weights = store, weights
        self.checkpoint_seconds, self.snapshot_seconds = checkpoint_seconds, snapshot_seconds
        self.device = devices.prepare()
        self.compute, self.prior = compute, self._prior(compute)
        self.views_at_once, self.parts = 0, Counter[str]()  # of the present job

    def _prior(self, compute: Compute) -> StableDiffusionPrior:
        """The prior that computes so."""
        self.rate: tuple[Work, float] | None = None
        dtype = getattr(torch, compute.dtype)
        prior = StableDiffusionPrior.load(self.weights.part("prior"), self.device, dtype)
        return (
            prior.with_cuda_graphs().with_cpu_offload() if compute.cuda_graphs and self.device.type == "cuda" else prior
        )

    def __call__(self, job: Job) -> Progressing[Progress, bool | None, Asset]:
        facts = published(self.store, job.id)
        if facts is None:
            if job.recipe.compute != self.compute:  # a sweep may change it from job to job
                self.compute, self.prior = job.recipe.compute, self._prior(job.recipe.compute)
            attempt = Attempt.begin(self.store, job.id)
            facts = attempt.commit((yield from self._make(job, attempt)))
        return Asset(job.id, job.prompt.text, facts)

    def _make(self, job: Job, attempt: Attempt) -> Progressing[Progress, bool | None, dict[str, Any]]:
        begun, built, warnings = time.monotonic(), self.prior.build_seconds, list[str]()
        devices.forget_peak(self.device)
        initial = self._initial(job)
        init_seconds = time.monotonic() - begun
        steps, start = self._steps(job, attempt, initial, warnings)
        saved_at, saved, log_loss = time.monotonic(), start.iteration, start.log_loss
        recent, shown_at = deque[float](maxlen=LOSSES), saved_at - self.snapshot_seconds
        for step in steps:
            recent.append(math.log(max(step.loss, LEAST_LOSS)))
            log_loss += recent[-1]
            seconds = start.seconds + time.monotonic() - begun
            told = warnings if step.iteration == start.iteration + 1 else []
            note, peak = "; ".join([f"{step.num_gaussians:,} Gaussians", *told]), devices.peak_bytes(self.device)
            loss = math.exp(sum(recent) / len(recent))
            numbers = {"loss": loss, "gaussians": float(step.num_gaussians), "seconds": seconds}
            if time.monotonic() - shown_at > self.snapshot_seconds:
                attempt.write(SNAPSHOT, splat.to_splat(step.gaussians.to("cpu")))
                shown_at = time.monotonic()
            asked = yield Progress(step.iteration, step.iterations, note, peak, saved, numbers)
            is_due = asked or time.monotonic() - saved_at >= self.checkpoint_seconds
            if is_due and step.iteration < step.iterations:
                saved_at, saved = time.monotonic(), step.iteration
                attempt.save(Checkpoint(step.iteration, seconds, step.checkpoint(), log_loss))
        attempt.write(ASSET, ply.to_ply(step.gaussians))
        self._write_images(job, attempt, step.gaussians)
        build_seconds = self.prior.build_seconds - built
        here = step.iterations - start.iteration
        each = (seconds - start.seconds - init_seconds - build_seconds) / here
        return {
            "init_seconds": init_seconds,
            "optimize_seconds": seconds,
            "seconds": start.seconds + time.monotonic() - begun,
            "build_seconds": build_seconds,
            "seconds_per_iteration": each,
            "times_floor": each / (self._floor_seconds() / here),
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

    def _floor_seconds(self) -> float:
        """What the networks of the present job would take at the rate of a large matrix product on this device."""
        if self.rate is None:
            self.rate = Work.of(self.prior), matrix_teraflops(self.device, self.prior.dtype)
        work, teraflops = self.rate
        each = ((work.of_part(part, self.views_at_once) or 0) * count for part, count in self.parts.items())
        return sum(each) / teraflops / 1e12

    def _initial(self, job: Job) -> Gaussians:
        config, text = job.recipe.initialization, job.prompt.shape_text
        generator = torch.Generator().manual_seed(job.seed)
        if config.kind != "point_e":
            return initial_gaussians(config, text, generator).to(self.device)
        scorer, model, upsampler = self._cloud_models
        vector = torch.from_numpy(scorer.text_features([cloud_prompt(config, text)])[0])
        return initial_gaussians(config, text, generator, model, vector.to(self.device), upsampler).to(self.device)

    @cached_property
    def _cloud_models(self) -> tuple[Any, Any, Any]:
        """The CLIP model whose text vectors Point-E was trained on, Point-E, and its upsampler or None."""
        from evaluation.clip_score import ClipScorer
        from sctd import point_e

        scorer = ClipScorer.load(self.weights.part("scorer"), self.device, self.weights.name)
        return scorer, *point_e.load_both(self.weights.part("shape"), self.device)

    def _control(self, job: Job) -> Controlled | None:
        """What makes the denoiser that sees the render, for a recipe that wants it to."""
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
        """The iterations that are left, and from where they go on: the newest checkpoint that can be used.

        One that is damaged, or of an older version, is told of in `warnings`.
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
            return self._breaking_down(job, attempt, steps), saved
        return self._breaking_down(job, attempt, self._within_memory(run, run(), None)), NO_CHECKPOINT

    def _breaking_down(self, job: Job, attempt: Attempt, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps; after NaN, the next attempt begins with the checkpoint before the last, and draws anew."""
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
        """The steps; where the device's memory is too small, from the last one on with half as many views at once."""
        last: Step | None = None
        while True:
            try:
                for last in _told(steps):
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
    """Of the random numbers that a job draws: its own seed until it breaks down, then one that follows from it."""
    if not sub_seed:
        return job.seed
    return int.from_bytes(hashlib.sha256(f"{job.seed} after breakdown {sub_seed}".encode()).digest()[:7])


def _told(steps: Iterator[Step]) -> Iterator[Step]:
    """The steps, with their breakdowns told as what they are: not the fault of the input."""
    try:
        yield from steps
    except (OptimizeError, DensifyError) as error:
        raise NumericError(str(error)) from error
