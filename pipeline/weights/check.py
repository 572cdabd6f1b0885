"""Whether the models in a folder of weights are what they should be: files, digests, names, shapes, published outputs.

Nothing in a file ever runs: every loader reads safetensors, or torch files with `weights_only=True`.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.weights.catalogue import Role
from pipeline.weights.fetch import sha256_of, wrong
from pipeline.weights.models import has_files

README_PROMPT = "a painting of an ocean with clouds and birds, day time, low depth field effect"
README_REWARDS = {"1.webp": 0.5811622739, "2.webp": 0.2745276093, "3.webp": -1.4131819010, "4.webp": -2.0295696259}
REWARD_TOLERANCE = 5e-3  # float32 sums in another order than the published ones; measured agreement of the code: 1e-6
README_LABELS = {"a diagram": 0.9927937, "a dog": 0.00421068, "a cat": 0.00299572}  # of ViT-B/32 on CLIP.png
LABEL_TOLERANCE = 2e-3  # published in half precision
LOGIT_SCALE = 100
SAID = {"reference": "opens, unchanged since it was made"}
GIVE_REWARDS = "give the folder assets/images of a clone of github.com/zai-org/ImageReward by --golden DIR"
GIVE_CLIP = "give a folder with CLIP.png of github.com/openai/CLIP by --golden DIR"


class Status(StrEnum):
    OK, NOTE, MISSING, REFUSED = "ok", "note", "missing", "refused"


class Result(NamedTuple):
    """One thing that was looked at."""

    role: str
    status: Status
    text: str


def check(role: Role, weights: Path, golden: Path | None = None, *, is_published: bool = False) -> Iterator[Result]:
    """Look at a role's files, then load them; with a folder of `golden` images, compare what the model says of them.

    A file that differs from the published one is refused if the folder is to have published files, else noted.
    """

    def result(status: Status, text: str) -> Result:
        return Result(role.name, status, " ".join(text.split()))

    path = _path(role, weights)
    if not has_files(path):
        yield result(Status.MISSING, f"there is no {path}; run {role.command}")
        return
    present = [file for file in role.files if role.place(weights, file).is_file()]
    for file in present:
        place = role.place(weights, file)
        if problem := wrong(place, file):
            if is_published:
                mend = f"delete it and run {role.command}"
                yield result(Status.REFUSED, f"{place} is not the published file: {problem}; {mend}")
                return
            yield result(Status.NOTE, f"{file.path} is not the published file: {problem}")
            continue
        if file.sha256:
            yield result(Status.OK, f"{file.path}: SHA-256 as published")
        elif place.stat().st_size > 2**20:
            digest = f"SHA-256 {sha256_of(place)}, which is not known to be right or wrong"
            yield result(Status.NOTE, f"{file.path}: {place.stat().st_size:,} bytes, {digest}")
    if role.groups and not present:
        yield result(Status.NOTE, "none of the published files: whether this model loads is all that is checked")
    try:
        model = LOADERS[role.name](path)
    except (ValueError, OSError, RuntimeError) as error:
        yield result(Status.REFUSED, str(error))
        return
    yield result(Status.OK, SAID.get(role.name, "loads: every tensor has its name and shape"))
    if role.name in GOLDEN:
        for status, text in GOLDEN[role.name](model, path, golden):
            yield result(status, text)


def _path(role: Role, weights: Path) -> Path:
    """What the role's loader takes: its folder, or the one file that stands for it where that is there."""
    folder = weights / role.folder
    file = folder / role.files[0].path if len(role.files) == 1 else folder
    return folder if role.name == "shape" and not file.exists() else file


def _prior(path: Path) -> Any:
    import torch

    from sctd.prior.stable_diffusion import StableDiffusionPrior

    return StableDiffusionPrior.load(path, dtype=torch.bfloat16)  # half the memory, the same names and shapes


def _scorer(path: Path) -> Any:
    from evaluation.clip_score import ClipScorer

    return ClipScorer.load(path)


def _reward(path: Path) -> Any:
    from evaluation.image_reward import ImageReward

    return ImageReward.load(path)


def _shape(path: Path) -> Any:
    from sctd import point_e

    return point_e.load(path)


def _upsampler(path: Path) -> Any:
    from sctd import point_e

    return point_e.load_upsampler(path)


def _inception(path: Path) -> Any:
    from evaluation.inception import InceptionTower

    return InceptionTower.load(path)


def _dinov2(path: Path) -> Any:
    from evaluation.dinov2 import Dinov2Tower

    return Dinov2Tower.load(path)


def _reference(path: Path) -> Any:
    from evaluation.references import from_bytes

    return from_bytes(path.read_bytes())


LOADERS: dict[str, Callable[[Path], Any]] = {
    "prior": _prior,
    "scorer": _scorer,
    "reward": _reward,
    "shape": _shape,
    "upsampler": _upsampler,
    "inception": _inception,
    "dinov2": _dinov2,
    "reference": _reference,
}

Told = Iterator[tuple[Status, str]]


def _golden_rewards(model: Any, path: Path, golden: Path | None) -> Told:
    """ImageReward's README: four pictures, one prompt."""
    if not (path / "ImageReward.pt").is_file():
        yield Status.NOTE, "published rewards skipped: they are those of ImageReward.pt"
        return
    images = _images(golden, list(README_REWARDS))
    if images is None:
        yield Status.NOTE, f"published rewards skipped: {GIVE_REWARDS}"
        return
    worst = 0.0
    for image, expected in zip(images, README_REWARDS.values(), strict=True):
        worst = max(worst, abs(float(model.score(image[None], README_PROMPT)[0]) - expected))
    fine = worst <= REWARD_TOLERANCE
    text = f"rewards of the README's four pictures: off by at most {worst:.1e} (tolerance {REWARD_TOLERANCE:g})"
    yield (Status.OK, text) if fine else (Status.REFUSED, f"{text}; run segmentdreamer weights fetch reward")


def _golden_labels(model: Any, path: Path, golden: Path | None) -> Told:
    """CLIP's README: probabilities of three labels, published for ViT-B/32 alone."""
    import numpy as np

    kernel = dict(model.model.named_parameters()).get("visual.conv1.weight")
    if kernel is None or tuple(kernel.shape) != (768, 3, 32, 32):
        yield Status.NOTE, "published probabilities skipped: they are those of ViT-B/32"
        return
    images = _images(golden, ["CLIP.png"])
    if images is None:
        yield Status.NOTE, f"published probabilities skipped: {GIVE_CLIP}"
        return
    logits = LOGIT_SCALE * (model.image_features(images[0][None]) @ model.text_features(list(README_LABELS)).T)[0]
    found = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    worst = float(np.abs(found - np.array(list(README_LABELS.values()))).max())
    text = f"probabilities of the README's picture: off by at most {worst:.1e} (tolerance {LABEL_TOLERANCE:g})"
    yield Status.OK if worst <= LABEL_TOLERANCE else Status.REFUSED, text


GOLDEN: dict[str, Callable[[Any, Path, Path | None], Told]] = {"reward": _golden_rewards, "scorer": _golden_labels}


def _images(folder: Path | None, names: list[str]) -> list[Any] | None:
    """RGB bytes of these pictures, wherever they are in the folder; None if one is not."""
    import numpy as np
    from PIL import Image

    places = [next(iter(sorted(folder.rglob(name))), None) for name in names] if folder else [None]
    if None in places:
        return None
    return [np.asarray(Image.open(place).convert("RGB")) for place in places if place]
