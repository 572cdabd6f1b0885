#!/usr/bin/env bash
# torchmetrics' RetrievalMRR and RetrievalMAP: a right answer with a negative score does not exist, even if it is ranked first.
#
# Version: torchmetrics 1.9.0 with torch 2.13.0.
# Guess: ranks depend on the order of the scores alone, so a constant added to all scores changes nothing.
# Instead: relevant items whose score is not above 0 are taken out before ranking. An object whose own prompt has the best score,
#   -0.1 against -0.5 and less, has reciprocal rank and average precision 0. RetrievalHitRate, RetrievalRPrecision and
#   RetrievalNormalizedDCG rank the same scores right, and nothing warns.
# Why it matters: ImageReward, HPS and other reward models give negative scores for half of all renders, and log-probabilities
#   always do. Their MRR counts only objects with a positive reward: it measures the reward, not the ranking. Pass scores
#   through a sigmoid, which keeps their order.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torchmetrics==1.9.0 torch==2.13.0 numpy 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import torch
from torchmetrics.retrieval import (
    RetrievalHitRate,
    RetrievalMAP,
    RetrievalMRR,
    RetrievalNormalizedDCG,
    RetrievalRPrecision,
)

OBJECTS, PROMPTS = 200, 10
generator = torch.Generator().manual_seed(0)
rewards = torch.randn(OBJECTS, PROMPTS, generator=generator)  # of standard deviation 1 around 0, as ImageReward is
rewards[:, 0] = rewards.amax(1) + 0.1  # the right prompt is first everywhere ...
rewards -= 1.5  # ... and often below 0
metrics = {
    "MRR": RetrievalMRR,
    "MAP": RetrievalMAP,
    "hit rate": lambda: RetrievalHitRate(top_k=1),
    "R-precision": RetrievalRPrecision,
    "NDCG": RetrievalNormalizedDCG,
}


def value(kind, scores):
    metric = kind()
    for number, row in enumerate(scores):
        metric.update(row, torch.arange(PROMPTS) == 0, indexes=torch.full((PROMPTS,), number))
    return round(float(metric.compute()), 3)


positive = round(float((rewards[:, 0] > 0).float().mean()), 3)
print(f"the right prompt has the highest reward for all objects, and a positive one for {positive}")
found = {name: (value(kind, rewards), value(kind, rewards + 10), value(kind, rewards.sigmoid())) for name, kind in metrics.items()}
for name, (plain, shifted, sigmoid) in found.items():
    print(f"{name}: {plain}; of reward + 10: {shifted}; of sigmoid(reward): {sigmoid}")
is_as_stated = all(found[name] == ((positive if name in ("MRR", "MAP") else 1.0), 1.0, 1.0) for name in metrics)
raise SystemExit(0 if is_as_stated and 0.1 < positive < 0.9 else "this has changed")
PYTHON
