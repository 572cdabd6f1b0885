"""What `fd@embedded` is measured from: the moments of pictures by the prior, 1,250 of each prompt of a suite.

`python -m pipeline.embedded.reference`: a minute of a GPU. The prompts stand as they are: no template, no view word.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from evaluation.clip_score import ClipScorer
from evaluation.features import ClipTower
from evaluation.fid import Moments
from evaluation.references import Reference, to_bytes
from pipeline import prompts
from pipeline.embedded import weights_folder
from pipeline.embedded.training import log
from pipeline.models import EMBEDDED, Weights
from sctd.prior import StableDiffusionPrior

GUIDANCE_SCALE, STEPS, SEED = 7.5, 25, 2_000_000
KEPT = 25  # features a prompt that go into the file, for the kernel distance


def build(weights: Weights, suite: str, per_prompt: int, device: str) -> Reference:
    """Sample, look, add up. The pictures of prompt i are the batch of seed SEED + i."""
    prior = StableDiffusionPrior.load(weights.part("prior"), device)
    tower = ClipTower(ClipScorer.load(weights.part("scorer"), device, weights.name))
    moments, kept = None, []
    texts = [prompt.text for prompt in prompts.suite(suite)]
    for i, text in enumerate(texts):
        generator = torch.Generator().manual_seed(SEED + i)
        images = prior.sample([text] * per_prompt, GUIDANCE_SCALE, STEPS, generator)
        views = images.clamp(0, 1).mul(255).add(0.5).floor().byte().permute(0, 2, 3, 1).cpu().numpy()
        features = tower(views)
        moments = Moments.of(features) if moments is None else moments + Moments.of(features)
        kept.append(features[:KEPT])
        log(text, len(features))
    if moments is None:
        raise ValueError(f"The suite {suite} has no prompts.")
    made_of = {
        "network": tower.name,
        "weights": tower.weights,
        "prior": weights.digests["prior"],
        "suite": suite,
        "prompts": texts,
        "per_prompt": per_prompt,
        "guidance_scale": GUIDANCE_SCALE,
        "steps": STEPS,
        "seed": SEED,
    }
    return Reference(moments, np.concatenate(kept), made_of)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=weights_folder())
    parser.add_argument("--suite", default="embedded40")
    parser.add_argument("--per-prompt", type=int, default=1250)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="default WEIGHTS/reference.npz")
    args = parser.parse_args()
    reference = build(Weights(EMBEDDED, args.weights), args.suite, args.per_prompt, args.device)
    (args.out or args.weights / "reference.npz").write_bytes(to_bytes(reference))
    log(f"{reference.moments.count} pictures, key {reference.key[:16]}")


if __name__ == "__main__":
    main()
