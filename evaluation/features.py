"""Feature networks for the Fréchet and kernel distances: views → feature vectors.

A network is any callable with a name and a digest, so the published Inception and the bundled CLIP tower share one
interface.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from evaluation.clip_score import ClipScorer
from evaluation.views import Views


@runtime_checkable
class FeatureNetwork(Protocol):
    """`name` goes into the metric's id (`fd@<name>`), `weights` (SHA-256) into the key of a reference."""

    name: str

    @property
    def weights(self) -> str: ...

    def __call__(self, views: Views) -> Float32[np.ndarray, "views dim"]: ...


class ClipTower:
    """The image tower of a CLIP scorer: its unit vectors times √D.

    √D is the length of a vector whose entries have standard deviation 1, which the cubic kernel (x·y/D + 1)³ expects.
    With plain unit vectors the kernel would depend on little but the mean.
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
        """The features of views whose unit vectors are already computed, as for the CLIP score."""
        return np.float32(math.sqrt(image_features.shape[1])) * image_features
