"""Metrics: rendered views and text in, numbers out.

CLIP score and R-precision (`clip_score`), ImageReward (`image_reward`), Fréchet and kernel distances to a reference set
(`fid`, `kid`) with their standard errors (`jackknife`), intervals and tests over prompts (`statistics`), and the
rankings of a user study (`ranking`). `metrics` and `distance_metrics` make them `torchmetrics.Metric` classes for other
programs. Nothing here knows how an asset was generated or where the work runs.

The names below are loaded when they are used, so that statistics do not import torch.
"""

import lazy_loader


class EvaluationError(ValueError):
    """An error that the user can fix: the message says what was found, what was expected and what to do."""


__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "clip_score": ["ClipScorer"],
        "distance_metrics": ["FrechetDistance", "KernelDistance"],
        "features": ["ClipTower", "FeatureNetwork"],
        "fid": ["Moments"],
        "image_reward": ["ImageReward"],
        "metrics": ["CLIPRPrecision", "CLIPScore", "ImageRewardScore"],
        "references": ["Reference"],
    },
)
__all__ += ["EvaluationError"]
