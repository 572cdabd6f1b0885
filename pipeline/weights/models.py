"""Where the weights are, and their digests. One layout for the packaged models and for published ones in a folder.

prior/          Stable Diffusion folder          scorer/   open_clip local-dir
shape/          Point-E (only for recipes that begin with a cloud)
control/        ControlNet (only for recipes with guidance.control)
reward/         ImageReward                      reference.npz   moments that the Fréchet distance is taken from
inception/      Inception-v3                     dinov2/   DINOv2, each only for its distances (pipeline.weights.networks),
reference-inception.npz, reference-inception_tf.npz, reference-dinov2.npz   and only beside the reference of its own
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
from pipeline.weights.networks import DISTANCES, REQUIRED, Distance

EMBEDDED, PUBLISHED = "embedded", "published"
OF_PUBLISHED = "paper", "paper-portrait", "paper-avatar"  # recipes for Stable Diffusion 2.1
FOLDER_VARIABLE = "SEGMENTDREAMER_WEIGHTS"
GENERATION, EVALUATION = ("prior",), ("scorer", "reward", "reference.npz")
REFERENCES = tuple(distance.reference for distance in DISTANCES.values())
JUDGES = frozenset({*EVALUATION, *REFERENCES, *(distance.part for distance in DISTANCES.values())})


@dataclass(frozen=True)
class Weights:
    """A folder of models. `name` goes into the ids of the metrics, as in `clip@embedded`."""

    name: str
    folder: Path

    def part(self, name: str) -> Path:
        return self.folder / name

    def require(self, parts: Sequence[str]) -> None:
        """Raise UserError unless these parts are there, of fetched ones every file."""
        if missing := [part for part in parts if self._lacks(part)]:
            raise UserError(f"There is no {_listed(missing)} in {self.folder}; {self._mend(missing)}.")

    @property
    def is_published(self) -> bool:
        """Whether this is the folder that `weights fetch` fills."""
        return self.folder == published_folder()

    @cached_property
    def distances(self) -> list[Distance]:
        """Those that are measured: whose network and whose reference are both there."""
        return [d for d in DISTANCES.values() if d.metric == REQUIRED or not self.lacking(d)]

    @property
    def judges(self) -> list[str]:
        """The parts that judge an asset: those that every run needs, and those of the other distances."""
        parts = [part for distance in self.distances for part in (distance.part, distance.reference)]
        return list(dict.fromkeys([*EVALUATION, *parts]))

    def lacking(self, distance: Distance) -> list[str]:
        """Which of its two parts are not there."""
        return [part for part in (distance.part, distance.reference) if self._lacks(part)]

    def left_out(self) -> list[str]:
        """A sentence for each distance of which one part is there and the other is not: somebody expects it."""
        sentences = []
        for distance in DISTANCES.values():
            if distance.metric != REQUIRED and len(lacking := self.lacking(distance)) == 1:
                (there,) = {distance.part, distance.reference} - set(lacking)
                found = f"{self.folder} has {there} and no {lacking[0]}"
                sentences.append(f"{distance.metric} is left out: {found}; {', then '.join(self._steps(lacking))}.")
        return sentences

    def _lacks(self, part: str) -> bool:
        role = catalogue.of_part(part) if self.is_published else None
        return bool(role.missing(self.folder)) if role else not has_files(self.part(part))

    def _mend(self, missing: Sequence[str]) -> str:
        """What to run for these parts, and what to put there that nothing fetches."""
        if self.name == EMBEDDED:
            return "install segmentdreamer again, or train them by python -m pipeline.embedded.build"
        return f"{', then '.join(self._steps(missing))}, or give a folder that has all by --weights DIR"

    def _steps(self, missing: Sequence[str]) -> list[str]:
        roles = {part: catalogue.of_part(part) for part in missing if part not in REFERENCES}
        fetched = [role.name for role in roles.values() if role]
        folder = "" if self.is_published else f" --weights {shlex.quote(str(self.folder))}"
        steps = [f"run segmentdreamer weights fetch {' '.join(fetched)}{folder}"] if fetched else []
        if set(missing) & set(REFERENCES):
            steps.append(f"run {catalogue.REFERENCE.command}{folder or f' --weights {PUBLISHED}'}")
        return steps + [f"put a model of your own into {part}/" for part, role in roles.items() if not role]

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each part that is there and used: of its files' names and contents."""
        parts = [*GENERATION, "shape", "control", *self.judges]
        return {part: digest_of(self.part(part)) for part in parts if self.part(part).exists()}

    def generation_digest(self, *, with_shape: bool, with_control: bool = False) -> str:
        """Of the models that make an asset. A cloud's text vector is the scorer's, so it counts then, too."""
        parts = [*GENERATION, *(("shape", "scorer") if with_shape else ()), *(("control",) if with_control else ())]
        return digest([self.digests[part] for part in parts])

    def evaluation_digest(self, *, required_only: bool = False) -> str:
        """Of the models that judge one; `required_only` leaves out those that a folder may or may not have."""
        return digest([self.digests.get(part) for part in (EVALUATION if required_only else self.judges)])


def published_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where fetched weights lie: SEGMENTDREAMER_WEIGHTS, else below the platform's folder for caches."""
    if chosen := environment.get(FOLDER_VARIABLE):
        return Path(chosen).expanduser().resolve()
    from platformdirs import user_cache_path

    return (user_cache_path("segmentdreamer", appauthor=False) / "weights").resolve()


def default_for(recipe: str) -> str:
    """What a recipe of this name runs on unless --weights says otherwise: those of the paper's settings, published."""
    return PUBLISHED if recipe in OF_PUBLISHED else EMBEDDED


def resolve(name_or_folder: str) -> Weights:
    """The packaged weights `embedded`, the fetched ones `published`, or those in a folder. Raises UserError."""
    if name_or_folder == EMBEDDED:
        from pipeline.embedded import weights_folder

        return Weights(EMBEDDED, weights_folder())
    if name_or_folder == PUBLISHED:
        return Weights(PUBLISHED, published_folder())
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise UserError(
            f"There is no folder of weights {name_or_folder!r}; give one with prior/, scorer/, reward/ and "
            f"reference.npz, or leave --weights out for the packaged models."
        )
    folder = folder.resolve()
    return Weights(PUBLISHED if folder == published_folder() else slug(folder.name) or "models", folder)


def has_files(path: Path) -> bool:
    """Whether a file is there, or in a folder anything but hidden files, as those of a fetch that was cut off."""
    return path.is_file() or any(map(Path.is_file, path.rglob("[!.]*")))


def _listed(parts: Sequence[str]) -> str:
    """`prior (Stable Diffusion 2.1-base) and scorer (…)`."""
    names = []
    for part in parts:
        role = catalogue.of_part(part)
        names.append(f"{role.name} ({role.model})" if role else part)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def digest_of(path: Path) -> str:
    """Of a file, or of a folder's files in the order of their names."""
    files = [path] if path.is_file() else sorted(path.rglob("[!.]*"))
    whole = hashlib.sha256()
    for file in filter(Path.is_file, files):
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        name = file.relative_to(path).as_posix() if path.is_dir() else path.name
        whole.update(f"{name} {content}\n".encode())
    return whole.hexdigest()
