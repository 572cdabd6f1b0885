"""Testbed: objectives distil particles from a Gaussian mixture with a closed-form score, in about a second per run.

`python -m sctd.experiments.testbed` prints the table of docs/testbed.md. A recipe determines a run: objective, times,
noise, guidance, time weight, iterations. A particle is a latent, z_0 = θ. There is no renderer, no encoder and no
network error, so the results show the objective alone.
"""

import argparse
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.diffusion.guidance import cfg
from sctd.diffusion.schedule import NoiseSchedule
from sctd.objectives import gradient, of_recipe
from sctd.recipe.custom_file import CustomFileError, is_custom
from sctd.recipe.effects import with_settings
from sctd.recipe.methods import METHODS, WITH_GAUSSIANS, for_objective
from sctd.recipe.presets import paper
from sctd.recipe.recipe import Recipe, RecipeError, with_overrides
from sctd.scene.cameras import Cameras
from sctd.train import draws
from sctd.types import Latents, Text

STABLE_DIFFUSION = {
    "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
}  # fmt: skip
FEATURES, MODES, TEXT_MODES, SPREAD = 32, 12, (0, 1), 0.35
RATE_START, RATE_END = 0.04, 0.004  # Adam's, falling linearly; the modes have norm √32 = 5.7


@dataclass(frozen=True)
class Mixture:
    """Latents from modes N(means[m], spread² I); callable as a Denoiser.

    A text embedding is one token, the weights of the modes; in the empty prompt all weights are equal.
    """

    schedule: NoiseSchedule
    means: Float[Tensor, "modes channels height width"]
    spread: float | Tensor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        _, channels, height, width = self.means.shape
        return channels, height, width

    def text(self, modes: Iterable[int], batch: int = 1) -> Text:
        """The embedding of a prompt for `modes`, with equal weights."""
        weights = self.means.new_zeros(len(self.means))
        weights[list(modes)] = 1
        return (weights / weights.sum()).expand(batch, 1, -1)

    @property
    def null(self) -> Float[Tensor, "1 1 modes"]:
        """The embedding of the empty prompt."""
        return self.text(range(len(self.means)))

    def __call__(self, z_t: Latents, t: int, text: Text | None) -> Latents:
        """ε = −σ_t ∇ log p_t(z_t | text)."""
        text = self.null.expand(len(z_t), -1, -1) if text is None else text
        alpha, sigma = self.schedule.alpha[t], self.schedule.sigma[t]
        variance = alpha**2 * self.spread**2 + sigma**2
        share = self._log_joint(z_t, alpha, variance, text).softmax(-1)
        expected = (share @ self.means.flatten(1)).view_as(z_t)
        return (sigma / variance) * (z_t - alpha * expected)

    def adapters(self, rank: int = 0) -> "MixtureAdapters":
        """A mixture that learns along, in place of a network with adapters."""
        return MixtureAdapters(self)

    def log_density(self, z_0: Latents, text: Text) -> Float[Tensor, " batch"]:
        """log p(z_0 | text) in nats."""
        flat = z_0.flatten(1)
        one = torch.ones((), dtype=z_0.dtype)
        joint = self._log_joint(z_0, one, self.spread**2 * one, text).logsumexp(-1)
        constant = 0.5 * flat.shape[1] * math.log(2 * math.pi * self.spread**2)
        return joint - 0.5 * (flat**2).sum(-1) / self.spread**2 - constant

    def _log_joint(self, z: Latents, alpha: Tensor, variance: Tensor, text: Text) -> Float[Tensor, "batch modes"]:
        """log p(mode, z) without the terms shared by all modes, with ‖z − αμ‖² expanded."""
        means = self.means.flatten(1)
        inner = z.flatten(1) @ means.T - 0.5 * alpha * (means**2).sum(-1)
        return text[:, 0].log() + (alpha / variance) * inner


@dataclass(frozen=True)
class MixtureAdapters:
    """ε_ψ of the mixture whose means have moved and whose spread has changed: ψ = 0 is the mixture itself."""

    world: Mixture

    def initial(self, generator: torch.Generator) -> Float[Tensor, " values"]:
        return self.world.means.new_zeros(self.world.means.numel() + 1)

    def __call__(
        self, psi: Float[Tensor, " values"], z_t: Latents, t: int, text: Text, cameras: Cameras | None
    ) -> Latents:
        moved, spread = self.world.means + psi[:-1].view_as(self.world.means), self.world.spread * psi[-1].exp()
        return replace(self.world, means=moved, spread=spread)(z_t, t, text)


def twelve_modes(seed: int = 0) -> Mixture:
    """The mixture of the table: twelve modes in random directions of 32 dimensions, all of norm √32, float64."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(MODES, FEATURES, generator=generator, dtype=torch.float64)
    means = means * math.sqrt(FEATURES) / means.norm(dim=1, keepdim=True)
    return Mixture(NoiseSchedule.from_config(STABLE_DIFFUSION), means[:, :, None, None], SPREAD)


class Evaluation(NamedTuple):
    """The metrics of one run, averaged over its particles."""

    log_p: float  # log p(z_0 | text), nats
    norm_ratio: float  # ‖z_0‖ / ‖mode‖: above 1 is oversaturation, below it smoothness
    seconds: float


READ = "objective.", "times.", "noise.", "guidance.scale", "iterations", "cameras.views"
"""The recipe keys, or their groups, that the testbed reads."""
NOT_READ = (
    "objective.pixel_constraint", "objective.noise_injection", "objective.negative_prompt", "objective.negative_weight",
)  # fmt: skip
"""Among them, those that it does not: there are no images or surfaces, and the negative prompt is the empty one."""


def settings(method: str, overrides: Mapping[str, object] | None = None) -> Recipe:
    """The recipe of `method` (`methods.for_objective`) from the paper's settings with 64 particles, 1000 iterations.

    `overrides` sets dotted keys. Raises RecipeError for an unknown key, and for one without effect here.
    """
    base = with_overrides(paper(), {"cameras.views": 64, "iterations": 1000})
    recipe = with_settings(for_objective(base, method), overrides or {})
    for key in overrides or {}:
        if not key.startswith(READ) or key in NOT_READ:
            raise RecipeError(f"{key} has no effect in the testbed, which has no images, views or negative prompts")
    return recipe


def distil(recipe: Recipe, seed: int = 0, world: Mixture | None = None) -> Latents:
    """z_0 after `recipe.iterations` of Adam along the objective's gradient, for `recipe.cameras.views` particles.

    Uses the settings of the gradient: objective, guidance.scale, times, noise. Without views there is no Perp-Neg; ∅ is
    the empty prompt.
    """
    world = world or twelve_modes()
    shape = world.latent_shape
    generator = draws.generator_of(seed)
    denoise = cfg(world, recipe.guidance.scale, world.null)
    text = world.text(TEXT_MODES, recipe.cameras.views)
    objective = recipe.objective
    residual_of = of_recipe(recipe)
    # Without a decoder there is no pixel loss, so all objectives return latents.
    given: dict[str, Any] = {"text": text, "schedule": world.schedule, "cameras": None, "adapted": world.adapters()}
    given |= {"unguided": world, "negative": world.null, "positions": None, "alpha": None, "depth": None}

    z_0 = 0.3 * torch.randn(recipe.cameras.views, *shape, generator=generator, dtype=torch.float64)
    noise = draws.noise(recipe, shape, generator).double()
    first, second = torch.zeros_like(z_0), torch.zeros_like(z_0)
    state = residual_of.initial(recipe=recipe, prior=world, generator=generator, **given)
    for iteration in range(1, recipe.iterations + 1):
        if recipe.noise.kind == "fresh":
            noise = draws.noise(recipe, shape, generator).double()
        times = draws.times(recipe, iteration, generator)
        given["progress"] = progress = iteration / recipe.iterations
        residual = residual_of(z_0, denoise=denoise, noise=noise, times=times, state=state, **given)
        state = residual_of.updated(state, z_0, generator=generator, **given)
        grad = gradient(
            cast(Tensor, residual),
            schedule=world.schedule,
            times=times,
            time_weight=objective.time_weight,
            weight=objective.weight,
            clamp=objective.clamp,
            progress=progress,
        )
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        step = first / (1 - 0.9**iteration) / ((second / (1 - 0.999**iteration)).sqrt() + 1e-15)
        z_0 = z_0 - (RATE_START + (RATE_END - RATE_START) * progress) * step
    return z_0


def evaluate(recipe: Recipe, seed: int = 0, world: Mixture | None = None) -> Evaluation:
    """Distil and compute the metrics."""
    world, start = world or twelve_modes(), time.perf_counter()
    z_0 = distil(recipe, seed, world)
    seconds = time.perf_counter() - start
    norms = z_0.flatten(1).norm(dim=1) / world.means.flatten(1).norm(dim=1).mean()
    return Evaluation(
        float(world.log_density(z_0, world.text(TEXT_MODES, len(z_0))).mean()), float(norms.mean()), seconds
    )


# The variants in the table, in addition to the unchanged settings of each method.
VARIANTS: dict[str, list[dict[str, object]]] = {
    "sctd": [
        {"noise.kind": "fresh"},
        {"times.num_segments": 1},
        {"times.num_segments": 3},
        {"times.num_segments": 10},
        {"times.segments": "increasing"},
        {"times.shift_lower_bound": True},
        {"times.segment_range": "20,980"},
        {"objective.self_sign": -1},
        {"guidance.scale": 1, "objective.outer_weight": 72.25},
        {"objective.outer_weight": 0},
        {"objective.time_weight": "one"},
        {"objective.time_weight": "b_t"},
    ],
    "sds": [{"guidance.scale": 101}, {"times.high": 980}],
    "ism": [{"noise.kind": "fresh"}],
    "cds": [
        {"guidance.scale": 30},
        {"noise.kind": "fresh"},
        {"iterations": 5000},
        {"noise.kind": "fresh", "iterations": 5000},
        {"noise.kind": "fresh", "times.high": 300},
    ],
    "vsd": [{"objective.adapter_rate": 0.01}],
    "cfd": [{"noise.shared": False}, {"noise.kind": "fresh"}],
}


def rows(methods: Iterable[str], seeds: int, common: Mapping[str, object] | None = None) -> Iterator[str]:
    """The rows of the Markdown table as they are computed: means over seeds, log p with its range."""
    yield "| objective | varied | log p(x \\| y), nats | norm ratio | seconds |"
    yield "|---|---|---|---|---|"
    for method in methods:
        for varied in [{}, *VARIANTS.get(method, [])]:
            recipe = settings(method, {**(common or {}), **varied})
            log_p, norm_ratio, seconds = zip(*(evaluate(recipe, seed) for seed in range(seeds)), strict=True)
            what = ", ".join(f"`{key}={value}`" for key, value in varied.items()) or "–"
            yield (
                f"| `{method}` | {what} | {fmean(log_p):.1f} ({min(log_p):.1f} … {max(log_p):.1f}) "
                f"| {fmean(norm_ratio):.2f} | {fmean(seconds):.1f} |"
            )


def references(world: Mixture) -> str:
    """Reference values of log p: 4096 samples of the mixture, and the centres of its modes."""
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(len(TEXT_MODES), (4096,), generator=generator)
    samples = world.means[list(TEXT_MODES)][which]
    samples = samples + world.spread * torch.randn(samples.shape, generator=generator, dtype=samples.dtype)
    true, centre = (
        float(world.log_density(z_0, world.text(TEXT_MODES, len(z_0))).mean())
        for z_0 in (samples, world.means[list(TEXT_MODES)])
    )
    return f"Samples of p(x | y) itself have {true:.1f} nats, the centre of a mode {centre:.1f}."


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sctd.experiments.testbed", description="Compare objectives on exact scores."
    )
    parser.add_argument("--objective", default=",".join(WITH_GAUSSIANS), help="comma-separated names (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs per row (default: 3)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set a recipe key")
    given = parser.parse_args()
    methods = given.objective.split(",")
    unknown = [name for name in methods if name not in METHODS and not is_custom(name)]
    if unknown:
        parser.error(f"unknown objective {', '.join(unknown)}; choose from {', '.join(METHODS)}")
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; expected at least 1")
    wrong = [pair for pair in given.set if "=" not in pair]
    if wrong:
        parser.error(f"--set is {wrong[0]}; expected KEY=VALUE")
    common = dict(pair.split("=", 1) for pair in given.set)
    torch.set_num_threads(1)
    try:
        recipes = [settings(method, common) for method in methods]
        # A warm-up, so that no row includes the cost of a first call.
        evaluate(with_overrides(recipes[0], {"iterations": 1}))
        print(references(twelve_modes()) + "\n")
        for row in rows(methods, given.seeds, common):
            print(row, flush=True)
    except (RecipeError, CustomFileError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
