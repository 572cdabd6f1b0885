"""A run's distances from its references, kept beside it: of 40 objects in 2048 dimensions each takes half a minute.

What is kept is known by the content that it was computed from, so it can be out of date but never wrong.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.jackknife import Estimate, frechet
from evaluation.kid import kernel_distance
from evaluation.references import Reference
from pipeline.weights.networks import Distance


@dataclass(frozen=True)
class Kept:
    """Estimates by the digest of their content: those that lay there, and those that were asked for since."""

    known: dict[str, Any]
    asked: dict[str, Any] = field(default_factory=dict)

    def estimates(
        self, distance: Distance, objects: Sequence[np.ndarray], reference: Reference, metric_version: int
    ) -> dict[str, Estimate | None]:
        """By metric. None where there are too few views or objects to tell."""
        content = _content([*objects, reference.moments.total, reference.moments.outer])
        found: dict[str, Estimate | None] = {distance.metric: None}
        if sum(map(len, objects)) > 1:
            key = f"{distance.metric} {metric_version} {content}"
            found[distance.metric] = self._estimate(key, lambda: frechet(objects, reference.moments))
        if distance.kernel is None:
            return found
        found[distance.kernel] = None
        if (pictures := reference.features) is not None and len(objects) > 1:
            key = f"{distance.kernel} {metric_version} {_content([*objects, pictures])}"
            found[distance.kernel] = self._estimate(key, lambda: kernel_distance(objects, pictures))
        return found

    def _estimate(self, key: str, compute: Any) -> Estimate:
        found = Estimate(*self.known[key]) if key in self.known else compute()
        self.asked[key] = list(found)
        return found


def _content(arrays: Sequence[np.ndarray]) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
