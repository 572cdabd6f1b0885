"""An objective of one's own: Classifier Score Distillation (Yu et al. 2023), SDS without its noise.

segmentdreamer bench --objective sds,examples/my_objective.py:csd
"""

import torch

LIKE = "sds"  # begins with its recipe: t alone, fresh noise, w(t) = 1 − ᾱ_t
SETTINGS = {"objective.time_weight": "one"}  # keys as of --set


@torch.no_grad()
def csd(z_0, *, denoise, text, noise, times, schedule):
    """ε̂_φ(z_t, t, y) − ε_φ(z_t, t, ∅): where the text pulls, and nothing else."""
    z_t = schedule.noised(z_0, noise, times.t)
    return denoise(z_t, times.t, text) - denoise(z_t, times.t, None)
