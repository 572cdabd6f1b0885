#!/usr/bin/env bash
# torchmetrics' SpearmanCorrCoef of equal values is 0, not undefined, so a mean over prompts is too low; KendallRankCorrCoef gives NaN.
#
# Version: torchmetrics 1.9.0 with torch 2.13.0 and scipy 1.17.1.
# Guess: a correlation with a constant is not defined. scipy.stats says NaN and warns, and so does torchmetrics' PearsonCorrCoef.
# Instead: the covariance is divided by the product of the deviations plus 1e-6, which is 0 / 1e-6 = 0. No warning. On the same
#   values KendallRankCorrCoef is NaN, without a warning either.
# Why it matters: a metric is compared with people's ratings within each prompt, and the correlations are averaged. On a scale of
#   five, people often rate all assets of an easy prompt 5 and of a hard one 1. These prompts say nothing about the metric, but
#   count as "no correlation": with a third of such prompts the mean falls from 0.75 to 0.50. The mean of Kendall's tau of the
#   same table is NaN. Average only prompts whose ratings, and whose scores, differ.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torchmetrics==1.9.0 torch==2.13.0 scipy==1.17.1 numpy 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import math
import warnings

import numpy as np
import torch
from scipy import stats
from torchmetrics import KendallRankCorrCoef, PearsonCorrCoef, SpearmanCorrCoef

PROMPTS, METHODS = 400, 5
random = np.random.default_rng(0)
quality = 3 + random.normal(size=(PROMPTS, METHODS)) + 2.5 * random.normal(size=(PROMPTS, 1))
ratings = np.clip(quality.round(), 1, 5)
scores = quality + 0.5 * random.normal(size=quality.shape)


def of_torchmetrics(kind, x, y):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metric = kind()
        metric.update(torch.from_numpy(x).float(), torch.from_numpy(y).float())
        return float(metric.compute()), any("nan" in str(w.message) for w in caught)


x, constant = np.arange(5.0), np.ones(5)
alone = {kind.__name__: of_torchmetrics(kind, x, constant) for kind in (PearsonCorrCoef, SpearmanCorrCoef, KendallRankCorrCoef)}
for name, (value, has_warned) in alone.items():
    print(f"{name} of 0 1 2 3 4 and 1 1 1 1 1: {value}, {'with' if has_warned else 'without'} a warning")
tied = (ratings == ratings[:, :1]).all(1)
print(f"{tied.sum()} of {PROMPTS} prompts have equal ratings of all {METHODS} methods")
own = [of_torchmetrics(SpearmanCorrCoef, *row)[0] for row in zip(scores, ratings)]
kendall = [of_torchmetrics(KendallRankCorrCoef, *row)[0] for row in zip(scores, ratings)]
known = [stats.spearmanr(*row).statistic for row in zip(scores[~tied], ratings[~tied])]
print(f"mean Spearman correlation within prompts: torchmetrics {np.mean(own):.3f}, of the prompts that define it {np.mean(known):.3f}")
print(f"mean Kendall correlation by torchmetrics: {np.mean(kendall):.3f}")
is_as_stated = (
    alone["SpearmanCorrCoef"] == (0.0, False)
    and math.isnan(alone["KendallRankCorrCoef"][0])
    and not alone["KendallRankCorrCoef"][1]
    and math.isnan(alone["PearsonCorrCoef"][0])
    and alone["PearsonCorrCoef"][1]
    and math.isnan(np.mean(kendall))
    and np.isclose(np.mean(own), np.mean(known) * (1 - tied.mean()), atol=1e-3)
    and np.mean(known) - np.mean(own) > 0.1
)
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
