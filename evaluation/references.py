"""Reference sets: moments and features of reference images, and a key that identifies how they were produced.

Two distances are comparable only if they were measured from reference sets with the same key. The format is `.npz`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from evaluation.arrays import from_npz
from evaluation.errors import EvaluationError
from evaluation.fid import Moments


@dataclass(frozen=True)
class Reference:
    """Moments of all reference images, features of some of them (for the kernel distance), and their provenance.

    `made_of` holds every setting that affects the numbers: `network` and `weights` of the features; the prior that
    generated the images, its weights, prompts, steps, guidance, seed and count. It must be plain JSON.
    """

    moments: Moments
    features: Float32[np.ndarray, "count dim"] | None
    made_of: dict[str, Any]

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of `made_of`."""
        return hashlib.sha256(_canonical(self.made_of).encode()).hexdigest()

    def require_network(self, name: str, weights: str, *, is_label: bool = False) -> None:
        """Raise EvaluationError unless the features come from this network. With `is_label`, the name may differ."""
        found = (self.made_of.get("network"), self.made_of.get("weights"))
        if found[1] != weights or (found[0] != name and not is_label):
            raise EvaluationError(
                f"the reference set holds features of {found[0]} ({str(found[1])[:12]}), but the views were evaluated "
                f"with {name} ({weights[:12]}): rebuild the reference set with the weights you evaluate with"
            )


def require_one_reference(keys: Iterable[str], metric: str = "distances") -> str:
    """The key that all distances share. Raises EvaluationError if they were measured from different reference sets."""
    found = sorted(set(keys))
    if len(found) != 1:
        raise EvaluationError(
            f"{metric} from {len(found)} different references ({', '.join(key[:12] for key in found)}) cannot be "
            "compared: evaluate the runs again with one reference"
        )
    return found[0]


def to_bytes(reference: Reference) -> bytes:
    """The `.npz` bytes of a reference set. Equal reference sets give equal bytes."""
    arrays: dict[str, Any] = {
        "count": np.array(reference.moments.count),
        "total": reference.moments.total,
        "outer": reference.moments.outer,
        "made_of": np.array(_canonical(reference.made_of)),
        "key": np.array(reference.key),
    }
    if reference.features is not None:
        arrays["features"] = reference.features
    arrays["content"] = np.array(_content(arrays))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def from_bytes(data: bytes) -> Reference:
    """Read a reference set. Raises EvaluationError if the bytes are not a reference set or were modified."""
    try:
        arrays = from_npz(data)
        content, key = str(arrays.pop("content")), str(arrays["key"])
        reference = _reference(arrays)
    except KeyError as error:
        raise EvaluationError(f"not a reference file (.npz written by this program): it has no {error}") from error
    except ValueError as error:
        raise EvaluationError(f"not a reference file (.npz written by this program): {error}") from error
    if content != _content(arrays) or key != reference.key:
        raise EvaluationError("the reference file was changed after it was written: its digest differs; fetch it again")
    return reference


def _reference(arrays: dict[str, np.ndarray]) -> Reference:
    """Raises KeyError for a missing array, ValueError for one of another shape or type."""
    count, total, outer, features = arrays["count"], arrays["total"], arrays["outer"], arrays.get("features")
    try:
        made_of = json.loads(str(arrays["made_of"]))
    except (ValueError, RecursionError) as error:
        raise ValueError("made_of is no JSON") from error
    dim = total.shape[0] if total.ndim == 1 else -1
    if not (
        isinstance(made_of, dict)
        and (count.shape, count.dtype.kind) == ((), "i")
        and count > 0
        and (total.dtype, outer.dtype, outer.shape) == (np.float64, np.float64, (dim, dim))
        and (features is None or (features.dtype == np.float32 and features.shape[1:] == (dim,)))
        and all(np.isfinite(array).all() for array in (total, outer, features) if array is not None)
    ):
        raise ValueError("an array has another shape or type, or values that are not finite")
    return Reference(Moments(int(count), total, outer), features, made_of)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _content(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()
