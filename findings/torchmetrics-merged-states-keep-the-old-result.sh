#!/usr/bin/env bash
# torchmetrics: merge_state and load_state_dict after a compute() change the state, and compute() still gives the old result.
#
# Version: torchmetrics 1.9.0 with torch 2.13.0.
# Guess: compute() keeps its result until the state changes, by whatever method.
# Instead: only update(), forward() and reset() discard the kept result. A metric that has computed once and then gets the states of
#   other workers by merge_state(), or of a checkpoint by load_state_dict(), shows the merged sums in its attributes and returns
#   its own old number. Without the first compute() (a look at the progress), the result is right. Nothing warns.
# Why it matters: evaluation in shards ends in merge_state. If the first shard was printed before, the number of the whole benchmark
#   is that of the first shard. Merge into a fresh metric, or pass compute_with_cache=False.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torchmetrics==1.9.0 torch==2.13.0 numpy 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import warnings

import torch
from torchmetrics import MeanMetric
from torchmetrics.image import PeakSignalNoiseRatio

warnings.simplefilter("error")
good, bad = 0.01, 0.1  # errors of two shards of renders


def shard(kind, error, **options):
    """A metric that has seen one shard."""
    target = torch.full((4, 3, 8, 8), 0.5)
    metric = kind(**options)
    metric.update(*((target + error, target) if kind is PeakSignalNoiseRatio else (error,)))
    metric.persistent(True)
    return metric


def result(kind, *, looked, how, **options):
    """The result of a good shard after the state of a bad one has come in."""
    one, other = shard(kind, good, **options), shard(kind, bad, **options)
    if looked:
        one.compute()
    one.merge_state(other) if how == "merge_state" else one.load_state_dict(other.state_dict())
    return round(float(one.compute()), 4)


is_as_stated = True
for kind, options in ((MeanMetric, {}), (PeakSignalNoiseRatio, {"data_range": 1.0})):
    alone = round(float(shard(kind, good, **options).compute()), 4)
    for how in ("merge_state", "load_state_dict"):
        fresh, stale = (result(kind, looked=looked, how=how, **options) for looked in (False, True))
        uncached = result(kind, looked=True, how=how, compute_with_cache=False, **options)
        print(f"{kind.__name__}, {how}: {fresh}; after an earlier compute() {stale} (of the first shard: {alone}), uncached {uncached}")
        is_as_stated &= stale == alone != fresh == uncached
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
