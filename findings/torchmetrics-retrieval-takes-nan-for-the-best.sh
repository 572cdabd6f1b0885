#!/usr/bin/env bash
# torchmetrics' hit rate and R-precision rank a NaN similarity first: one bad text vector fails every other object.
#
# Version: torchmetrics 1.9.0 with torch 2.13.0.
# Guess: NaN is refused, as other invalid predictions are, or counts as a miss.
# Instead: the scores are sorted in descending order, and torch sorts NaN to the front. If the vector of one prompt is NaN,
#   RetrievalHitRate(top_k=1) and RetrievalRPrecision call its own object a hit, and all other objects misses, although each
#   is most similar to its prompt. RetrievalMRR calls the same object a complete miss. Nothing warns.
# Why it matters: a text encoder in float16 can overflow for one prompt. The R-precision of a whole suite then falls from 1 to
#   1/n, and the one object that cannot be scored is the only one that counts as right. Check features before ranking.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torchmetrics==1.9.0 torch==2.13.0 numpy 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import math
import warnings

import torch
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalRPrecision

warnings.simplefilter("error")
NUM = 10
generator = torch.Generator().manual_seed(0)
texts = torch.nn.functional.normalize(torch.randn(NUM, 64, generator=generator), dim=1)
images = torch.nn.functional.normalize(texts + 0.05 * torch.randn(NUM, 64, generator=generator), dim=1)


def values(similarity):
    """By metric: over all objects, over the others than object 0, and of object 0."""
    found = {}
    for name, kind in {"hit": lambda: RetrievalHitRate(top_k=1), "r": RetrievalRPrecision, "mrr": RetrievalMRR}.items():
        for part, rows in {"all": range(NUM), "others": range(1, NUM), "own": [0]}.items():
            metric = kind()
            for row in rows:
                metric.update(similarity[row], torch.arange(NUM) == row, indexes=torch.full((NUM,), row))
            found[name, part] = round(float(metric.compute()), 2)
    return found


finite = values(images @ texts.T)
texts[0] = math.nan
broken = values(images @ texts.T)
for key in finite:
    print(f"{key[0]} of {key[1]}: {finite[key]} with finite vectors, {broken[key]} with prompt 0 NaN")
is_as_stated = set(finite.values()) == {1.0} and all(
    (broken[name, "all"], broken[name, "others"], broken[name, "own"]) == (0.1, 0.0, 1.0) for name in ("hit", "r")
)
raise SystemExit(0 if is_as_stated and broken["mrr", "own"] == 0 else "this has changed")
PYTHON
