"""Checks of the models in a weights folder: files, digests, tensor names and shapes, published outputs.

No code in a file is executed: all loaders read safetensors, or torch files with `weights_only=True`.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.weights.catalogue import Role
from pipeline.weights.fetch import mismatch, sha256_of
from pipeline.weights.models import has_files

README_PROMPT = "a painting of an ocean with clouds and birds, day time, low depth field effect"
README_REWARDS = {"1.webp": 0.5811622739, "2.webp": 0.2745276093, "3.webp": -1.4131819010, "4.webp": -2.0295696259}
REWARD_TOLERANCE = 5e-3  # float32 sums in another order than the published ones; the code agrees within 1e-6
README_LABELS = {"a diagram": 0.9927937, "a dog": 0.00421068, "a cat": 0.00299572}  # of ViT-B/32 on CLIP.png
LABEL_TOLERANCE = 2e-3  # published in half precision
LOGIT_SCALE = 100
LOADED_TEXT = {"reference": "opens and is unchanged since it was generated"}
GIVE_REWARDS = "give the folder assets/images of a clone of github.com/zai-org/ImageReward with --golden DIR"
GIVE_CLIP = "give a folder with CLIP.png of github.com/openai/CLIP with --golden DIR"


class CheckStatus(StrEnum):
    OK, NOTE, MISSING, REFUSED = "ok", "note", "missing", "refused"


class CheckResult(NamedTuple):
    """The result of one check."""

    role: str
    status: CheckStatus
    text: str


def check(
    role: Role, weights: Path, golden: Path | None = None, *, is_published: bool = False
) -> Iterator[CheckResult]:
    """Check a role's files and load them; with a folder of `golden` images, compare the model's outputs on them.

    A file that differs from the published one is refused if the folder must have published files; otherwise a note.
    """

    def result(status: CheckStatus, text: str) -> CheckResult:
        return CheckResult(role.name, status, " ".join(text.split()))

    path = _path(role, weights)
    if not has_files(path):
        yield result(CheckStatus.MISSING, f"there is no {path}; run {role.command}")
        return
    present = [file for file in role.files if role.place(weights, file).is_file()]
    for file in present:
        place = role.place(weights, file)
        if problem := mismatch(place, file):
            if is_published:
                fix = f"delete it and run {role.command}"
                yield result(CheckStatus.REFUSED, f"{place} is not the published file: {problem}; {fix}")
                return
            yield result(CheckStatus.NOTE, f"{file.path} is not the published file: {problem}")
            continue
        if file.sha256:
            yield result(CheckStatus.OK, f"{file.path}: SHA-256 as published")
        elif place.stat().st_size > 2**20:
            digest = f"SHA-256 {sha256_of(place)}; the published digest is not known"
            yield result(CheckStatus.NOTE, f"{file.path}: {place.stat().st_size:,} bytes, {digest}")
    if role.groups and not present:
        yield result(CheckStatus.NOTE, "none of the published files; only checked whether the model loads")
    try:
        model = LOADERS[role.name](path)
    except (ValueError, OSError, RuntimeError) as error:
        yield result(CheckStatus.REFUSED, str(error))
        return
    yield result(CheckStatus.OK, LOADED_TEXT.get(role.name, "loads; all tensors have the expected names and shapes"))
    if role.name in GOLDEN:
        for status, text in GOLDEN[role.name](model, path, golden):
            yield result(status, text)


def _path(role: Role, weights: Path) -> Path:
    """The path for the role's loader: its folder, or its file if it has only one and that exists."""
    folder = weights / role.folder
    file = folder / role.files[0].path if len(role.files) == 1 else folder
    if role.name in ("hps", "aesthetic"):  # their loaders find the file
        return folder
    return folder if role.name == "shape" and not file.exists() else file


def _prior(path: Path) -> Any:
    import torch

    from sctd.prior.stable_diffusion import StableDiffusionPrior

    return StableDiffusionPrior.load(path, dtype=torch.bfloat16)  # half the memory with the same names and shapes


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


def _pickscore(path: Path) -> Any:
    from evaluation.preference import load_pickscore

    return load_pickscore(path)


def _hps(path: Path) -> Any:
    from evaluation.preference import load_hps

    return load_hps(path)


def _aesthetic(path: Path) -> Any:
    from evaluation.preference import load_aesthetic

    return load_aesthetic(path)


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
    "pickscore": _pickscore,
    "hps": _hps,
    "aesthetic": _aesthetic,
    "reference": _reference,
}

Statuses = Iterator[tuple[CheckStatus, str]]


def _golden_rewards(model: Any, path: Path, golden: Path | None) -> Statuses:
    """ImageReward's README: four images, one prompt."""
    if not (path / "ImageReward.pt").is_file():
        yield CheckStatus.NOTE, "published rewards skipped: they apply to ImageReward.pt only"
        return
    images = _images(golden, list(README_REWARDS))
    if images is None:
        yield CheckStatus.NOTE, f"published rewards skipped: {GIVE_REWARDS}"
        return
    worst = 0.0
    for image, expected in zip(images, README_REWARDS.values(), strict=True):
        worst = max(worst, abs(float(model.score(image[None], README_PROMPT)[0]) - expected))
    is_ok = worst <= REWARD_TOLERANCE
    text = f"rewards of the README's four images: error at most {worst:.1e} (tolerance {REWARD_TOLERANCE:g})"
    yield (CheckStatus.OK, text) if is_ok else (CheckStatus.REFUSED, f"{text}; run segmentdreamer weights fetch reward")


def _golden_labels(model: Any, path: Path, golden: Path | None) -> Statuses:
    """CLIP's README: probabilities of three labels, published for ViT-B/32 only."""
    import numpy as np

    kernel = dict(model.model.named_parameters()).get("visual.conv1.weight")
    if kernel is None or tuple(kernel.shape) != (768, 3, 32, 32):
        yield CheckStatus.NOTE, "published probabilities skipped: they apply to ViT-B/32 only"
        return
    images = _images(golden, ["CLIP.png"])
    if images is None:
        yield CheckStatus.NOTE, f"published probabilities skipped: {GIVE_CLIP}"
        return
    logits = LOGIT_SCALE * (model.image_features(images[0][None]) @ model.text_features(list(README_LABELS)).T)[0]
    found = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    worst = float(np.abs(found - np.array(list(README_LABELS.values()))).max())
    text = f"probabilities of the README's image: error at most {worst:.1e} (tolerance {LABEL_TOLERANCE:g})"
    yield CheckStatus.OK if worst <= LABEL_TOLERANCE else CheckStatus.REFUSED, text


GOLDEN: dict[str, Callable[[Any, Path, Path | None], Statuses]] = {"reward": _golden_rewards, "scorer": _golden_labels}


def _images(folder: Path | None, names: list[str]) -> list[Any] | None:
    """RGB bytes of these images from any subfolder; None if one is missing."""
    import numpy as np
    from PIL import Image

    places = [next(iter(sorted(folder.rglob(name))), None) for name in names] if folder else [None]
    if None in places:
        return None
    return [np.asarray(Image.open(place).convert("RGB")) for place in places if place]
