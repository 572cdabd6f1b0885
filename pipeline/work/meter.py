"""Measurements of a job: time, loss, memory, and the operations of the networks."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable

from pipeline.store.attempts import NO_CHECKPOINT, Checkpoint
from pipeline.store.records import GenerationFacts, Snapshot
from pipeline.work import devices
from pipeline.work.recovery import Recovery
from pipeline.work.roofline import Roofline
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.train.optimize import Step

MIN_LOSS = 1e-30  # keeps the logarithm finite
LOSSES = 20  # iterations in the reported mean loss: the loss of one depends on its random time and noise


class Meter:
    """Measures an attempt at a job. Its clock starts when it is created, before the initialization."""

    def __init__(self, prior: StableDiffusionPrior):
        self.prior, self.started, self.build_seconds_before = prior, time.monotonic(), prior.build_seconds
        self.start, self.init_seconds, self.optimize_seconds = NO_CHECKPOINT, 0.0, 0.0
        self.recent, self.log_loss = deque[float](maxlen=LOSSES), 0.0
        self.parts: Counter[tuple[str, int]] = Counter()
        self.samples = self.samples_at_begin = 0  # latents that the prior's U-Net denoised here
        self.unet_samples: int | None = 0  # the same, in earlier attempts too, up to the last iteration
        self.snapshots: tuple[Snapshot, ...] = ()
        devices.reset_peak(prior.device)

    @property
    def seconds(self) -> float:
        """The seconds spent on the job so far, in earlier attempts too."""
        return self.start.seconds + time.monotonic() - self.started

    def initialized(self) -> None:
        """The initialization ends."""
        self.init_seconds = time.monotonic() - self.started

    def resume(self, start: Checkpoint) -> None:
        """Count what the attempts before this checkpoint took."""
        self.start, self.log_loss, self.snapshots = start, start.log_loss, start.snapshots

    def mark(self, part: str, samples: int = 0) -> None:
        """A `TimingMark` that counts the parts of iterations."""
        self.parts[part, samples] += 1
        if part == "denoise":
            self.samples += samples
        elif part == "begin":
            self.samples_at_begin = self.samples

    def step(self, step: Step) -> dict[str, float]:
        """An iteration ends: the numbers of its progress event."""
        self.recent.append(math.log(max(step.loss, MIN_LOSS)))
        self.log_loss += self.recent[-1]
        self.optimize_seconds = self.seconds
        # On a GPU, all but the last iteration end after the next one has been queued.
        is_ahead = self.prior.device.type == "cuda" and step.iteration < step.iterations
        before, here = self.start.unet_samples, self.samples_at_begin if is_ahead else self.samples
        self.unet_samples = None if before is None else before + here
        loss = math.exp(sum(self.recent) / len(self.recent))
        gaussians = {} if step.num_gaussians is None else {"gaussians": float(step.num_gaussians)}
        return {"loss": loss, **gaussians, "seconds": self.optimize_seconds}

    def checkpoint(self, step: Step) -> Checkpoint:
        """The checkpoint after the last iteration."""
        measured = self.log_loss, self.unet_samples, self.snapshots
        return Checkpoint(step.iteration, self.optimize_seconds, step.checkpoint(), *measured)

    def snapshot(self, step: Step) -> Snapshot:
        """The snapshot after the last iteration, which is among the facts of the asset from now on."""
        found = Snapshot(iteration=step.iteration, seconds=self.optimize_seconds, unet_samples=self.unet_samples)
        self.snapshots = (*self.snapshots, found)
        return found

    def facts(self, step: Step, recovery: Recovery, roofline: Callable[[], Roofline]) -> GenerationFacts:
        """The facts about an asset after its last iteration. `roofline` may take seconds, which do not count."""
        seconds, device = self.seconds, self.prior.device
        build_seconds = self.prior.build_seconds - self.build_seconds_before
        iterations_here = step.iterations - self.start.iteration
        seconds_here = self.optimize_seconds - self.start.seconds - self.init_seconds - build_seconds
        return GenerationFacts(
            init_seconds=self.init_seconds,
            optimize_seconds=self.optimize_seconds,
            seconds=seconds,
            build_seconds=build_seconds,
            seconds_per_iteration=seconds_here / iterations_here,
            times_floor=seconds_here / roofline().total_seconds(self.parts),
            views_at_once=recovery.views_at_once,
            resumed_from=self.start.iteration,
            attempt=recovery.attempt.fence.number,
            sub_seed=recovery.sub_seed,
            warnings=tuple(recovery.warnings),
            iterations=step.iterations,
            image_size=self.prior.image_size,
            num_gaussians=step.num_gaussians,
            loss=step.loss,
            mean_loss=math.exp(self.log_loss / step.iterations),
            skipped_iterations=step.skipped,
            unet_samples=self.unet_samples,
            snapshots=self.snapshots or None,
            peak_bytes=devices.peak_bytes(device),
            device=devices.name(device),
        )
