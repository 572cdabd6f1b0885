"""`segmentdreamer benchmark speed`: time an iteration and its parts, with the `plain` and the `fast` loop in one run.

`plain` is the reference: on a GPU the same trainer with unmodified diffusers networks, which waits for the numeric
check of each iteration; on a CPU the renderer of Gaussians in torch (`torch_render`). The roofline of a network is the
time of its floating-point operations at the rate that this device reaches on a large matrix product in the same
precision.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from pipeline.benchmarks import torch_render
from pipeline.benchmarks.clocks import Clock, TimedSpan
from pipeline.store import manifest
from pipeline.weights.models import Weights
from pipeline.work import devices
from pipeline.work.roofline import Roofline, matrix_teraflops, operations
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.recipe.recipe import Recipe, with_overrides
from sctd.render.rasterize import render_by
from sctd.scene.gaussians import Gaussians
from sctd.train import representations
from sctd.train.gradient import USUAL, Distillation, LoopOptions
from sctd.train.initialization import initial_gaussians
from sctd.train.optimize import initial_state, optimize

PROMPT, SEED = "a red mushroom", 0
WARM_UP = 5
EXAMINED = 30  # iteration whose gradients are compared: t is large early on, so the inversion takes two steps


@dataclass(frozen=True)
class Part:
    """A part of an iteration: median and quartiles of its total time per iteration, calls (`times`) and roofline."""

    name: str
    median_ms: float
    low_ms: float
    high_ms: float
    mean_ms: float
    times: float
    floor_ms: float | None


@dataclass(frozen=True)
class Loop:
    """One of the two loops: median and quartiles of the time of an iteration, and its parts."""

    name: str
    iteration_ms: float
    low_ms: float
    high_ms: float
    build_seconds: float
    peak_gib: float
    sizes: dict[str, int]
    """Of the asset: its number of Gaussians, or of occupied cells."""
    parts: list[Part]

    def minutes(self, iterations: int) -> float:
        return self.iteration_ms * iterations / 60_000


@dataclass(frozen=True)
class Speed:
    """The results of the command.

    `gradient_error` is |fast − exact| / |exact| of the gradient on z_0, with exact in float32. `text_effect` is
    |ε_y − ε_∅| / |ε_∅|: the smaller it is, the more guidance amplifies rounding errors of the predictions.
    """

    device: str
    commit: str | None
    versions: dict[str, str]
    recipe: str
    objective: str
    guidance: str
    views: int
    image_size: int
    iterations: int
    length: int
    """Iterations of a run of the recipe."""
    gaussians: int
    dtype: str
    teraflops_reached: float
    text_effect: float
    gradient_error: float
    plain_gradient_error: float
    plain: Loop
    fast: Loop

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def measure(recipe: Recipe, weights: Weights, gaussians: int, iterations: int, log: Callable[[str], None]) -> Speed:
    """Time `iterations` iterations of each loop, after a warm-up."""
    device, length = devices.prepare(), recipe.iterations
    recipe = steady(recipe, gaussians)
    dtype = getattr(torch, recipe.compute.dtype)
    load = partial(StableDiffusionPrior.load, weights.part("prior"), device)
    initial = initial_gaussians(recipe.initialization, "", torch.Generator().manual_seed(SEED)).to(device)
    reached = matrix_teraflops(device, dtype)
    log(f"{devices.name(device)}: {reached:.1f} TFLOP/s in {recipe.compute.dtype}")
    exact_prior = load(torch.float32)
    exact, effect = gradient(recipe, exact_prior, initial), text_effect(exact_prior)
    del exact_prior
    prior = load(dtype)
    roofline = Roofline(operations(prior), reached)
    on_gpu = device.type == "cuda"
    plain_error = relative(gradient(recipe, prior, initial), exact)
    is_splatted = recipe.representation.kind == "gaussians"
    by_torch = partial(render_by, torch_render.rasterize) if is_splatted and not on_gpu else None
    plain = LoopOptions(ahead=False, renderer=by_torch)
    plain_loop = loop("plain", recipe, prior, initial, iterations, roofline, plain)
    log(f"plain: {plain_loop.iteration_ms:.1f} ms per iteration")
    if on_gpu:
        del prior
        devices.free(device)
        prior = load(dtype, cuda_graphs=True)
    elif recipe.compute.cpu_engine != "torch":
        prior = load(dtype, cpu_engine=recipe.compute.cpu_engine)
    error = relative(gradient(recipe, prior, initial), exact)
    fast_loop = loop("fast", recipe, prior, initial, iterations, roofline, USUAL)
    log(f"fast: {fast_loop.iteration_ms:.1f} ms per iteration")
    return Speed(
        device=devices.name(device),
        commit=manifest.commit(),
        versions=manifest.versions(),
        recipe=recipe.name,
        objective=recipe.objective.display_name,
        guidance="perp-neg" if recipe.guidance.perp_neg else "cfg",
        views=recipe.cameras.views,
        image_size=prior.image_size,
        iterations=iterations,
        length=length,
        gaussians=gaussians,
        dtype=recipe.compute.dtype,
        teraflops_reached=reached,
        text_effect=effect,
        gradient_error=error,
        plain_gradient_error=plain_error,
        plain=plain_loop,
        fast=fast_loop,
    )


def steady(recipe: Recipe, gaussians: int) -> Recipe:
    """The recipe with a constant number of Gaussians in a ball; densification runs often but changes little.

    A NeRF is a blob, and is shaded in as many of the first iterations as later.
    """
    return with_overrides(
        recipe,
        {
            "initialization.kind": "ball",
            "initialization.count": gaussians,
            "bounds.max_gaussians": gaussians,
            "iterations": 5000,
            "densify.after": 0,
            "densify.interval": 10,
            "densify.prune_opacity": 0,
            "densify.prune_large_after": 10_000,
            "densify.reset_interval": 0,
            "nerf.albedo_share": 0,
        },
    )


def gradient(recipe: Recipe, prior: StableDiffusionPrior, initial: Gaussians) -> torch.Tensor:
    """∂L/∂z_0 of an iteration in which the inversion takes two steps."""
    distillation = Distillation.of(recipe, prior, PROMPT, SEED, None, USUAL)
    state = initial_state(distillation, initial)
    return distillation(state, EXAMINED, torch.Generator().manual_seed(SEED)).gradient.double().cpu()


def text_effect(prior: StableDiffusionPrior) -> float:
    """Relative change of the prediction for pure noise by the prompt."""
    noise = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(SEED)).to(prior.device)
    text, null = (prior.denoise(noise, prior.schedule.num_steps // 2, text) for text in (prior.embed([PROMPT]), None))
    return relative(text, null)


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def loop(
    name: str,
    recipe: Recipe,
    prior: StableDiffusionPrior,
    initial: Gaussians,
    iterations: int,
    roofline: Roofline,
    options: LoopOptions,
) -> Loop:
    """Warm up, then time each part."""
    device = initial.means.device
    devices.reset_peak(device)
    clock = Clock(device)
    steps = optimize(recipe, prior, initial, PROMPT, SEED, loop=replace(options, mark=clock))
    for _ in range(WARM_UP + iterations):
        step = next(steps)
    spans = [span for span in clock.spans() if WARM_UP <= span.iteration < WARM_UP + iterations]
    whole = _by_iteration(spans)
    low, median, high = statistics.quantiles(whole.values(), n=4)
    parts = [
        _part([span for span in spans if (span.part, span.samples) == part], iterations, roofline.seconds(*part))
        for part in dict.fromkeys((span.part, span.samples) for span in spans)
    ]
    peak = devices.peak_bytes(device) / 2**30
    sizes = representations.of_recipe(recipe).counts(step.scene)
    return Loop(name, median, low, high, prior.build_seconds, peak, dict(sizes), parts)


def _part(spans: list[TimedSpan], iterations: int, seconds: float | None) -> Part:
    """The time of a part in the iterations that have it; its roofline is that of all its calls in one iteration."""
    each = _by_iteration(spans)
    low, median, high = statistics.quantiles(each.values(), n=4) if len(each) > 1 else 3 * [*each.values()]
    times = len(spans) / len(each)
    roofline = None if seconds is None else 1000 * times * seconds
    name = f"denoise {spans[0].samples}" if spans[0].part == "denoise" else spans[0].part
    return Part(name, median, low, high, sum(each.values()) / iterations, len(spans) / iterations, roofline)


def _by_iteration(spans: list[TimedSpan]) -> dict[int, float]:
    whole: dict[int, float] = {}
    for span in spans:
        whole[span.iteration] = whole.get(span.iteration, 0.0) + span.ms
    return whole


def table(speed: Speed) -> str:
    """A text table of the parts of both loops, with the roofline of the networks."""
    plain = {part.name: part for part in speed.plain.parts}
    sizes = ", ".join(f"{count:,} {unit}" for unit, count in speed.fast.sizes.items())
    scene = f"{speed.views} views of {speed.image_size}², {sizes}"
    lines = [
        f"{speed.device}, {speed.dtype} at {speed.teraflops_reached:.3g} TFLOP/s, {scene}",
        f"{speed.objective} with {speed.guidance}",
        "",
        f"{'part':18} {'plain ms':>9} {'fast ms':>9} {'quartiles':>17} {'calls':>7} {'roofline':>9} {'× roofline':>10}",
    ]
    for part in speed.fast.parts:
        before = f"{plain[part.name].median_ms:9.2f}" if part.name in plain else f"{'':9}"
        roofline = f"{part.floor_ms:9.2f} {part.median_ms / part.floor_ms:10.2f}" if part.floor_ms else ""
        quartiles = f"{part.low_ms:.2f} … {part.high_ms:.2f}"
        lines.append(
            f"{part.name:18} {before} {part.median_ms:9.2f} {quartiles:>17} {part.times:7.2f} {roofline}".rstrip()
        )
    for loop in speed.plain, speed.fast:
        each = f"{loop.iteration_ms:.1f} ms per iteration ({loop.low_ms:.1f} … {loop.high_ms:.1f})"
        memory = f"peak {loop.peak_gib:.1f} GiB, built in {loop.build_seconds:.0f} s"
        lines.append(f"{loop.name}: {each}, {loop.minutes(speed.length):.2f} minutes for {speed.length:,}; {memory}")
    lines.append(f"the prompt changes a prediction by {100 * speed.text_effect:.2g} %")
    speed_up = speed.plain.iteration_ms / speed.fast.iteration_ms
    lines.append(
        f"fast is {speed_up:.2f} × as fast as plain; error of the gradient on z_0 against float32: "
        f"{100 * speed.gradient_error:.2f} % (plain: {100 * speed.plain_gradient_error:.2f} %)"
    )
    return "\n".join(lines) + "\n"
