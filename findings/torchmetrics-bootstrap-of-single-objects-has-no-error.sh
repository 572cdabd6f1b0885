#!/usr/bin/env bash
# torchmetrics' BootStrapper with multinomial sampling and one object per update: the standard error is exactly 0.
#
# Version: torchmetrics 1.9.0 with torch 2.13.0.
# Guess: it bootstraps the data set, so the error of a mean is about s / sqrt(n), however the data are cut into updates.
# Instead: it draws within each update. An update of one object can only draw that object, so all replicas are equal and std
#   is 0.0; with k objects per update it is too small by about sqrt(1 - 1/k): 0.7 for two. Poisson sampling, the
#   default, does not have this. Nothing warns.
# Why it matters: text-to-3D benchmarks update once per object, because its views depend on each other. A leaderboard with
#   "± 0.000" makes every difference significant. Use poisson, or bootstrap the list of per-object scores.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torchmetrics==1.9.0 torch==2.13.0 numpy 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import torch
from torchmetrics import MeanMetric
from torchmetrics.wrappers import BootStrapper

REPLICAS = 300
scores = 25 + 3 * torch.randn(120, generator=torch.Generator().manual_seed(0))  # CLIP scores of 120 objects
truth = float(scores.std()) / len(scores) ** 0.5


def error(strategy, size):
    torch.manual_seed(1)
    metric = BootStrapper(MeanMetric(), num_bootstraps=REPLICAS, sampling_strategy=strategy)
    for part in scores.split(size):
        metric.update(part)
    return float(metric.compute()["std"])


print(f"s / sqrt(n) = {truth:.3f}")
found = {}
for strategy in ("multinomial", "poisson"):
    for size in (1, 2, 4, len(scores)):
        found[strategy, size] = error(strategy, size)
        print(f"{strategy}, {size} objects per update: {found[strategy, size]:.3f}")
is_as_stated = (
    found["multinomial", 1] < 1e-4
    and 0.5 < found["multinomial", 2] / truth < 0.85
    and abs(found["multinomial", len(scores)] / truth - 1) < 0.15
    and abs(found["poisson", 1] / truth - 1) < 0.15
)
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
