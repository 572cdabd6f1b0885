"""A custom objective: Classifier Score Distillation (Yu et al. 2023), SDS without the noise term.

segmentdreamer bench --objective sds,examples/my_objective.py:csd
"""

import torch

LIKE = "sds"  # start from the recipe of SDS: t alone, fresh noise, w(t) = 1 − ᾱ_t
SETTINGS = {"objective.time_weight": "one"}  # recipe keys, as for --set


@torch.no_grad()
def csd(z_0, *, denoise, text, noise, times, schedule):
    """ε̂_φ(z_t, t, y) − ε_φ(z_t, t, ∅): the direction of the text alone."""
    z_t = schedule.noised(z_0, noise, times.t)
    return denoise(z_t, times.t, text) - denoise(z_t, times.t, None)
