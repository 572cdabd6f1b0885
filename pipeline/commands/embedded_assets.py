"""Recognition and orientation of a run's assets: `python -m pipeline.commands.embedded_assets RUN`.

An asset is recognised if, among the run's prompts, its own has the highest mean cosine over the views. An object with a
front passes if "…, front view" scores higher than "…, back view" at azimuth 0 and lower at 180°, both at the elevation
of the evaluation camera. The back of a portrait is not tested, because no training camera shows it.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from evaluation.clip_score import ClipScorer
from evaluation.statistics import mean_over_prompts, paired_difference
from pipeline.assets import objects
from pipeline.assets.objects import Viewed
from pipeline.embedded import weights_folder, world
from pipeline.store import manifest
from pipeline.store.run_folder import Store
from sctd.scene.cameras import orbit


class Found(NamedTuple):
    """One asset: method, prompt, whether it is recognised, and its front and back tests (None: not tested)."""

    method: str
    prompt: str
    cosine: float
    named: bool
    front: bool | None
    back: bool | None


def look(run: Path, scorer: ClipScorer) -> list[Found]:
    """Every scored asset of a run folder, in the order of its jobs."""
    store = Store(run)
    settings = manifest.read(store)
    texts = settings.prompts
    features = scorer.text_features(texts)
    found = []
    for job in settings.jobs:
        folder = store.item(job.job_id)
        if not (folder / "evaluation.npz").exists():
            continue
        with np.load(folder / "evaluation.npz") as file:
            cosines = (file["image_features"] @ features.T).mean(0)
        front, back = _sides(job.prompt, objects.of_item(folder), scorer)
        if not _sees_backs(settings.recipes.get(job.method, {})):
            back = None
        right = texts.index(job.prompt)
        named = int(cosines.argmax()) == right
        found.append(Found(job.method, job.prompt, float(cosines[right]), named, front, back))
    return found


def _sees_backs(recipe: dict[str, Any]) -> bool:
    """Whether the training cameras surround the object; a portrait's stay within ±90° of the front."""
    low, high = recipe.get("cameras", {}).get("azimuth_degrees", (-180, 180))
    return high - low >= 360


@torch.no_grad()
def _sides(prompt: str, asset: Viewed, scorer: ClipScorer) -> tuple[bool | None, bool | None]:
    try:
        name = world.parse(prompt)[0]
    except ValueError:  # not a prompt of the synthetic world
        return None, None
    if name not in world.TYPES or not world.has_front(name):
        return None, None
    views = asset.views(orbit(2, 0.0, 3.5, 0.55, 64), "cpu")
    captions = scorer.text_features([f"{prompt}, front view", f"{prompt}, back view"])
    cosines = scorer.image_features(views) @ captions.T
    return bool(cosines[0, 0] > cosines[0, 1]), bool(cosines[1, 1] > cosines[1, 0])


def summary(found: list[Found]) -> str:
    """Markdown: a row per method, and paired differences of the cosines from sctd, or else from the first method."""
    lines = ["| method | assets | recognised | front at 0° | back at 180° | cosine |", "|---|---|---|---|---|---|"]
    by_method = {method: [f for f in found if f.method == method] for method in dict.fromkeys(f.method for f in found)}
    for method, assets in by_method.items():
        fronts = [f.front for f in assets if f.front is not None]
        backs = [f.back for f in assets if f.back is not None]
        mean = mean_over_prompts(np.array([f.cosine for f in assets]))
        error = "" if mean.standard_error is None else f" ± {mean.standard_error:.4f}"
        cells = [
            f"{sum(f.named for f in assets)} of {len(assets)}",
            f"{sum(fronts)} of {len(fronts)}",
            f"{sum(backs)} of {len(backs)}",
            f"{mean.value:.4f}{error}",
        ]
        lines.append(f"| {method} | {len(assets)} | " + " | ".join(cells) + " |")
    if len(by_method) > 1:
        reference = "sctd" if "sctd" in by_method else next(iter(by_method))
        lines += ["", *(_against(reference, method, by_method) for method in by_method if method != reference)]
    wrong = [f"{f.prompt} ({f.method})" for f in found if not f.named]
    turned = [f"{f.prompt} ({f.method})" for f in found if f.front is False or f.back is False]
    lines.append(
        f"\nNot recognised: {', '.join(wrong) or 'none'}.\nFront or back wrong: {', '.join(turned) or 'none'}."
    )
    return "\n".join(lines)


def _against(reference: str, method: str, by_method: dict[str, list[Found]]) -> str:
    """The mean of method − reference over the prompts that both generated."""
    ours, theirs = ({f.prompt: f.cosine for f in by_method[name]} for name in (method, reference))
    both = [prompt for prompt in ours if prompt in theirs]
    if not both:
        return f"{method} − {reference}: no prompt in common"
    pairs = np.array([[ours[prompt], theirs[prompt]] for prompt in both])
    mean = paired_difference(pairs[:, 0], pairs[:, 1], np.random.default_rng(0)).mean
    interval = "" if mean.low is None else f", 95 % interval {mean.low:+.4f} to {mean.high:+.4f}"
    return f"{method} − {reference}, paired over {mean.prompts} prompts: {mean.value:+.4f}{interval}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    print(summary(look(args.run, ClipScorer.load(weights_folder() / "scorer"))))


if __name__ == "__main__":
    main()
