"""Weights folders and their digests. Bundled and published models have the same layout:

prior/          Stable Diffusion folder
scorer/         open_clip local-dir
reward/         ImageReward
reference.npz   moments of the reference set for the Fréchet distance
shape/          Point-E (only for recipes that initialize from a Point-E point cloud)
control/        ControlNet (only for recipes with guidance.control)
inception/      Inception-v3, with reference-inception.npz and reference-inception_tf.npz (optional distances)
dinov2/         DINOv2, with reference-dinov2.npz (optional distance); see pipeline.weights.networks
pickscore/, hps/, aesthetic/, vlm/   optional scorers: PickScore, HPS v2.1, LAION's predictor, a vision-language model
"""

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.digests import digest
from pipeline.errors import UserError
from pipeline.prompts import slug
from pipeline.weights import catalogue
from pipeline.weights.networks import DISTANCES, REQUIRED, SCORER_PARTS, Distance

EMBEDDED, PUBLISHED = "embedded", "published"
OF_PUBLISHED = "paper", "paper-portrait", "paper-avatar", "paper-nerf"  # recipes for Stable Diffusion 2.1
FOLDER_VARIABLE = "SEGMENTDREAMER_WEIGHTS"
GENERATION, EVALUATION = ("prior",), ("scorer", "reward", "reference.npz")
REFERENCES = tuple(distance.reference for distance in DISTANCES.values())
SCORERS = frozenset({*EVALUATION, *REFERENCES, *(distance.part for distance in DISTANCES.values()), *SCORER_PARTS})


@dataclass(frozen=True)
class Weights:
    """A weights folder. `name` is part of the metric ids, as in `clip@embedded`."""

    name: str
    folder: Path

    def part(self, name: str) -> Path:
        return self.folder / name

    def require(self, parts: Sequence[str]) -> None:
        """Raise UserError if a part is missing, or a file of a published part."""
        if missing := [part for part in parts if self._is_missing(part)]:
            raise UserError(f"There is no {_names(missing)} in {self.folder}; {self._fix(missing)}.")

    @property
    def is_published(self) -> bool:
        """Whether this is the default folder of `weights fetch`."""
        return self.folder == published_folder()

    @cached_property
    def distances(self) -> list[Distance]:
        """The distances that are measured: both network and reference exist."""
        return [d for d in DISTANCES.values() if d.metric == REQUIRED or not self.lacking(d)]

    @property
    def scorers(self) -> list[str]:
        """The parts that score an asset: the required ones, and those of the optional metrics that are measured."""
        parts = [part for distance in self.distances for part in (distance.part, distance.reference)]
        return list(dict.fromkeys([*EVALUATION, *parts, *filter(self.has, SCORER_PARTS)]))

    def has(self, part: str) -> bool:
        """Whether a part is there; in the folder of fetched weights, whether each of its published files is."""
        return not self._is_missing(part)

    def lacking(self, distance: Distance) -> list[str]:
        """Its missing parts, of network and reference."""
        return [part for part in (distance.part, distance.reference) if self._is_missing(part)]

    def left_out(self) -> list[str]:
        """A message for each distance with only one of its two parts, because the user probably expects it."""
        sentences = []
        for distance in DISTANCES.values():
            if distance.metric != REQUIRED and len(lacking := self.lacking(distance)) == 1:
                (present,) = {distance.part, distance.reference} - set(lacking)
                found = f"{self.folder} has {present} but no {lacking[0]}"
                sentences.append(f"{distance.metric} is not measured: {found}; {', then '.join(self._steps(lacking))}.")
        return sentences

    def _is_missing(self, part: str) -> bool:
        role = catalogue.of_part(part) if self.is_published else None
        return bool(role.missing(self.folder)) if role else not has_files(self.part(part))

    def _fix(self, missing: Sequence[str]) -> str:
        """How to get these parts."""
        if self.name == EMBEDDED:
            return "reinstall segmentdreamer, or train them with python -m pipeline.embedded.build"
        return f"{', then '.join(self._steps(missing))}, or give a complete folder with --weights DIR"

    def _steps(self, missing: Sequence[str]) -> list[str]:
        roles = {part: catalogue.of_part(part) for part in missing if part not in REFERENCES}
        fetched = [role.name for role in roles.values() if role]
        folder = "" if self.is_published else f" --weights {shlex.quote(str(self.folder))}"
        steps = [f"run segmentdreamer weights fetch {' '.join(fetched)}{folder}"] if fetched else []
        if set(missing) & set(REFERENCES):
            steps.append(f"run {catalogue.REFERENCE.command}{folder or f' --weights {PUBLISHED}'}")
        return steps + [f"put your own model into {part}/" for part, role in roles.items() if not role]

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each existing part that is used, over its file names and contents."""
        parts = [*GENERATION, "shape", "control", *self.scorers]
        return {part: digest_of(self.part(part)) for part in parts if self.part(part).exists()}

    def generation_digest(self, *, with_shape: bool, with_control: bool = False) -> str:
        """Digest of the models that generate an asset; with Point-E also the scorer, for its text vector."""
        parts = [*GENERATION, *(("shape", "scorer") if with_shape else ()), *(("control",) if with_control else ())]
        return digest([self.digests[part] for part in parts])

    def evaluation_digest(self, *, required_only: bool = False) -> str:
        """Digest of the models that score an asset; `required_only` excludes those of optional distances."""
        return digest([self.digests.get(part) for part in (EVALUATION if required_only else self.scorers)])


def published_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of fetched weights: SEGMENTDREAMER_WEIGHTS, or a folder in the platform's cache folder."""
    if chosen := environment.get(FOLDER_VARIABLE):
        return Path(chosen).expanduser().resolve()
    from platformdirs import user_cache_path

    return (user_cache_path("segmentdreamer", appauthor=False) / "weights").resolve()


def default_for(recipe: str) -> str:
    """The default weights of a recipe: published ones for the recipes with the paper's settings, else bundled ones."""
    return PUBLISHED if recipe in OF_PUBLISHED else EMBEDDED


def resolve(name_or_folder: str) -> Weights:
    """The bundled weights `embedded`, the fetched ones `published`, or those in a folder. Raises UserError."""
    if name_or_folder == EMBEDDED:
        from pipeline.embedded import weights_folder

        return Weights(EMBEDDED, weights_folder())
    if name_or_folder == PUBLISHED:
        return Weights(PUBLISHED, published_folder())
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise UserError(
            f"There is no weights folder {name_or_folder!r}; pass one with prior/, scorer/, reward/ and "
            f"reference.npz, or omit --weights for the bundled models."
        )
    folder = folder.resolve()
    return Weights(PUBLISHED if folder == published_folder() else slug(folder.name) or "models", folder)


def require_own(folder: Path, option: str) -> None:
    """Raise UserError for a folder to write to that is in the folder of the bundled models."""
    from pipeline.embedded import weights_folder

    if folder.resolve().is_relative_to(weights_folder().resolve()):
        raise UserError(
            f"{folder} belongs to the bundled models, which are part of the package; set {option} to another folder."
        )


def has_files(path: Path) -> bool:
    """Whether a path is a file, or a folder with a file that is not hidden. Interrupted fetches leave hidden files."""
    return path.is_file() or any(map(Path.is_file, path.rglob("[!.]*")))


def _names(parts: Sequence[str]) -> str:
    """`prior (Stable Diffusion 2.1-base) and scorer (…)`."""
    names = []
    for part in parts:
        role = catalogue.of_part(part)
        names.append(f"{role.name} ({role.model})" if role else part)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files in the order of their names; hidden files are ignored."""
    files = [path] if path.is_file() else sorted(path.rglob("[!.]*"))
    whole = hashlib.sha256()
    for file in filter(Path.is_file, files):
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        name = file.relative_to(path).as_posix() if path.is_dir() else path.name
        whole.update(f"{name} {content}\n".encode())
    return whole.hexdigest()
