#!/usr/bin/env bash
# torchmetrics' KID and Inception score draw from torch's global generator: scoring changes what is trained afterwards.
#
# Version: torchmetrics 1.9.0 with torch 2.13.0.
# Guess: `compute` is a function of the features; it leaves the random numbers of the program alone, or uses a seed of its own.
# Instead: KernelInceptionDistance chooses its subsets, and InceptionScore shuffles before its splits, by torch.randperm. A run with
#   a seed goes another way after its first validation than the same run without it, and the value for the same features depends
#   on what was drawn before (KID here by 3 %). FID has neither effect.
# Why it matters: "seeded" distillation gives another asset when its validation interval changes, and two evaluations of one
#   folder disagree. Wrap compute in torch.random.fork_rng() and seed inside it.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torchmetrics==1.9.0 torch==2.13.0 scipy==1.16.3 numpy==2.3.5 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import warnings

import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

warnings.simplefilter("ignore")


class Features(torch.nn.Module):
    """Sixteen features of an image instead of Inception's."""

    num_features = 16

    def forward(self, images):
        return torch.nn.functional.avg_pool2d(images.float() / 255, 8).flatten(1)[:, :16]


def images(seed, brightness):
    noise = torch.randint(0, 200, (120, 3, 32, 32), generator=torch.Generator().manual_seed(seed))
    return (noise + brightness).byte()


METRICS = {
    "FID": lambda: FrechetInceptionDistance(feature=Features(), input_img_size=(3, 32, 32)),
    "KID": lambda: KernelInceptionDistance(feature=Features(), subset_size=40, subsets=20),
    "Inception score": lambda: InceptionScore(feature=Features()),
}


def run(make, seed, *, scored=True):
    """The value for the same 120 renders, and the first number that a training with this seed draws afterwards."""
    metric, value = make(), None
    if isinstance(metric, InceptionScore):
        metric.update(images(1, 0))
    else:
        metric.update(images(0, 10), real=True)
        metric.update(images(1, 0), real=False)
    torch.manual_seed(seed)
    if scored:
        result = metric.compute()
        value = float(result[0] if isinstance(result, tuple) else result)
    return value, float(torch.rand(()))


found = {}
for name, make in METRICS.items():
    values = [run(make, seed)[0] for seed in range(4)]
    moved = run(make, 0)[1] != run(make, 0, scored=False)[1]
    found[name] = moved, len(set(values)) > 1
    print(f"{name}: " + ", ".join(f"{value:.6g}" for value in values) + f" after seeds 0 to 3; moves the generator: {moved}")
expected = {"FID": (False, False), "KID": (True, True), "Inception score": (True, True)}
raise SystemExit(0 if found == expected else "this has changed")
PYTHON
