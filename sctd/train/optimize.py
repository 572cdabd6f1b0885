"""The optimization loop from text to 3D (Sec. 4.5): guidance gradient, Adam, densification or relocation.

`optimize` yields one `Step` per iteration; the caller prints, saves or stops. No files, no clock, no output.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sctd.errors import SctdError
from sctd.recipe.recipe import Recipe
from sctd.scene import densify
from sctd.scene.bounds import clamp_to_bounds
from sctd.scene.brightness import brightest, dimmed
from sctd.scene.gaussians import Gaussians
from sctd.scene.population import Population
from sctd.scene.relocate import relocate
from sctd.train import adam, draws
from sctd.train.checkpoint import Identity, State, from_bytes, moved, to_bytes
from sctd.train.gradient import USUAL, Controlled, Distillation, LoopOptions, Prior
from sctd.types import Images


class OptimizeError(SctdError):
    """A run that cannot start or continue."""


@dataclass(frozen=True)
class Step(State):
    """The state after an iteration (from 1) of `iterations`. It is immutable, so the caller may keep it."""

    iterations: int
    identity: Identity

    @property
    def gaussians(self) -> Gaussians:
        return self.population.gaussians

    @property
    def num_gaussians(self) -> int:
        return self.gaussians.num

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
    if not 0 < initial.num <= recipe.bounds.max_gaussians:
        raise OptimizeError(
            f"the initialization has {initial.num} Gaussians; expected 1 to {recipe.bounds.max_gaussians}: "
            "change initialization.count, initialization.replicas or bounds.max_gaussians"
        )
    if (control is None) != (recipe.guidance.control == "none"):
        found = "no ControlNet was given" if control is None else "a ControlNet was given"
        raise OptimizeError(f"guidance.control is {recipe.guidance.control!r} and {found}; they must agree")
    identity = Identity(recipe.digest(), prompt, seed)
    device = initial.means.device
    distillation = Distillation.of(recipe, prior, prompt, seed, control, loop)
    state = from_bytes(resume, identity, device) if resume is not None else initial_state(distillation, initial)
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
    gaussians = clamp_to_bounds(_with_sh_degree(initial.detach(), recipe.sh_degree), recipe.bounds)
    return State(0, 0, 0, 0, 0.0, Population.of(gaussians), noise, generator.get_state(), objective=objective)


def _with_sh_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """The same Gaussians with SH of this degree: missing coefficients are 0, those above `degree` are dropped."""
    num_basis = (degree + 1) ** 2
    missing = gaussians.sh.new_zeros(gaussians.num, max(num_basis - gaussians.sh.shape[1], 0), 3)
    return replace(gaussians, sh=torch.cat([gaussians.sh[:, :num_basis], missing], dim=1))


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

    def attempt(self, state: State) -> _Attempt:
        """The next state, before any check. Waits for the device only if Gaussians are added, removed or moved."""
        generator = torch.Generator()
        generator.set_state(state.random)
        iteration, before, mark = state.iteration + 1, state.population, self.distillation.loop.mark
        mark("begin")
        guidance = self.distillation(state, iteration, generator)
        after = self._moved(before, guidance.gradients, iteration, state.updates + 1)
        seconds = {f"Adam's second moment of {name}": tensor for name, tensor in after.second_moment.tensors().items()}
        checked = {**guidance.gradients_by_name(), **seconds, **after.gaussians.tensors()}
        maxima, done = _start_check(guidance.loss, checked)
        mark("adam")
        if self.recipe.densify.enabled:
            after = densify.observe(after, guidance.gradient_pixels, guidance.radii)
        changes = self._changes(iteration)
        if _is_finite(maxima, done, wait=bool(changes)):
            for change in changes:
                after = change(after, generator)
        after = self._dimmed(after, guidance.rendered, iteration)
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

    def _moved(self, population: Population, gradients: Gaussians, iteration: int, count: int) -> Population:
        """The population after Adam's `count`-th step, clamped to the bounds."""
        recipe = self.recipe
        position = adam.position(iteration, recipe.iterations)
        gaussians, first, second = adam.update(
            population.gaussians,
            adam.clipped(gradients, recipe.optimizer, position),
            population.first_moment,
            population.second_moment,
            rates=adam.rates_at(recipe.optimizer, position, gradients.sh.shape[1]),
            count=count,
            optimizer=recipe.optimizer,
        )
        gaussians = clamp_to_bounds(gaussians, recipe.bounds)
        return replace(population, gaussians=gaussians, first_moment=first, second_moment=second)

    def _changes(self, iteration: int) -> list[Callable[[Population, torch.Generator], Population]]:
        """What adds, removes, resets or moves Gaussians after this iteration."""
        grows, moves, bounds = self.recipe.densify, self.recipe.relocate, self.recipe.bounds
        changes: list[Callable[[Population, torch.Generator], Population]] = []
        if grows.enabled and iteration < grows.before:
            if iteration > grows.after and iteration % grows.interval == 0:
                changes.append(lambda rows, random: densify.densify(rows, grows, bounds, iteration, random))
            if grows.reset_interval and iteration % grows.reset_interval == 0:
                changes.append(lambda rows, _: densify.reset_opacity(rows, grows.reset_opacity))
        last = moves.until_share * self.recipe.iterations
        if moves.enabled and iteration % moves.interval == 0 and iteration <= last:
            changes.append(lambda rows, random: relocate(rows, moves, random))
        return changes

    def _dimmed(self, population: Population, rendered: Images | None, iteration: int) -> Population:
        """BEG: dim all colours and reset their moments if the brightest views exceed the limit."""
        settings, progress = self.recipe.brightness, iteration / self.recipe.iterations
        if rendered is None or not settings.after_share < progress < settings.until_share:
            return population
        is_bright = brightest(rendered, settings.quantile) > settings.limit
        return dimmed(population, settings.factor) if is_bright else population

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
