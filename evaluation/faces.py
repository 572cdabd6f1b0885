"""CLIP score without second faces, for the Janus problem: an object that shows its front on the back as well.

CLIP score itself rewards a second face, because each view shows what the prompt says. Here the scorer also names each
view: "PROMPT, front view", "PROMPT, side view" or "PROMPT, back view". The front is where the views read most as a
front view, so rotating the object changes nothing. Opposite views that read as a front view again lose their score. An
object that looks the same from all sides has no front view, so it loses nothing.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float

from evaluation.clip_score import ClipScorer
from evaluation.metrics import CLIPScore
from evaluation.views import Views

WORDS = "front view", "side view", "back view"
FRONT_DEGREES, BACK_DEGREES = 50, 130  # a front view is closer, a back view further, as in view-dependent prompts


class CLIPFaces(CLIPScore):
    """CLIP score in which a second face counts nothing, averaged over views, then over objects; see `second_faces`.

    At most the CLIP score, and equal to it without a second face, as for fewer than four views. The views of an update
    are evenly spaced over the azimuth.

    Args:
        scorer: a CLIP model with its logit scale. `scorer.keep` shares features with other metrics of the same scorer.
        kwargs: passed to `torchmetrics.Metric`.
    """

    def __init__(self, scorer: ClipScorer, **kwargs: Any) -> None:
        super().__init__(scorer, **kwargs)
        self.scale = float(scorer.model.get_parameter("logit_scale").exp())

    def scores(self, views: Views, prompt: str) -> Float[np.ndarray, " views"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a prompt that is too long was reported by the CLIP score
            words = self.scorer.text_features([f"{prompt}, {word}" for word in WORDS])
        return with_one_face(
            self.scorer.score(views, prompt), front_probability(self.scorer.image_features(views), words, self.scale)
        )


def front_probability(
    image_features: Float[np.ndarray, "views dim"], words: Float[np.ndarray, "words dim"], scale: float
) -> Float[np.ndarray, " views"]:
    """P(front view) of each view among `WORDS`, whose text vectors are `words`: softmax of the scaled similarities."""
    logits = scale * image_features @ words.T
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds[:, 0] / odds.sum(axis=1)


def with_one_face(
    scores: Float[np.ndarray, " views"], front: Float[np.ndarray, " views"]
) -> Float[np.ndarray, " views"]:
    """The scores of the views, less what they have by being a second face."""
    return scores - second_faces(front) * np.maximum(scores, 0)


def second_faces(front: Float[np.ndarray, " views"]) -> Float[np.ndarray, " views"]:
    """How much each view is a second face, from 0 to 1: 2 P(front view) - 1 if positive, beyond 130° from the front.

    `front` is P(front view) of evenly spaced views. The front is the view with the highest mean of P(front view) within
    50°, the first of several. With three words, P = 1/3 says nothing: a view counts only if it reads as a front view
    more than as the other two together.
    """
    turn = np.arange(len(front)) * 360 / len(front)
    apart = np.abs((turn[:, None] - turn + 180) % 360 - 180)
    near = apart < FRONT_DEGREES
    first = int((near @ front / near.sum(axis=1)).argmax())
    return np.where(apart[first] > BACK_DEGREES, np.clip(2 * front - 1, 0, 1), 0)
