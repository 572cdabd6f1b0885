"""Where the weights are, and their digests. One layout for the packaged models and for published ones in a folder.

prior/          Stable Diffusion folder          scorer/   open_clip local-dir
shape/          Point-E (only for recipes that begin with a cloud)
control/        ControlNet (only for recipes with guidance.control)
reward/         ImageReward                      reference.npz   moments that the Fréchet distance is taken from
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.errors import UserError
from pipeline.jobs import digest
from pipeline.prompts import slug

EMBEDDED = "embedded"
GENERATION, EVALUATION = ("prior",), ("scorer", "reward", "reference.npz")


@dataclass(frozen=True)
class Weights:
    """A folder of models. `name` goes into the ids of the metrics, as in `clip@embedded`."""

    name: str
    folder: Path

    def part(self, name: str) -> Path:
        return self.folder / name

    def require(self, parts: Sequence[str]) -> None:
        """Raise UserError unless these parts are there."""
        missing = [part for part in parts if not self.part(part).exists()]
        if missing:
            raise UserError(
                f"{self.folder} lacks {', '.join(missing)}; expected a folder with prior/, scorer/, reward/ and "
                "reference.npz (shape/ too for recipes that begin with a Point-E cloud, control/ for those with "
                "guidance.control)."
            )

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each part that is there: of its files' names and contents."""
        parts = [*GENERATION, "shape", "control", *EVALUATION]
        return {part: _digest_of(self.part(part)) for part in parts if self.part(part).exists()}

    def generation_digest(self, *, with_shape: bool, with_control: bool = False) -> str:
        """Of the models that make an asset. A cloud's text vector is the scorer's, so it counts then, too."""
        parts = [*GENERATION, *(("shape", "scorer") if with_shape else ()), *(("control",) if with_control else ())]
        return digest([self.digests[part] for part in parts])

    def evaluation_digest(self) -> str:
        """Of the models that judge one."""
        return digest([self.digests.get(part) for part in EVALUATION])


def resolve(name_or_folder: str) -> Weights:
    """The packaged weights, `embedded`, or those in a folder. Raises UserError."""
    if name_or_folder == EMBEDDED:
        from pipeline.embedded import weights_folder

        return Weights(EMBEDDED, weights_folder())
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise UserError(
            f"There is no folder of weights {name_or_folder!r}; give one with prior/, scorer/, reward/ and "
            f"reference.npz, or leave --weights out for the packaged models."
        )
    return Weights(slug(folder.resolve().name) or "models", folder.resolve())


def _digest_of(path: Path) -> str:
    """Of a file, or of a folder's files in the order of their names."""
    files = [path] if path.is_file() else sorted(path.rglob("[!.]*"))
    whole = hashlib.sha256()
    for file in filter(Path.is_file, files):
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        name = file.relative_to(path).as_posix() if path.is_dir() else path.name
        whole.update(f"{name} {content}\n".encode())
    return whole.hexdigest()
