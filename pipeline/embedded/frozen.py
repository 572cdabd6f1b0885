"""The metric check: frozen renders, and the scores that the bundled scorers gave them when they were frozen.

If these scores change, the metric has changed: preprocessing, a scorer, a library, or the arithmetic of a distance. If
they are unchanged and the scores of a nightly run differ, generation has changed. `python -m pipeline.embedded.frozen`
writes both files.
"""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TOLERANCES = {"clip": 1e-3, "ir": 1e-4, "fd": 1e-6}
"""Absolute for `clip` and `ir`, relative for `fd`. They are above the effect of another CPU's order of float32 sums,
and below that of a change of resampling, rounding or normalisation."""
VIEWS, SEED = 4, 0
PHRASES = "a red mushroom", "a yellow duck", "a green robot head", "a blue penguin with a white belly"


class Deviation(NamedTuple):
    """A score that differs from its golden value."""

    name: str
    found: float
    expected: float
    tolerance: float


def folder() -> Path:
    """The folder with `renders.npz` and `golden.json`."""
    return Path(__file__).parent / "frozen_renders"


def check() -> list[Deviation]:
    """The scores that differ by more than their tolerance; none if the metric is unchanged."""
    golden = json.loads((folder() / "golden.json").read_text())
    found = measure(read())
    deviations = []
    for name, expected in golden.items():
        metric = name.split(" ", 1)[0]
        tolerance = TOLERANCES[metric] * (abs(expected) if metric == "fd" else 1)
        if not abs(found[name] - expected) <= tolerance:  # also true for NaN
            deviations.append(Deviation(name, found[name], expected, tolerance))
    return deviations


def read() -> dict[str, np.ndarray]:
    """Bytes [views, height, width, 3] by prompt."""
    with np.load(folder() / "renders.npz") as file:
        return {phrase: file[phrase] for phrase in file.files}


def measure(renders: dict[str, np.ndarray]) -> dict[str, float]:
    """`clip` and `ir` of each prompt, mean over its views, and `fd` of all views, by the bundled scorers on the CPU."""
    from evaluation.clip_score import ClipScorer, clip_score
    from evaluation.features import ClipTower
    from evaluation.image_reward import ImageReward
    from evaluation.jackknife import frechet
    from evaluation.references import from_bytes
    from pipeline.embedded import weights_folder

    weights = weights_folder()
    scorer, reward = ClipScorer.load(weights / "scorer", "cpu"), ImageReward.load(weights / "reward", "cpu")
    reference = from_bytes((weights / "reference.npz").read_bytes())
    texts = scorer.text_features(list(renders))
    features = [scorer.image_features(views) for views in renders.values()]
    numbers: dict[str, float] = {}
    for (phrase, views), view_features, text in zip(renders.items(), features, texts, strict=True):
        numbers[f"clip {phrase}"] = float(clip_score(view_features, text).mean())
        numbers[f"ir {phrase}"] = float(reward.score(views, phrase).mean())
    numbers["fd"] = frechet([ClipTower.scaled(each) for each in features], reference.moments).value
    return numbers


def draw() -> dict[str, np.ndarray]:
    """Render objects of the synthetic world from all sides, on white."""
    from pipeline.embedded import raytrace, world
    from pipeline.embedded.views import orbit_cameras

    random = np.random.default_rng(SEED)
    scenes = [world.scene_of(random, phrase) for phrase in PHRASES]
    cameras = orbit_cameras(np.tile(np.arange(VIEWS) * 360.0 / VIEWS, len(scenes)), 15.0)
    scene_index = np.repeat(np.arange(len(scenes), dtype=np.int32), VIEWS)
    images = raytrace.render(*world.table(scenes), scene_index, cameras.table)
    views = images.permute(0, 2, 3, 1).contiguous().numpy()
    return dict(zip(PHRASES, np.split(views, len(PHRASES)), strict=True))


def main() -> None:
    renders: dict[str, Any] = draw()
    file = io.BytesIO()
    np.savez_compressed(file, **renders)
    folder().mkdir(exist_ok=True)
    (folder() / "renders.npz").write_bytes(file.getvalue())
    (folder() / "golden.json").write_text(json.dumps(measure(renders), indent=2) + "\n")


if __name__ == "__main__":
    main()
