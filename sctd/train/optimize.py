"""Text to 3D (Sec. 4.5): in every iteration the prior pulls at the Gaussians, Adam moves them, some are added or moved.

`optimize` yields one `Step` an iteration; whoever calls it prints, saves or stops. No files, no clock, no output.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sctd.recipe.recipe import Recipe
from sctd.render.contract import Rendering
from sctd.render.rasterize import render
from sctd.scene import densify
from sctd.scene.bounds import clamp_to_bounds
from sctd.scene.brightness import brightest, dimmed
from sctd.scene.gaussians import Gaussians
from sctd.scene.population import Population
from sctd.scene.relocate import relocate
from sctd.train import adam, draws
from sctd.train.checkpoint import Identity, State, from_bytes, to_bytes
from sctd.train.gradient import Controlled, Prior, Puller
from sctd.transfer import TimingMark, no_timing
from sctd.types import Images


class OptimizeError(ValueError):
    """A run that cannot begin or go on."""


@dataclass(frozen=True)
class Step:
    """A completed iteration (from 1). Nothing in it changes later, so that it may be kept.

    `loss` is ½ |gradient on z_0|², mean over the views, plus the regularisers. `skipped` counts the iterations so far
    that met NaN or infinity and were undone.
    """

    iteration: int
    iterations: int
    loss: float
    num_gaussians: int
    gaussians: Gaussians
    skipped: int
    state: State
    identity: Identity

    def checkpoint(self) -> bytes:
        """What `optimize(…, resume=…)` continues from, on the CPU bit for bit."""
        return to_bytes(self.state, self.identity)


def optimize(
    recipe: Recipe,
    prior: Prior,
    initial: Gaussians,
    prompt: str,
    seed: int,
    resume: bytes | None = None,
    control: Controlled | None = None,
    *,
    views_at_once: int | None = None,
    ahead: bool | None = None,
    mark: TimingMark = no_timing,
    renderer: Callable[..., Rendering] | None = None,
) -> Iterator[Step]:
    """Distil `prompt` into Gaussians, beginning with `initial` and on its device, or with the checkpoint `resume`.

    `views_at_once` below the recipe's views saves memory. With `ahead`, by default on GPUs, an iteration begins before
    it is known whether the last one's numbers were finite, so that the device never waits; what comes out is the same.
    `mark` is told where the parts of an iteration end; `renderer` stands for
    `sctd.render.rasterize.render`.

    `control` makes the denoiser that sees what `recipe.guidance.control` names, if it names anything:
    `partial(controlled, prior, Control.load(folder), scale=…)`.

    The same seed gives the same asset, on the CPU in every bit. Random numbers are drawn on the CPU, so that cameras,
    times and noise are those of the seed on every device. Raises at once: OptimizeError for what cannot begin,
    CheckpointError for a checkpoint of another run. Raises later: OptimizeError after `recipe.max_skipped_iterations`
    iterations in a row with NaN or infinity, DensifyError when every Gaussian has faded.
    """
    if not prompt.strip():
        raise OptimizeError("the prompt is empty; say what to make")
    if not 0 < initial.num <= recipe.bounds.max_gaussians:
        raise OptimizeError(
            f"{initial.num} Gaussians to begin with; expected 1 to {recipe.bounds.max_gaussians}: "
            "change initialization.count, initialization.replicas or bounds.max_gaussians"
        )
    if (control is None) != (recipe.guidance.control == "none"):
        found = "no ControlNet was given" if control is None else "a ControlNet was given"
        raise OptimizeError(f"guidance.control is {recipe.guidance.control!r} and {found}; they must agree")
    identity = Identity(recipe.digest(), prompt, seed)
    device = initial.means.device
    state = from_bytes(resume, identity, device) if resume is not None else initial_state(recipe, prior, initial, seed)
    run = _Run(recipe, Puller.of(recipe, prior, prompt, seed, device, control, renderer or render), views_at_once, mark)
    return _steps(run, state, identity, ahead=device.type == "cuda" if ahead is None else ahead)


def _steps(run: "_Run", state: State, identity: Identity, *, ahead: bool) -> Iterator[Step]:
    """Step by step; if `ahead`, the next iteration is given to the device before this one's verdict is waited for."""
    iterations = run.recipe.iterations
    following: _Attempt | None = None
    while state.iteration < iterations:
        attempt = following or run.attempt(state)
        following = run.attempt(attempt.after) if ahead and attempt.after.iteration < iterations else None
        state, is_sound = run.settled(attempt, state)
        following = following if is_sound else None  # it went on from what is undone
        gaussians = state.population.gaussians
        yield Step(state.iteration, iterations, state.loss, gaussians.num, gaussians, state.skipped, state, identity)


def initial_state(recipe: Recipe, prior: Prior, initial: Gaussians, seed: int) -> State:
    """Before the first iteration."""
    generator = draws.generator_of(seed)
    noise = draws.noise(recipe, prior.latent_shape, generator).to(initial.means.device)
    gaussians = clamp_to_bounds(_with_sh_degree(initial.detach(), recipe.sh_degree), recipe.bounds)
    return State(0, 0, 0, 0, 0.0, Population.of(gaussians), noise, generator.get_state())


def _with_sh_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """The same Gaussians; harmonics that they lack begin at 0, those beyond `degree` are left out."""
    num_basis = (degree + 1) ** 2
    missing = gaussians.sh.new_zeros(gaussians.num, max(num_basis - gaussians.sh.shape[1], 0), 3)
    return replace(gaussians, sh=torch.cat([gaussians.sh[:, :num_basis], missing], dim=1))


@dataclass(frozen=True)
class _Attempt:
    """An iteration that the device may still be working on, and the state `after` it if its numbers are finite.

    `verdict` has the loss and, by the names of `looked_at`, the largest number of each, once `done`.
    """

    after: State
    looked_at: list[str]
    verdict: Tensor
    done: torch.cuda.Event | None


@dataclass(frozen=True)
class _Run:
    """What stays the same from iteration to iteration."""

    recipe: Recipe
    pull: Puller
    views_at_once: int | None
    mark: TimingMark

    def attempt(self, state: State) -> _Attempt:
        """The next state, whatever its numbers; nothing is waited for but where Gaussians are added or removed."""
        generator = torch.Generator()
        generator.set_state(state.random)
        iteration, before = state.iteration + 1, state.population
        self.mark("begin")
        pull = self.pull(state, iteration, generator, self.views_at_once, self.mark)
        after = self._moved(before, pull.gradients, iteration, state.updates + 1)
        seconds = {f"Adam's second moment of {name}": tensor for name, tensor in after.second_moment.tensors().items()}
        looked_at = {**pull.gradients_by_name(), **seconds, **after.gaussians.tensors()}
        verdict, done = _on_its_way(pull.loss, looked_at)
        self.mark("adam")
        if self.recipe.densify.enabled:
            after = densify.observe(after, pull.gradient_pixels, pull.radii)
        if _is_sound(verdict, done, waiting=self._repopulates(iteration)):
            after = self._repopulated(after, iteration, generator)
        after = self._dimmed(after, pull.lit, iteration)
        self.mark("densify")
        random = generator.get_state()
        moved = State(iteration, state.updates + 1, state.skipped, 0, 0.0, after, state.noise, random)
        return _Attempt(moved, list(looked_at), verdict, done)

    def settled(self, attempt: _Attempt, before: State) -> tuple[State, bool]:
        """What the attempt came to: the state after it or, where NaN or infinity turned up, the one `before` it.

        Then only its counters and random numbers are new.
        """
        if attempt.done is not None:
            attempt.done.synchronize()
        loss, *largest = attempt.verdict.tolist()
        faulty = [name for name, number in zip(attempt.looked_at, largest, strict=True) if not math.isfinite(number)]
        if faulty:
            return self._skipped(before, faulty, attempt.after.random), False
        return replace(attempt.after, loss=loss), True

    def _moved(self, population: Population, gradients: Gaussians, iteration: int, count: int) -> Population:
        """After Adam's `count`-th step, inside the bounds."""
        recipe = self.recipe
        progress = (iteration - 1) / max(recipe.iterations - 1, 1)
        gaussians, first, second = adam.update(
            population.gaussians,
            adam.clipped(gradients, recipe.optimizer, progress),
            population.first_moment,
            population.second_moment,
            rates=adam.rates_at(recipe.optimizer, progress, gradients.sh.shape[1]),
            count=count,
            optimizer=recipe.optimizer,
        )
        gaussians = clamp_to_bounds(gaussians, recipe.bounds)
        return replace(population, gaussians=gaussians, first_moment=first, second_moment=second)

    def _repopulates(self, iteration: int) -> bool:
        grows, moves = self.recipe.densify, self.recipe.relocate
        reset = bool(grows.reset_interval) and iteration % grows.reset_interval == 0
        return (grows.enabled and iteration < grows.before and (iteration % grows.interval == 0 or reset)) or (
            moves.enabled and iteration % moves.interval == 0
        )

    def _repopulated(self, population: Population, iteration: int, generator: torch.Generator) -> Population:
        grows, moves = self.recipe.densify, self.recipe.relocate
        if grows.enabled and iteration < grows.before:
            if iteration > grows.after and iteration % grows.interval == 0:
                population = densify.densify(population, grows, self.recipe.bounds, iteration, generator)
            if grows.reset_interval and iteration % grows.reset_interval == 0:
                population = densify.reset_opacity(population, grows.reset_opacity)
        last = moves.until_share * self.recipe.iterations
        if moves.enabled and iteration % moves.interval == 0 and iteration <= last:
            population = relocate(population, moves, generator)
        return population

    def _dimmed(self, population: Population, lit: Images, iteration: int) -> Population:
        """BEG: all colours towards mid grey, and their moments forgotten, where the brightest views outshine."""
        settings, progress = self.recipe.brightness, iteration / self.recipe.iterations
        if not (settings.enabled and settings.after_share < progress < settings.until_share):
            return population
        is_bright = brightest(lit, settings.quantile) > settings.limit
        return dimmed(population, settings.factor) if is_bright else population

    def _skipped(self, state: State, faulty: list[str], random: Tensor) -> State:
        in_a_row = state.skipped_in_a_row + 1
        if in_a_row >= self.recipe.max_skipped_iterations:
            raise OptimizeError(
                f"NaN or infinity in {in_a_row} iterations in a row, up to iteration {state.iteration + 1}, "
                f"in {', '.join(faulty)}; use a prior in bfloat16 or float32, or lower the rates and guidance.scale"
            )
        return replace(
            state,
            iteration=state.iteration + 1,
            skipped=state.skipped + 1,
            skipped_in_a_row=in_a_row,
            random=random,
        )


def _on_its_way(loss: Tensor, tensors: dict[str, Tensor]) -> tuple[Tensor, torch.cuda.Event | None]:
    """The loss, and of each tensor the largest number, on their way to the CPU; and what tells of their coming."""
    largest = [torch.linalg.vector_norm(tensor, torch.inf).double() for tensor in tensors.values()]
    verdict = torch.stack([loss.double(), *largest])
    if verdict.device.type != "cuda":
        return verdict, None
    there = torch.empty(verdict.shape, dtype=verdict.dtype, pin_memory=True).copy_(verdict, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return there, done


def _is_sound(verdict: Tensor, done: torch.cuda.Event | None, *, waiting: bool) -> bool:
    """Whether all is finite, as far as anybody knows: who is not `waiting` for a device hopes for the best."""
    if done is not None and not waiting:
        return True
    if done is not None:
        done.synchronize()
    return bool(verdict[1:].isfinite().all())
