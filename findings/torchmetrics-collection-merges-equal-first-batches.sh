#!/usr/bin/env bash
# torchmetrics' MetricCollection and two metrics that agree on the first batch: the second one is never computed again.
#
# Version: torchmetrics 1.9.0 with torch 2.9.1.
# Guess: a collection gives the same values as its metrics would on their own; metrics share a computation only if they are
#   defined to have the same state.
# Instead: after the first update, the collection compares the states by value and merges metrics whose states happen to be
#   equal, whatever their arguments are. From then on only the first of them is updated, and both report from its state.
#   Here: silhouettes of renders at two alpha thresholds, where the first asset is opaque. The stricter IoU comes out equal to
#   the looser one, without a warning. With the second asset first, both values are right, so the order of the data decides.
# Why it matters: R-precision at 1 and at 5, IoU at two thresholds, or one metric with two prompt sets often agree on an easy
#   first asset. Pass compute_groups=False, or give each metric a state that holds its arguments, as this project's metrics do.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torchmetrics==1.9.0 torch==2.9.1 numpy 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import torch
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryJaccardIndex

THRESHOLDS = {"iou_50": 0.5, "iou_90": 0.9}
y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
disc = (x**2 + y**2 < 0.5).int()
opaque = 0.98 * disc + 0.01  # alpha of a render with a hard edge
soft = (1.5 - 2 * (x**2 + y**2)).clamp(0.01, 0.99)  # alpha that falls off towards the edge, as of blurred Gaussians


def metrics():
    return {name: BinaryJaccardIndex(threshold=threshold) for name, threshold in THRESHOLDS.items()}


def values(assets, **options):
    collection = MetricCollection(metrics(), **options)
    for alpha in assets:
        collection.update(alpha, disc)
    return {name: round(value.item(), 4) for name, value in collection.compute().items()}


def alone(assets):
    found = {}
    for name, metric in metrics().items():
        for alpha in assets:
            metric.update(alpha, disc)
        found[name] = round(metric.compute().item(), 4)
    return found


truth = alone([opaque, soft])
print("each metric alone:                 ", truth)
print("collection, opaque asset first:    ", merged := values([opaque, soft]))
print("collection, soft asset first:      ", values([soft, opaque]))
print("collection, compute_groups=False:  ", separate := values([opaque, soft], compute_groups=False))
is_as_stated = (
    truth["iou_90"] < truth["iou_50"] - 0.1
    and merged["iou_90"] == merged["iou_50"]
    and separate == truth == values([soft, opaque])
)
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
