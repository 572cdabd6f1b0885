"""The optimization loop from text to 3D (Sec. 4.5): guidance gradient, Adam, densification or relocation.

`optimize` yields one `Step` per iteration; the caller prints, saves or stops. No files, no clock, no output.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sctd.errors import SctdError
from sctd.recipe.recipe import Recipe
from sctd.scene.gaussians import Gaussians
from sctd.train import adam, draws, representations
from sctd.train.checkpoint import Identity, State, from_bytes, moved, to_bytes
from sctd.train.gradient import USUAL, Controlled, Distillation, LoopOptions, Prior
from sctd.train.representation import Asset, Representation, Scene


class OptimizeError(SctdError):
    """A run that cannot start or continue."""


@dataclass(frozen=True)
class Step(State):
    """The state after an iteration (from 1) of `iterations`. It is immutable, so the caller may keep it."""

    iterations: int
    identity: Identity

    @property
    def asset(self) -> Any:
        """The asset: `Gaussians`, or what the representation of the recipe optimizes."""
        return self.scene.asset

    @property
    def gaussians(self) -> Gaussians:
        """The asset of a recipe with Gaussians."""
        return self.scene.asset

    @property
    def num_gaussians(self) -> int | None:
        """Their number, None for other representations."""
        return getattr(self.scene.asset, "num", None)

    def checkpoint(self) -> bytes:
        """The bytes for `optimize(…, resume=…)`. On the CPU the resumed run is bit-identical."""
        return to_bytes(self, self.identity)


def optimize(
    recipe: Recipe,
    prior: Prior,
    initial: Gaussians,
    prompt: str,
    seed: int,
    resume: bytes | None = None,
    control: Controlled | None = None,
    loop: LoopOptions = USUAL,
) -> Iterator[Step]:
    """Distil `prompt` into Gaussians on the device of `initial`, from `initial` or from the checkpoint `resume`.

    `control` builds the controlled denoiser if `recipe.guidance.control` names a ControlNet:
    `partial(controlled, prior, Control.load(folder), scale=…)`.

    The same seed gives the same asset, bit-identical on the CPU. Random numbers are drawn on the CPU, so that cameras,
    times and noise are the same on every device. Raises immediately: OptimizeError for invalid arguments,
    CheckpointError for a checkpoint of another run. Raises later: OptimizeError after `recipe.max_skipped_iterations`
    consecutive iterations with NaN or infinity, DensifyError if pruning would remove every Gaussian.
    """
    if not prompt.strip():
        raise OptimizeError("the prompt is empty; describe the object")
    if problem := representations.of_recipe(recipe).problem(initial):
        raise OptimizeError(problem)
    if (control is None) != (recipe.guidance.control == "none"):
        found = "no ControlNet was given" if control is None else "a ControlNet was given"
        raise OptimizeError(f"guidance.control is {recipe.guidance.control!r} and {found}; they must agree")
    identity = Identity(recipe.digest(), prompt, seed)
    device = initial.means.device
    distillation = Distillation.of(recipe, prior, prompt, seed, control, loop)
    if resume is None:
        state = initial_state(distillation, initial)
    else:
        state = from_bytes(resume, identity, device, distillation.representation.restored)
    ahead = device.type == "cuda" if loop.ahead is None else loop.ahead
    return _steps(_Run(recipe, distillation), state, identity, ahead=ahead)


def _steps(run: "_Run", state: State, identity: Identity, *, ahead: bool) -> Iterator[Step]:
    """Yield all steps. If `ahead`, the next iteration is queued before waiting for the check of the current one."""
    iterations = run.recipe.iterations
    following: _Attempt | None = None
    while state.iteration < iterations:
        attempt = following or run.attempt(state)
        following = run.attempt(attempt.after) if ahead and attempt.after.iteration < iterations else None
        state, is_finite = run.settle(attempt, state)
        following = following if is_finite else None  # it continued from an iteration that is undone
        yield Step(**vars(state), iterations=iterations, identity=identity)


def initial_state(distillation: Distillation, initial: Gaussians) -> State:
    """The state before the first iteration."""
    recipe, generator = distillation.recipe, draws.generator_of(distillation.seed)
    noise = draws.noise(recipe, distillation.prior.latent_shape, generator).to(initial.means.device)
    objective = moved(distillation.initial_state(generator), initial.means.device)
    scene = distillation.representation.start(initial, generator)
    return State(0, 0, 0, 0, 0.0, scene, noise, generator.get_state(), objective=objective)


@dataclass(frozen=True)
class _Attempt:
    """An iteration that the device may still be computing, and the state `after` it if all numbers are finite.

    Once `done`, `maxima` holds the loss and the largest magnitude in each tensor of `checked`.
    """

    after: State
    checked: list[str]
    maxima: Tensor
    done: torch.cuda.Event | None


@dataclass(frozen=True)
class _Run:
    """Everything that is the same in all iterations."""

    recipe: Recipe
    distillation: Distillation

    @property
    def representation(self) -> Representation:
        return self.distillation.representation

    def attempt(self, state: State) -> _Attempt:
        """The next state, before any check. Waits for the device only if Gaussians are added, removed or moved."""
        generator = torch.Generator()
        generator.set_state(state.random)
        iteration, before, mark = state.iteration + 1, state.scene, self.distillation.loop.mark
        mark("begin")
        guidance = self.distillation(state, iteration, generator)
        after = self._moved(before, guidance.gradients, iteration, state.updates + 1)
        seconds = {f"Adam's second moment of {name}": tensor for name, tensor in after.second_moment.tensors().items()}
        checked = {**guidance.gradients_by_name(), **seconds, **after.asset.tensors()}
        maxima, done = _start_check(guidance.loss, checked)
        mark("adam")
        after = self.representation.observed(after, guidance.seen)
        changes = self.representation.changes(iteration)
        if _is_finite(maxima, done, wait=bool(changes)):
            for change in changes:
                after = change(after, generator)
        after = self.representation.equalized(after, guidance.seen, iteration)
        mark("densify")
        random = generator.get_state()
        counts = iteration, state.updates + 1, state.skipped, 0
        moved = State(*counts, 0.0, after, state.noise, random, objective=guidance.state)
        return _Attempt(moved, list(checked), maxima, done)

    def settle(self, attempt: _Attempt, before: State) -> tuple[State, bool]:
        """Wait for the check and return the state after the attempt, or the one `before` it with NaN or infinity.

        An undone iteration changes only the counters and the random generator.
        """
        if attempt.done is not None:
            attempt.done.synchronize()
        loss, *largest = attempt.maxima.tolist()
        faulty = [name for name, number in zip(attempt.checked, largest, strict=True) if not math.isfinite(number)]
        if faulty:
            return self._skipped(before, faulty, attempt.after.random), False
        return replace(attempt.after, loss=loss), True

    def _moved(self, scene: Scene, gradients: Asset, iteration: int, count: int) -> Scene:
        """The scene after Adam's `count`-th step, moved back into the bounds."""
        recipe = self.recipe
        position = adam.position(iteration, recipe.iterations)
        asset, first, second = adam.update(
            scene.asset,
            adam.clipped(gradients, recipe.optimizer, position),
            scene.first_moment,
            scene.second_moment,
            rates=self.representation.rates(scene.asset, position),
            count=count,
            optimizer=recipe.optimizer,
        )
        return scene.stepped(self.representation.bounded(asset), first, second)

    def _skipped(self, state: State, faulty: list[str], random: Tensor) -> State:
        in_a_row = state.skipped_in_a_row + 1
        if in_a_row >= self.recipe.max_skipped_iterations:
            raise OptimizeError(
                f"NaN or infinity in {in_a_row} iterations in a row, up to iteration {state.iteration + 1}, "
                f"in {', '.join(faulty)}; use a prior in bfloat16 or float32, or lower the learning "
                "rates and guidance.scale"
            )
        return replace(
            state,
            iteration=state.iteration + 1,
            skipped=state.skipped + 1,
            skipped_in_a_row=in_a_row,
            random=random,
        )


def _start_check(loss: Tensor, tensors: dict[str, Tensor]) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start copying the loss and the largest magnitude of each tensor to the CPU; the event signals the arrival."""
    largest = [torch.linalg.vector_norm(tensor, torch.inf).double() for tensor in tensors.values()]
    maxima = torch.stack([loss.double(), *largest])
    if maxima.device.type != "cuda":
        return maxima, None
    on_cpu = torch.empty(maxima.shape, dtype=maxima.dtype, pin_memory=True).copy_(maxima, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return on_cpu, done


def _is_finite(maxima: Tensor, done: torch.cuda.Event | None, *, wait: bool) -> bool:
    """Whether all numbers are finite. Without `wait`, a check still running on the device counts as finite."""
    if done is not None and not wait:
        return True
    if done is not None:
        done.synchronize()
    return bool(maxima[1:].isfinite().all())
