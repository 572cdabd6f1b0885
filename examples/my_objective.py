"""A custom objective: SDS whose guidance scale falls linearly, from `guidance.scale` to 1 at the end of the run.

segmentdreamer bench --objective sds,examples/my_objective.py:falling_guidance
"""

import torch

LIKE = "sds"  # start from the recipe of SDS: t alone, fresh noise, w(t) = 1 − ᾱ_t
SETTINGS = {"guidance.scale": 10}  # recipe keys, as for --set


@torch.no_grad()
def falling_guidance(z_0, *, denoise, unguided, text, noise, times, schedule, progress):
    """SDS with ε_∅ + w (ε_y − ε_∅), where w falls from `guidance.scale` to 1, which is ε_y alone."""
    z_t = schedule.noised(z_0, noise, times.t)
    eps = (1 - progress) * denoise(z_t, times.t, text) + progress * unguided(z_t, times.t, text)
    return eps - noise
