"""A run's distances to its references, cached in the run folder.

Each takes half a minute for 40 objects in 2048 dimensions. Entries are keyed by the content that they were computed
from, so they can be obsolete but never wrong.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from pydantic import FiniteFloat, TypeAdapter

from evaluation.jackknife import MANY, Estimate, frechet
from evaluation.kid import kernel_distance
from evaluation.references import Reference
from pipeline.store.run_folder import DISTANCES as CACHE
from pipeline.store.run_folder import Store
from pipeline.weights.networks import Distance

CACHE_FILE = TypeAdapter(dict[str, tuple[FiniteFloat, FiniteFloat | None]])  # value and standard error


@dataclass(frozen=True)
class DistanceCache:
    """Estimates by the digest of their content: `known` from the run folder, `used` since then."""

    known: dict[str, Any]
    used: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, stores: Iterable[Store]) -> "DistanceCache":
        """The cache of these run folders."""
        files = (store.read_typed(store.root / CACHE, CACHE_FILE) or {} for store in stores)
        return cls({key: estimate for file in files for key, estimate in file.items()})

    def estimates(
        self,
        distance: Distance,
        objects: Sequence[np.ndarray],
        reference: Reference,
        metric_version: int,
        content: str | None = None,
    ) -> dict[str, Estimate | None]:
        """Estimates by metric; None if there are too few views or objects.

        `content` is a digest of `objects`, of which none is then read if the estimates are known. Without it, all are.
        """
        # Estimates ask for all objects again and again, but of many objects at most twice for each.
        held = cache(lambda: objects if len(objects) > MANY else list(objects))
        own = held() if content is None else [np.frombuffer(content.encode(), np.uint8)]
        found: dict[str, Estimate | None] = {distance.metric: None}
        key = f"{distance.metric} {metric_version} {_content([*own, reference.moments.total, reference.moments.outer])}"
        if len(objects) > 1 or sum(map(len, held())) > 1:
            found[distance.metric] = self._estimate(key, lambda: frechet(held(), reference.moments))
        if distance.kernel is None:
            return found
        found[distance.kernel] = None
        if (reference_features := reference.features) is not None and len(objects) > 1:
            key = f"{distance.kernel} {metric_version} {_content([*own, reference_features])}"
            found[distance.kernel] = self._estimate(key, lambda: kernel_distance(held(), reference_features))
        return found

    def _estimate(self, key: str, compute: Any) -> Estimate:
        found = Estimate(*self.known[key]) if key in self.known else compute()
        self.used[key] = list(found)
        return found


def _content(arrays: Sequence[np.ndarray]) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(f"{array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
