"""Train the bundled Point-E: a text vector of the scorer → a coloured cloud of 512 points, in one canonical pose.

`python -m pipeline.embedded.train_shape --scorer weights/scorer --out weights/shape --seconds 390`, or the stage
`shape` of build.py. The training of the preliminary study failed: its network used neither the text nor the other
points (docs/initialization.md). Hence the larger initial weights, the text vector added to every point, noise levels
drawn where shapes are decided, ten times the steps, and a probe that logs during training how much the text helps.
"""

import argparse
import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.embedded import views, world
from pipeline.embedded.shape_gate import Vectors, clouds_of, gate, measure, vectors_of
from pipeline.embedded.training import TrainingPlan, fit, log
from pipeline.embedded.training_context import TrainingContext
from sctd.point_e import (
    DiffusionConfig,
    PointDiffusionTransformer,
    PointEConfig,
    SamplerConfig,
    load,
    to_files,
)
from sctd.point_e.diffusion import alphas_cumprod

__all__ = ["CONFIG", "gate", "measure", "run", "train"]

CONFIG = PointEConfig(
    n_ctx=512,
    width=128,
    layers=5,
    heads=4,
    init_scale=1.0,  # OpenAI's 0.25 starts nearly linear and ignores the other points for thousands of steps
    token_cond=False,
    time_token_cond=False,
    clip_width=192,
    axes="world",
    diffusion=DiffusionConfig(channel_scales=(1.0, 1.0, 1.0, *[2 / 255] * 3)),  # the unit ball is the range of x0
    sampler=SamplerConfig(steps=20, sigma_min=0.02, sigma_max=20.0, s_churn=3.0, guidance_scale=2.5),
)
POOL = 1024  # points stored per scene; a step draws some of them
SCENES_PER_TASK = 500
SIGMA_DATA = 0.4  # root mean square of a coordinate
LOG_SIGMA_MEAN, LOG_SIGMA_STD = -0.4, 1.3  # of the drawn noise levels: shapes are decided between 0.2 and 3
LARGEST_WEIGHT = 50.0
COLOUR_WEIGHT = 0.5  # of a colour channel's error relative to a coordinate's
PROBE_SIGMAS = (0.1, 0.3, 1.0, 3.0)  # noise levels of the probe
GUIDANCE, TUNING_SEED = (1.0, 2.0, 3.0, 5.0), 600_001  # guidance scales tried after training
TEXT_PROBABILITY = 0.9  # share of examples with text; the others train the unconditional prediction


# ---- data -----------------------------------------------------------------------------------------------------------


def draw_scenes(task: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """`count` scenes from a seed: all rows, the number of rows and two texts of each scene."""
    seed, count = task
    rng = np.random.default_rng(seed)
    scenes = [world.random_scene(rng) for _ in range(count)]
    texts = [(scene.phrase, views.caption(rng, scene.phrase, 0.0, 0.0, views.GRADIENT, 0.2)) for scene in scenes]
    rows, _, counts = world.table(scenes)
    return rows, counts, texts


def draw_all(scenes: int, seed: int, workers: int) -> tuple[np.ndarray, np.ndarray, list[tuple[str, str]]]:
    """`scenes` training scenes in `workers` processes; the result does not depend on their number."""
    tasks = [
        (seed * 1_000_003 + 500_000 + n, min(SCENES_PER_TASK, scenes - start))
        for n, start in enumerate(range(0, scenes, SCENES_PER_TASK))
    ]
    if workers > 1:
        # A process that has used CUDA must not fork.
        method = "spawn" if torch.cuda.is_initialized() else "fork"
        with multiprocessing.get_context(method).Pool(workers) as pool:
            parts = pool.map(draw_scenes, tasks, chunksize=1)
    else:
        parts = [draw_scenes(task) for task in tasks]
    rows, counts, texts = zip(*parts, strict=True)
    return np.concatenate(rows), np.concatenate(counts), [pair for part in texts for pair in part]


# ---- training -------------------------------------------------------------------------------------------------------


class Noise:
    """Noise levels of the schedule, on the device, and the weight of the error in ε at each."""

    def __init__(self, config: DiffusionConfig, device: str):
        self.alphas = torch.from_numpy(alphas_cumprod(config)).to(device, torch.float32)
        self.sigmas = ((1 - self.alphas) / self.alphas).sqrt()
        # Karras et al. 2022 weigh the error in x0 by 1/σ² + 1/σ_data²; in ε = (x - x0) / σ that is 1 + σ²/σ_data².
        self.weights = (1 + (self.sigmas / SIGMA_DATA) ** 2).clamp(max=LARGEST_WEIGHT)

    def draw(self, count: int) -> Tensor:
        """Timesteps with a normally distributed log σ, most of them where shapes are decided."""
        log_sigma = LOG_SIGMA_MEAN + LOG_SIGMA_STD * torch.randn(count, device=self.sigmas.device)
        return torch.bucketize(log_sigma.exp(), self.sigmas).clamp(max=len(self.sigmas) - 1)

    def add(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x_t and the ε in it."""
        eps, alpha = torch.randn_like(x0), self.alphas[t][:, None, None]
        return alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps, eps


def fit_shape(
    model: PointDiffusionTransformer,
    clouds: Tensor,
    texts: Tensor,
    plan: TrainingPlan,
    *,
    batch: int = 256,
    lr: float = 1e-3,
    warmup: int = 500,
    compiled: bool = True,
) -> dict[str, float]:
    """Minimise the weighted error in ε; `clouds` [S, P, 6], `texts` [S, K, width]. The model then holds the EMA."""
    device, points = clouds.device.type, model.config.n_ctx
    noise = Noise(model.config.diffusion, device)
    channels = torch.tensor([1.0] * 3 + [COLOUR_WEIGHT] * 3, device=device)[:, None]
    predict = torch.compile(model) if compiled else model
    model.to(device).train().requires_grad_(True)

    def step(n: int) -> tuple[Tensor, dict[str, Tensor]]:
        if n % 500 == 0:
            log(
                "shape",
                n,
                "rms error of x y z with | without | wrong text | oracle",
                _format_errors(probe(model, clouds, texts)),
            )
        scene = torch.randint(len(clouds), (batch,), device=device)
        first = torch.randint(clouds.shape[1], (batch, 1), device=device)
        window = (first + torch.arange(points, device=device)) % clouds.shape[1]
        x0 = clouds[scene[:, None], window].float().transpose(1, 2)
        text = texts[scene, torch.randint(texts.shape[1], (batch,), device=device)].float()
        text = text * (torch.rand(batch, 1, device=device) < TEXT_PROBABILITY)
        t = noise.draw(batch)
        x_t, eps = noise.add(x0, t)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            predicted = predict(x_t, t, text)[:, :6]
        error = (predicted.float() - eps) ** 2
        loss = (noise.weights[t] * (channels * error).mean((1, 2))).mean()
        return loss, {"xyz": error[:, :3].mean(), "rgb": error[:, 3:].mean()}

    done = fit("shape", list(model.parameters()), step, plan, lr=lr, warmup=warmup, weight_decay=0.01, log_every=500)
    model.eval().requires_grad_(False)
    log(
        "shape",
        "EMA: rms error of x y z with | without | wrong text | oracle",
        _format_errors(probe(model, clouds, texts)),
    )
    return done


@torch.no_grad()
def probe(model: PointDiffusionTransformer, clouds: Tensor, texts: Tensor, count: int = 64) -> dict[float, list[float]]:
    """Root mean square error of the predicted x y z by noise level: with its text, without text, with a wrong text;
    and the error of an oracle that knows the scene.

    Points are independent draws from a surface, so even the oracle's error is large: it is the lower bound. A network
    that uses neither text nor other points is 0.02 above it. The wrong text must increase the error once text is used.
    """
    noise, device, points = Noise(model.config.diffusion, clouds.device.type), clouds.device, model.config.n_ctx
    count = count if device.type == "cuda" else min(count, 8)
    x0 = clouds[:count, :points].float().transpose(1, 2)
    right = texts[:count, 0].float()
    found = {}
    for sigma in PROBE_SIGMAS:
        t = torch.bucketize(torch.full((len(x0),), sigma, device=device), noise.sigmas)
        x_t, eps = noise.add(x0, t)
        errors = [
            (model(x_t, t, text)[:, :3] - eps[:, :3]).square().mean() for text in (right, 0 * right, right.roll(1, 0))
        ]
        known = posterior_mean((x0 + sigma * eps).transpose(1, 2), clouds[:count, points:].float(), sigma)
        oracle = (known.transpose(1, 2) - x0)[:, :3].square().mean()
        found[sigma] = [*(sigma * math.sqrt(error) for error in errors), math.sqrt(oracle)]
    return found


def posterior_mean(noised: Tensor, surface: Tensor, sigma: float) -> Tensor:
    """E[x0 | x0 + σ ε] for x0 uniform over the surface's points: [B, P, C], [B, Q, C] → [B, P, C]."""
    return (-torch.cdist(noised, surface).square() / (2 * sigma**2)).softmax(-1) @ surface


def _format_errors(errors: dict[float, list[float]]) -> str:
    return "; ".join(f"σ={sigma:g}: {' | '.join(f'{e:.3f}' for e in row)}" for sigma, row in errors.items())


# ---- commands -------------------------------------------------------------------------------------------------------


def run(
    scorer: Path,
    out: Path,
    plan: TrainingPlan,
    *,
    scenes: int,
    seed: int,
    workers: int,
    device: str,
    compiled: bool,
    init: Path | None = None,
    batch: int = 256,
) -> dict[str, float]:
    """Draw the data, train, write the folder, and measure the model after training has finished."""
    rows, counts, pairs = draw_all(scenes, seed, workers)
    log("shape", f"{len(counts)} scenes, {len({text for pair in pairs for text in pair})} texts")
    vectors = vectors_of(scorer, device)
    texts = vectors([text for pair in pairs for text in pair]).view(len(pairs), 2, -1)
    clouds = clouds_of(rows, counts, POOL, seed, device)
    log("shape", "clouds", tuple(clouds.shape), "rms", clouds.float().square().mean((0, 1)).sqrt().tolist())
    model = load(init) if init else PointDiffusionTransformer(CONFIG)
    record = fit_shape(model, clouds, texts, plan, batch=batch, compiled=compiled)
    write(model, out)
    if record["finished"] and torch.device(device).type == "cuda":
        write(tuned(model, vectors, device), out)
        record |= measure(model, vectors, device)
        log("shape", record)
    return record


def tuned(model: PointDiffusionTransformer, vectors: Vectors, device: str) -> PointDiffusionTransformer:
    """The model with the best of a few guidance scales, measured as in the gate but with another seed."""

    def quality(scale: float) -> tuple[float, float]:
        model.config = replace(model.config, sampler=replace(model.config.sampler, guidance_scale=scale))
        found = measure(model, vectors, device, colors=2, seed=TUNING_SEED)
        log("shape", "guidance", scale, found)
        return found["shape_nearest_class"], -found["shape_chamfer"]

    best = max(GUIDANCE, key=quality)
    model.config = replace(model.config, sampler=replace(model.config.sampler, guidance_scale=best))
    return model


def write(model: PointDiffusionTransformer, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, content in to_files(model).items():
        (out / name).write_bytes(content)


def train(context: TrainingContext) -> dict[str, float]:
    """The stage `shape` of build.py."""
    return run(
        context.out / "scorer",
        context.out / "shape",
        context.plan("shape"),
        scenes=context.scenes,
        seed=context.seed,
        workers=context.workers,
        device=context.device,
        compiled=context.compiled,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", type=Path, required=True, help="folder of the trained scorer")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--state", type=Path, default=Path(".embedded/shape.pt"), help="training state to resume from")
    parser.add_argument("--init", type=Path, default=None, help="folder of a model to start from")
    parser.add_argument("--seconds", type=float, default=390.0, help="duration of the training")
    parser.add_argument(
        "--part-seconds", type=float, default=math.inf, help="save and stop when the process has run this long"
    )
    parser.add_argument("--steps", type=int, default=None, help="number of steps, instead of the seconds")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    run(
        args.scorer,
        args.out,
        TrainingPlan(args.seconds, args.state, args.steps, args.part_seconds),
        scenes=args.scenes,
        seed=args.seed,
        workers=args.workers,
        device=args.device,
        compiled=args.compile,
        init=args.init,
        batch=args.batch,
    )


if __name__ == "__main__":
    main()
