"""The gate of metrics for the Janus problem: which of them find a second face, and leave everything else alone.

The front half of each object with a front is mirrored to its back. A metric has to tell these two-faced objects from
the true ones, must not accuse objects without a front or surfaces of revolution, has to call damaged views worse, and
has to call noise bad: a metric of consistency alone likes noise. Higher values are better for all metrics.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.clip_score import ClipScorer
from evaluation.faces import BACK_DEGREES, FRONT_DEGREES, WORDS, front_probability, second_faces, with_one_face
from pipeline.embedded import damage, raytrace, world
from pipeline.embedded.objects import BOUND, POSITION, ROTATION, ObjectBuilder, fitted, hull
from pipeline.embedded.training import log

FOUND = 0.95
"""The share of two-faced objects below the threshold at which false alarms are counted."""
ROUND = 2.0  # grey levels: the mean change over the azimuth below which an object is a surface of revolution
NO_SECOND_FACE = ("bed", "bench")
"""Types whose front half, mirrored, has no second front: nothing of a bed's or a bench's front is above the seat."""
BATCH = 512

Features = np.ndarray
Value = Callable[[Features, Features], float]
"""A metric of an object: of its image vectors [views, dim], and those of prompt and prompt with view word [4, dim]."""


def two_faced(rows: np.ndarray) -> np.ndarray:
    """The object with its front half mirrored to its back, in the plane through the centre of its largest primitive."""
    rows = rows.astype(np.float64)
    plane = rows[rows[:, BOUND].argmax(), POSITION][0]
    front = rows[[hull(row)[:, 0].max() > plane + 1e-6 for row in rows]]
    back = front.copy()
    back[:, POSITION.start] = 2 * plane - back[:, POSITION.start]
    turned = back[:, ROTATION].reshape(-1, 3, 3).copy()
    turned[:, :, 0] *= -1  # world to local, after the reflection
    back[:, ROTATION] = turned.reshape(-1, 9)
    return fitted(np.concatenate([front, back])).astype(np.float32)


def blobs(rng: np.random.Generator, count: int = 60) -> np.ndarray:
    """Noise in space: ellipsoids of random places, sizes and colours, the same from all sides."""
    builder = ObjectBuilder(rng)
    for _ in range(count):
        place, radii, colour = rng.normal(0, 0.45, 3), rng.uniform(0.03, 0.2, 3), rng.random(3)
        builder.blob(tuple(place), tuple(radii), tuple(colour))
    return fitted(np.stack(builder.rows)).astype(np.float32)


def renders(objects: list[np.ndarray], views: int, device: str) -> Tensor:
    """Evenly spaced views at elevation 0, from the front: uint8 [objects, views, 3, 64, 64]."""
    cameras = world.orbit_cameras(np.arange(views) * 360 / views, np.zeros(views)).table
    counts = np.array([len(rows) for rows in objects], np.int32)
    starts = (np.cumsum(counts) - counts).astype(np.int32)
    index = np.repeat(np.arange(len(objects), dtype=np.int32), views)
    table = np.tile(cameras, (len(objects), 1)).astype(np.float32)
    images = raytrace.render(np.concatenate(objects), starts, counts, index, table, size=64, device=device)
    return images.view(len(objects), views, 3, 64, 64)


# ---- candidates -----------------------------------------------------------------------------------------------------


def _apart(views: int) -> np.ndarray:
    """Degrees of each view from the first."""
    return np.abs((np.arange(views) * 360 / views + 180) % 360 - 180)


def _own_words(views: int) -> np.ndarray:
    """The word of each view of an object whose front is the first view."""
    return np.digitize(_apart(views), [FRONT_DEGREES, BACK_DEGREES])


def _clip(images: Features, texts: Features) -> float:
    """CLIP score."""
    return float(100 * (images @ texts[0]).mean())


def _adjacent(images: Features, texts: Features) -> float:
    """Consistency: mean similarity of neighbouring views."""
    return float((images * np.roll(images, 1, axis=0)).sum(1).mean())


def _second_peak(images: Features, texts: Features) -> float:
    """Minus the height of the second peak of the self-similarity over azimuth: at half a turn, above the lowest."""
    gram = images @ images.T
    turns = range(len(images) // 2 + 1)
    profile = [float(np.diagonal(np.roll(gram, -turn, axis=1)).mean()) for turn in turns]
    return min(profile) - profile[-1]


def _front_and_back(images: Features, texts: Features) -> float:
    """Minus the similarity of front and back."""
    return -float(images[0] @ images[len(images) // 2])


def _named(images: Features, texts: Features) -> float:
    """Share of views whose nearest view word is their own."""
    return float(((images @ texts[1:].T).argmax(1) == _own_words(len(images))).mean())


def _clip_view(images: Features, texts: Features, quantile: float | None = None) -> float:
    """CLIP score against the prompt with the word of each view; of its lowest views with a quantile."""
    own = 100 * (images * texts[1 + _own_words(len(images))]).sum(1)
    return float(own.mean() if quantile is None else np.quantile(own, quantile))


def _faces_only(images: Features, texts: Features, scale: float) -> float:
    """Minus the mean of `second_faces`."""
    return -float(second_faces(front_probability(images, texts[1:], scale)).mean())


def _clip_faces(images: Features, texts: Features, scale: float) -> float:
    """The metric `clip_faces` (`evaluation.faces.CLIPFaces`)."""
    return float(with_one_face(100 * images @ texts[0], front_probability(images, texts[1:], scale)).mean())


def candidates(scale: float) -> dict[str, Value]:
    """The metrics that were tried. `clip_faces` is the one that passed; `scale` is the scorer's logit scale."""
    return {
        "clip": _clip,
        "adjacent": _adjacent,
        "second_peak": _second_peak,
        "front_and_back": _front_and_back,
        "named": _named,
        "clip_view": _clip_view,
        "clip_view_p10": partial(_clip_view, quantile=0.1),
        "faces_only": partial(_faces_only, scale=scale),
        "clip_faces": partial(_clip_faces, scale=scale),
    }


# ---- the gate -------------------------------------------------------------------------------------------------------


class Objects:
    """True objects of all types, and their image and text vectors by the scorer."""

    def __init__(self, scorer: ClipScorer, views: int, colours: int, seed: int, device: str) -> None:
        self.scorer, self.views, self.device = scorer, views, device
        self.rng = np.random.default_rng(seed)
        self.kinds: list[str] = []
        rows, phrases = [], []
        for kind in world.TYPES:
            known = [colour for name, colour in world.classes() if name == kind]
            wanted = min(colours, len(known)) if world.has_front(kind) else 1
            for number in self.rng.permutation(len(known))[:wanted]:
                scene = world.single(self.rng, kind, known[number])
                self.kinds.append(kind)
                rows.append(scene.rows)
                phrases.append(scene.phrase)
        self.rows = rows
        self.images = renders(rows, views, device)
        self.vectors = self.encoded(self.images)
        words = [text for phrase in phrases for text in (phrase, *(f"{phrase}, {word}" for word in WORDS))]
        self.texts = scorer.text_features(words).reshape(len(rows), 1 + len(WORDS), -1)
        changes = (self.images.float() - self.images.float().mean(1, keepdim=True)).abs().mean((1, 2, 3, 4))
        self.has_front = np.array([world.has_front(kind) for kind in self.kinds])
        self.is_round = ~self.has_front & (changes.cpu().numpy() < ROUND)
        self.is_janus = self.has_front & ~np.isin(self.kinds, NO_SECOND_FACE)

    def encoded(self, images: Tensor) -> Features:
        """Image vectors [objects, views, dim]."""
        flat = images.flatten(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return self.scorer.image_features(flat, BATCH).reshape(*images.shape[:2], -1)

    def values(self, value: Value, vectors: Features) -> np.ndarray:
        return np.array([value(images, texts) for images, texts in zip(vectors, self.texts, strict=True)])

    def damaged(self, name: str) -> tuple[Features, np.ndarray]:
        """Vectors of damaged views, and the objects whose views changed visibly."""
        clean = self.images.flatten(0, 1).float() / 255
        strength = (0.4 + 0.6 * torch.rand(len(self.rows), device=clean.device)).repeat_interleave(self.views)
        parts = zip(clean.split(BATCH), strength.split(BATCH), strict=True)
        bad = torch.cat([damage.DAMAGES[name](images, amount) for images, amount in parts])
        change = (clean - bad).abs().mean((1, 2, 3)).view(len(self.rows), -1).mean(1)
        images = (bad * 255 + 0.5).clamp(0, 255).to(torch.uint8).view_as(self.images)
        return self.encoded(images), (change > damage.VISIBLE).cpu().numpy()

    def noise(self) -> dict[str, Features]:
        """Vectors of noise: another for each view, the same for all views, and random blobs in space."""
        shape, device = self.images.shape, self.images.device
        each = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
        same = torch.randint(0, 256, (shape[0], 1, *shape[2:]), dtype=torch.uint8, device=device).expand(shape)
        space = renders([blobs(self.rng) for _ in self.rows], self.views, self.device)
        return {"each": self.encoded(each), "same": self.encoded(same), "space": self.encoded(space)}


def measure(
    scorer: ClipScorer, device: str, *, views: int = 24, colours: int = 2, seed: int = 900_030
) -> dict[str, float]:
    """What each candidate reaches, as `CANDIDATE_WHAT`: see docs/evaluation.md.

    `janus`: AUC of true objects with a front over two-faced ones. `front_alone`, `no_front_alone`, `round_alone`,
    `turned_alone`: shares without false alarm at the threshold that finds 95 % of the two-faced objects: of objects
    with a front, without, of surfaces of revolution, and of those with a front turned by half a turn. `damage`,
    `noise`: shares of objects that score above their damaged views (mean over damages) and above the worst noise.
    """
    torch.manual_seed(seed)
    objects = Objects(scorer, views, colours, seed, device)
    log("faces", f"{len(objects.rows)} objects, {objects.has_front.sum()} with a front, {objects.is_round.sum()} round")
    index = np.flatnonzero(objects.is_janus)
    janus = objects.vectors.copy()
    janus[index] = objects.encoded(renders([two_faced(objects.rows[i]) for i in index], views, device))
    damaged = {name: objects.damaged(name) for name in damage.DAMAGES}
    noise = objects.noise()
    scale = float(scorer.model.get_parameter("logit_scale").exp())
    result: dict[str, float] = {}
    for name, value in candidates(scale).items():
        clean, bad = objects.values(value, objects.vectors), objects.values(value, janus)[index]
        turned = objects.values(value, np.roll(objects.vectors, views // 2, axis=1))
        threshold = np.quantile(bad, FOUND)
        result[f"{name}_janus"] = auc(clean[objects.has_front], bad)
        for what, values, group in (
            ("front_alone", clean, objects.has_front),
            ("no_front_alone", clean, ~objects.has_front),
            ("round_alone", clean, objects.is_round),
            ("turned_alone", turned, objects.has_front),
        ):
            result[f"{name}_{what}"] = float((values[group] > threshold).mean())
        worse = [won(clean[seen], objects.values(value, vectors)[seen]) for vectors, seen in damaged.values()]
        result[f"{name}_damage"] = float(np.mean(worse))
        result[f"{name}_noise"] = min(won(clean, objects.values(value, vectors)) for vectors in noise.values())
    return result


def auc(better: np.ndarray, worse: np.ndarray) -> float:
    """The share of pairs, one of each, in the right order; a tie counts half."""
    return float((np.greater.outer(better, worse).mean() + np.greater_equal.outer(better, worse).mean()) / 2)


def won(better: np.ndarray, worse: np.ndarray) -> float:
    """The share of objects in the right order; a tie counts half."""
    return float(((better > worse).mean() + (better >= worse).mean()) / 2)


def gate(weights: Path, device: str) -> dict[str, float]:
    """The values of `measure` for a folder of bundled weights."""
    return measure(ClipScorer.load(weights / "scorer", device), device)
