"""The gate of the bundled Point-E: its point clouds compared with true point clouds of all types of the world.

A point cloud counts as right if, of all types, true objects of the requested type are nearest by Chamfer distance.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.embedded import raytrace, tokenizer, views, world
from pipeline.embedded.training import log
from sctd.point_e import PointDiffusionTransformer, load, sample_point_clouds

Vectors = Callable[[list[str]], Tensor]


def clouds_of(rows: np.ndarray, counts: np.ndarray, points: int, seed: int, device: str) -> Tensor:
    """Point clouds of the surfaces as network channels: x y z, rgb in -1..1; [scenes, points, 6], half on CUDA."""
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    clouds = torch.empty(len(counts), points, 6, dtype=dtype, device=device)
    ends = np.cumsum(counts)
    for start in range(0, len(counts), 10_000):
        part = counts[start : start + 10_000]
        first = ends[start] - counts[start]
        starts = (np.cumsum(part) - part).astype(np.int32)
        part_rows = rows[first : ends[start + len(part) - 1]]
        cloud = raytrace.surface_points(part_rows, starts, part, points, seed + start * points, device)
        cloud[..., 3:] = 2 * cloud[..., 3:] - 1
        clouds[start : start + len(part)] = cloud
    return clouds


def vectors_of(scorer: Path, device: str) -> Vectors:
    """A function from texts to the scorer's unit vectors [texts, 192]; each distinct text is encoded once."""
    from safetensors.torch import load_file

    from pipeline.embedded import train_scorer

    state = load_file(scorer / "open_clip_model.safetensors")
    model = train_scorer.build_model(state["token_embedding.weight"].shape[0])
    model.load_state_dict({name: value.float() for name, value in state.items()})
    model.to(device).eval()

    def vectors(texts: list[str]) -> Tensor:
        distinct = list(dict.fromkeys(texts))
        place = {text: n for n, text in enumerate(distinct)}
        ids = torch.from_numpy(tokenizer.encode(scorer, distinct)).to(device)
        return train_scorer.text_features(model, ids)[torch.tensor([place[text] for text in texts], device=device)]

    return vectors


def squared_chamfer(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared distance to the nearest point, summed over both directions: [A, P, 3], [B, Q, 3] → [A, B]."""
    rows = []
    for cloud in a:
        product = cloud @ b.transpose(1, 2)
        squared = (cloud.square().sum(-1)[:, None] + b.square().sum(-1)[:, None] - 2 * product).clamp_min(0)
        rows.append(squared.amin(1).mean(1) + squared.amin(2).mean(1))
    return torch.stack(rows)


def truth(names: Sequence[str], colors: Sequence[str], points: int, seed: int, device: str) -> Tensor:
    """Surface points x y z of one new object for each (type, colour): [names, points, 3]."""
    rng = np.random.default_rng(seed)
    rows, _, counts = world.table([world.single(rng, n, c) for n, c in zip(names, colors, strict=True)])
    return clouds_of(rows, counts, points, seed, device)[..., :3].float()


def measure(
    model: PointDiffusionTransformer,
    vectors: Vectors,
    device: str,
    *,
    colors: int = 4,
    templates: int = 4,
    points: int = 512,
    seed: int = 700_001,
) -> dict[str, float]:
    """Share of point clouds whose nearest type by Chamfer distance is the one in the prompt.

    Compares `colors` point clouds of each type with `templates` true objects of each type. The `…_of_truth` values are
    the same for true point clouds: the ceiling of this measurement.
    """
    rng = np.random.default_rng(seed)
    names = [name for name in world.TYPES for _ in range(colors)]
    chosen = [
        views.pick(rng, [c for n, c in world.classes() if n == name and not world.held_out(n, c)]) for name in names
    ]
    generator = torch.Generator().manual_seed(seed)
    text = vectors([world.phrase(*pair) for pair in zip(names, chosen, strict=True)])
    clouds = torch.cat([sample_point_clouds(model, part, generator).coords for part in text.split(512)])
    kinds = world.TYPES * templates
    known = truth(kinds, [world.REGISTRY[name].colors[0] for name in kinds], points, seed + 1, device)
    right = torch.arange(len(world.TYPES), device=device).repeat_interleave(colors)

    def nearest_type(clouds: Tensor) -> tuple[Tensor, Tensor]:
        distance = squared_chamfer(clouds[:, :points], known).view(len(clouds), templates, -1).amin(1)
        return distance.argmin(1), distance[torch.arange(len(clouds), device=device), right].sqrt()

    found, distance = nearest_type(clouds)
    found_truth, distance_truth = nearest_type(truth(names, chosen, points, seed + 2, device))
    mistakes = [f"{names[i]} → {world.TYPES[int(found[i])]}" for i in range(len(names)) if found[i] != right[i]]
    log(
        "shape",
        f"{len(mistakes)} of {len(names)} point clouds are nearest to another type:",
        ", ".join(mistakes[:40]) or "none",
    )
    return {
        "shape_nearest_class": float((found == right).float().mean()),
        "shape_nearest_class_of_truth": float((found_truth == right).float().mean()),
        "shape_chamfer": float(distance.mean()),
        "shape_chamfer_of_truth": float(distance_truth.mean()),
    }


def gate(weights: Path, device: str) -> dict[str, float]:
    """The values of `measure` for a folder of bundled weights; with fewer samples on a CPU."""
    model = load(weights / "shape", device)
    cheap = {} if torch.device(device).type == "cuda" else {"colors": 1, "templates": 2, "points": 256}
    return measure(model, vectors_of(weights / "scorer", device), device, **cheap)
