"""The front of an object of which only views are known: the side that the scorer takes for the front.

Each view is compared with the prompt and the words front, side and back view. Every azimuth is tried as the front: the
sum over the views of the similarities with the words that they would then have, less that of all words.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

WORDS = "front view", "side view", "back view"
NUM_VIEWS = 24  # every 15°, so that copies turned by a multiple of it have the same views
RESAMPLES, NEAR_DEGREES = 500, 46.0
MIN_CERTAINTY = 0.8  # below, the front of the file is kept


class Front(NamedTuple):
    """An azimuth, and the share of resampled views whose front is within `NEAR_DEGREES` of it."""

    azimuth_degrees: float
    certainty: float


def captions(prompt: str) -> list[str]:
    """The prompt with each of the words."""
    return [f"{prompt}, {words}" for words in WORDS]


def find(similarities: Float[np.ndarray, "views words"]) -> Front:
    """The front of views that are evenly spaced by azimuth, from their similarities with `captions`."""
    preferences = similarities - similarities.mean(1, keepdims=True)
    terms = _terms(preferences)
    best = int(terms.sum(0).argmax())
    random = np.random.default_rng(0)
    counts = random.multinomial(len(terms), np.full(len(terms), 1 / len(terms)), RESAMPLES)
    others = (counts @ terms).argmax(1)
    away = np.abs((others - best) * 360 / len(terms) + 180) % 360 - 180
    return Front(best * 360 / len(terms), float((np.abs(away) < NEAR_DEGREES).mean()))


def _terms(preferences: Float[np.ndarray, "views words"]) -> Float[np.ndarray, "views azimuths"]:
    """What each view adds to the score of each azimuth as the front."""
    angles = 2 * np.pi * np.arange(len(preferences)) / len(preferences)
    off = np.cos(angles[:, None] - angles)  # 1 from the front, -1 from behind
    front, side, back = preferences.T[:, :, None]
    return front * off.clip(0, None) + back * (-off).clip(0, None) + side * np.sqrt(1 - off.clip(-1, 1) ** 2)
