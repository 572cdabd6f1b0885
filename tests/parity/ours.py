"""What this program's modules make of the inputs, by the names of `comparison.QUANTITIES`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from evaluation.clip_score import ClipScorer
from evaluation.fid import Moments, frechet_distance
from evaluation.image_reward import ImageReward
from evaluation.inception import SIZE, InceptionTower, clean_resize
from evaluation.kid import kernel_distance
from tests.parity.inputs import HUB, INCEPTION, images_in

CLIP = {"clip_l14": "ViT-L-14.pt", "clip_b32": "ViT-B-32"}
RESIZED = ("512", "64", "37x91")


def scores(inputs: Path, keys: set[str]) -> dict[str, np.ndarray]:
    """These quantities."""
    found: dict[str, np.ndarray] = {}
    prompts, views = json.loads((inputs / "prompts.json").read_text()), images_in(inputs / "scored")

    def table(score: Callable[[np.ndarray, str], np.ndarray]) -> np.ndarray:
        return np.array([[float(score(view[None], prompt)[0]) for prompt in prompts] for view in views])

    if "reward" in keys:
        found["reward"] = table(ImageReward.load(inputs / "reward").score)
    for name in keys & set(CLIP):
        scorer = ClipScorer.load(inputs / "clip" / CLIP[name])
        scorer.keep(texts=prompts)
        found[name] = table(scorer.score)
    return found | _distances(inputs, keys)


def _distances(inputs: Path, keys: set[str]) -> dict[str, np.ndarray]:
    with np.load(inputs / "features.npz") as arrays:
        a, b = arrays["a"], arrays["b"]
    found = {"frechet": np.array(frechet_distance(Moments.of(a), Moments.of(b)))}
    found["kid"] = np.array(kernel_distance(list(a[:, None]), b[: len(a)]).value / 1000)
    generated, reference = (np.stack(images_in(inputs / name)) for name in ("generated", "reference"))
    found |= {
        f"resized_{name}": np.moveaxis(clean_resize(view[None])[0].numpy(), 0, 2) for name, view in resized(generated)
    }
    weights = inputs / "inception" / HUB / f"weights-inception-{INCEPTION}"
    for name in ("clean", "tf", "half_pixel"):
        if f"features_{name}" not in keys:
            continue
        tower = InceptionTower.load(weights, "tf" if name == "tf" else "clean")
        if name == "half_pixel":  # no metric of this program, so in the original's precision, five times as fast
            tower = InceptionTower.load(weights, dtype=torch.float32)
            tower.resize = half_pixel_resize
        ours, theirs = tower(generated), tower(reference)
        found[f"features_{name}"] = np.concatenate([ours, theirs])
        found[f"fid_{name}"] = np.array(frechet_distance(Moments.of(ours), Moments.of(theirs)))
        found[f"kid_{name}"] = np.array(kernel_distance(list(ours[:, None]), theirs).value / 1000)
    return found


def resized(generated: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """A view and two parts of it: one that is enlarged, and one of another shape than square."""
    return list(
        zip(RESIZED, (generated[0], generated[0, 224:288, 224:288], generated[0, 200:237, 200:291]), strict=True)
    )


def half_pixel_resize(views: np.ndarray) -> torch.Tensor:
    """pytorch-fid's pixels: torch's bilinear with half-pixel centres, x / 127.5 - 1, in `InceptionTower`'s scale."""
    pixels = torch.from_numpy(views).permute(0, 3, 1, 2).float() / 255
    sized = torch.nn.functional.interpolate(pixels, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return 256 * sized
