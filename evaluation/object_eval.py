"""What was measured of one object: a number per view and metric, and features for the distances. ⇄ `.npz` bytes.

Features travel instead of their moments: with fewer views than twice the feature's width they are the smaller of the
two, and every jackknife can be made from them later.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, fields
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Float32

from evaluation import EvaluationError
from evaluation.statistics import lowest_tenth


@dataclass(frozen=True)
class ObjectEval:
    """One object seen in all its views. `clip` in points, `clip_rprec` 0 or 1, `ir` in standard deviations.

    `views_sha256` is of the bytes that every metric saw; `judges` says by which weights, so that rows never mix.
    """

    clip: Float32[np.ndarray, " views"]
    clip_rprec: Float[np.ndarray, " views"]
    ir: Float32[np.ndarray, " views"]
    features: Float32[np.ndarray, "views dim"]
    text_feature: Float32[np.ndarray, " text_dim"]
    views_sha256: str
    judges: str

    def summary(self) -> dict[str, float]:
        """Mean over views of each metric, and the lowest tenth (`clip_p10`), from which a bad side cannot hide."""
        means = {name: float(np.mean(getattr(self, name))) for name in ("clip", "clip_rprec", "ir")}
        return means | {f"{name}_p10": lowest_tenth(getattr(self, name)) for name in ("clip", "ir")}


def to_bytes(evaluation: ObjectEval) -> bytes:
    """The `.npz` of one object's evaluation; equal evaluations give equal bytes."""
    buffer = io.BytesIO()
    values: dict[str, Any] = {field.name: np.asarray(getattr(evaluation, field.name)) for field in fields(evaluation)}
    np.savez_compressed(buffer, **values)
    return buffer.getvalue()


def from_bytes(data: bytes) -> ObjectEval:
    """Read one object's evaluation. Raises EvaluationError where the bytes are something else or cut short."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            values: dict[str, Any] = {field.name: file[field.name] for field in fields(ObjectEval)}
    except (ValueError, OSError, EOFError, KeyError, BadZipFile, zlib.error) as error:
        raise EvaluationError(f"not an object's evaluation (.npz): {error}; evaluate the object again") from error
    words = {name: str(values[name]) for name in ("views_sha256", "judges")}
    return ObjectEval(**values | words)
