"""The table of distances to a reference set: metric network, and its parts in a weights folder.

A distance is measured if both of its parts, network and reference, exist. Reading the table imports nothing: only
loading a network needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from evaluation.features import FeatureNetwork


class WeightsFolder(Protocol):
    """The attributes of a weights folder that loading a network needs."""

    @property
    def name(self) -> str: ...

    def part(self, name: str) -> Path: ...


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance. `metric` is its column, as in `fid@published`; `kernel` that of its kernel distance, if any.

    `part` and `reference` are parts of a weights folder; `load(weights, device)` returns the network.
    """

    metric: str
    part: str
    reference: str
    load: Callable[[WeightsFolder, Any], FeatureNetwork]
    kernel: str | None = None

    @property
    def features(self) -> str:
        """The name of a view's features in `evaluation.npz`."""
        return "features" if self.metric == "fd" else f"features_{self.metric}"

    @property
    def key_column(self) -> str:
        """The column with the key of the reference that a row was measured against."""
        return "ref_key" if self.metric == "fd" else f"ref_key_{self.metric}"


def _scorer(weights: WeightsFolder, device: Any) -> FeatureNetwork:
    from evaluation.clip_score import ClipScorer
    from evaluation.features import ClipTower

    return ClipTower(ClipScorer.load(weights.part("scorer"), device, weights.name))


def _inception(weights: WeightsFolder, device: Any) -> FeatureNetwork:
    from evaluation.inception import InceptionTower

    return InceptionTower.load(weights.part("inception"), "clean", device)


def _inception_tf(weights: WeightsFolder, device: Any) -> FeatureNetwork:
    from evaluation.inception import InceptionTower

    return InceptionTower.load(weights.part("inception"), "tf", device)


def _dinov2(weights: WeightsFolder, device: Any) -> FeatureNetwork:
    from evaluation.dinov2 import Dinov2Tower

    return Dinov2Tower.load(weights.part("dinov2"), device)


DISTANCES = {
    distance.metric: distance
    for distance in (
        Distance("fd", "scorer", "reference.npz", _scorer, kernel="kid_cl"),
        Distance("fid", "inception", "reference-inception.npz", _inception, kernel="kid_cl_inception"),
        Distance("fid_tf", "inception", "reference-inception_tf.npz", _inception_tf),
        Distance("fd_dinov2", "dinov2", "reference-dinov2.npz", _dinov2),
    )
}
REQUIRED = "fd"
"""The distance that every run measures."""
SCORER_PARTS = "pickscore", "hps", "aesthetic", "vlm"
"""Parts of optional scorers. The metric of a part (`Metric.part`) is measured if the part exists."""
