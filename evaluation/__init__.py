"""Metrics: rendered views and text in, numbers out.

CLIP score and R-precision (`clip_score`), ImageReward (`image_reward`), Fréchet and kernel distances to a reference set
(`fid`, `kid`) with their standard errors (`jackknife`), over-exposure, sharpness and floating bits (`appearance`),
intervals and tests over prompts (`statistics`), and the rankings of a user study (`ranking`). `metrics` and
`distance_metrics` make them `torchmetrics.Metric` classes for other programs. Nothing here knows how an asset was
generated or where the work runs.

The names in `__all__` are imported when they are first used: statistics do not load torch.

Examples:
    >>> import numpy as np
    >>> from evaluation import mean_over_prompts, paired_difference
    >>> ours, theirs = np.array([65.1, 66.0, 63.9, 64.8]), np.array([64.0, 65.5, 63.8, 63.9])
    >>> mean = mean_over_prompts(ours)
    >>> f"{mean.value:.2f} ± {mean.standard_error:.2f}"
    '64.95 ± 0.43'
    >>> gain = paired_difference(ours, theirs, np.random.default_rng(0)).mean
    >>> f"{gain.value:.2f} in [{gain.low:.2f}, {gain.high:.2f}]"
    '0.65 in [-0.06, 1.36]'
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
