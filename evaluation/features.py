"""Feature networks for the Fréchet and kernel distances: views → vectors, and what to call the distance.

A network is anything with a name, a digest and a call, so the published Inception stands beside the embedded tower.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from evaluation.clip_score import ClipScorer
from evaluation.views import Views


class FeatureNetwork(Protocol):
    """`name` goes into the metric's id (`fd@<name>`), `weights` (SHA-256) into the key of a reference."""

    name: str

    @property
    def weights(self) -> str: ...

    def __call__(self, views: Views) -> Float32[np.ndarray, "views dim"]: ...


class ClipTower:
    """The scorer's image tower: its unit vectors times √D.

    √D is the length of a vector whose entries have deviation 1, which the cubic kernel (x·y/D + 1)³ expects: of plain
    unit vectors it would see little but the mean.
    """

    def __init__(self, scorer: ClipScorer) -> None:
        self.scorer, self.name = scorer, scorer.name

    @property
    def weights(self) -> str:
        return self.scorer.weights

    def __call__(self, views: Views) -> Float32[np.ndarray, "views dim"]:
        return self.scaled(self.scorer.image_features(views))

    @staticmethod
    def scaled(image_features: Float32[np.ndarray, "views dim"]) -> Float32[np.ndarray, "views dim"]:
        """The features of views whose unit vectors are known already: the CLIP score needs the same."""
        return np.float32(math.sqrt(image_features.shape[1])) * image_features
