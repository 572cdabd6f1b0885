"""Imports: folders of other people's assets as methods of a run, one file per prompt."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.digests import digest
from pipeline.errors import UserError, shortened
from pipeline.option import option
from pipeline.prompts.prompt import Prompt

IMPORT_VERSION = 1  # increase whenever the same file would be imported as another asset
OBJECTIVE = "imported"  # in the place of a distillation objective
UP_AXES, FITS, SHADINGS, AUTO = ("z", "y", "-y"), ("ball", "keep"), ("unlit", "lit"), "auto"
LONGEST_METHOD = 80


@dataclass(frozen=True)
class ImportOptions:
    """The options of imports. Each is passed once for all folders, or once for each."""

    assets: list[str] | None = option(
        None,
        metavar="FOLDER",
        help="Folder of another method's assets to import, one per prompt: splats (.ply, .splat, .spz, .sog, .glb, "
        ".usdz), meshes (.glb, .gltf, .obj, .ply, .stl, .off), or folders of views (images/000.png, …). Repeatable.",
    )
    method: list[str] | None = option(None, metavar="NAME", help="Name of the method of --assets on the leaderboard.")
    prompts: list[str] | None = option(
        None,
        metavar="NAME|FILE",
        complete="pipeline.prompts:bundled",
        help="Prompts of the assets: a .csv with columns file and prompt, or a suite, whose prompts are compared with "
        "the names of the files.",
        show_default="the prompts of the run; in a new folder, those of the bundled suites",
    )
    up: list[str] | None = option(
        None,
        metavar="AXIS",
        complete=f"{__name__}:UP_AXES",
        help="Up axis of the files: z, y or -y.",
        show_default="the format's convention",
    )
    front: list[str] | None = option(
        None,
        metavar="DEGREES|auto",
        help="Azimuth of the front in the files, or auto: the side that the scorer takes for the front.",
        show_default="0, the front of the format's convention",
    )
    fit: list[str] | None = option(
        None,
        metavar="ball|keep",
        complete=f"{__name__}:FITS",
        help="Size and place: ball fits the object into the views; keep leaves it as in the file.",
        show_default="ball",
    )
    shading: list[str] | None = option(
        None,
        metavar="unlit|lit",
        complete=f"{__name__}:SHADINGS",
        help="Meshes: unlit shows the base colour, lit adds a light.",
        show_default="unlit",
    )
    check: bool = option(
        False, "--check", help="Import only, and write a contact sheet for each method to check the axes."
    )

    def sources(self) -> list["Source"]:
        """One per folder. Raises UserError."""
        folders, methods = self.assets or [], self.method or []
        if not folders:
            given = next(name for name, value in asdict(self).items() if value)
            raise UserError(f"--{given} requires --assets, the folder of the files to import; pass it, or omit both.")
        if len(methods) != len(folders):
            raise UserError(
                f"--assets was passed {len(folders)} times and --method {len(methods)} times; pass a name for each."
            )
        if doubled := next((name for name in methods if methods.count(name) > 1), None):
            raise UserError(f"--method {doubled!r} was passed twice; give each folder a name of its own.")
        columns = [_for_each(name, getattr(self, name), len(folders)) for name in ("up", "front", "fit", "shading")]
        prompts = _for_each("prompts", self.prompts, len(folders))
        return [
            Source(Path(folder), _method(name), listed, Placing.of(*values))
            for folder, name, listed, *values in zip(folders, methods, prompts, *columns, strict=True)
        ]

    @property
    def are_given(self) -> bool:
        """Whether any of these options was passed."""
        return any(asdict(self).values())


@dataclass(frozen=True)
class Placing:
    """How files are brought into our axes. `up`: None is the format's convention. `front`: degrees, or auto."""

    up: str | None = None
    front: str = "0"
    fit: str = "ball"
    shading: Literal["unlit", "lit"] = "unlit"

    @classmethod
    def of(cls, up: str | None, front: str | None, fit: str | None, shading: str | None) -> "Placing":
        """Raises UserError for values of options that are out of range."""
        for name, value, known in (("up", up, UP_AXES), ("fit", fit, FITS), ("shading", shading, SHADINGS)):
            if value is not None and value not in known:
                raise UserError(f"Unknown value {value!r} for --{name}; choose from {', '.join(known)}.")
        return cls(up, _front(front or "0"), fit or "ball", "lit" if shading == "lit" else "unlit")


@dataclass(frozen=True)
class Source:
    """A folder to import as the method of this name. `prompts` is the value of --prompts."""

    folder: Path
    method: str
    prompts: str | None
    placing: Placing


class Entry(NamedTuple):
    """A file to import, or a folder of views: its name in the folder of assets; no path if it does not exist."""

    name: str
    path: Path | None


@dataclass(frozen=True)
class ImportJob:
    """One asset to import. `size`: pixels of its views. `scorer`: the digest of the scorer that finds the front."""

    prompt: Prompt
    method: str
    entry: Entry
    sha256: str
    placing: Placing
    size: int
    seed: int
    scorer: str | None = None
    objective: str = OBJECTIVE

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits: the digest of everything that can change the imported asset, and of the method."""
        content = {
            "import_version": IMPORT_VERSION,
            "text": self.prompt.text,
            "method": self.method,
            "sha256": self.sha256,
            "placing": asdict(self.placing),
            "size": self.size,
            "scorer": self.scorer if self.placing.front == AUTO else None,
        }
        return digest(content)[:16]


def _for_each(name: str, values: Sequence[str] | None, count: int) -> list[Any]:
    """The value of an option for each folder. Raises UserError."""
    if not values:
        return [None] * count
    if len(values) not in (1, count):
        raise UserError(f"--{name} was passed {len(values)} times for {count} folders; pass it once, or for each.")
    return list(values) * (count if len(values) == 1 else 1)


def _front(text: str) -> str:
    """The front as stored: degrees in [0, 360), or auto. Raises UserError."""
    if text == AUTO:
        return AUTO
    try:
        degrees = float(text)
    except ValueError:
        degrees = math.nan
    if not math.isfinite(degrees):
        raise UserError(f"--front is {text!r}; expected degrees, as in --front 90, or auto.")
    return f"{degrees % 360:g}"


def _method(name: str) -> str:
    if not name.strip() or len(name) > LONGEST_METHOD or not name.isprintable():
        raise UserError(
            f"--method is {shortened(name)!r}; expected a name of 1 to {LONGEST_METHOD} printable characters."
        )
    return name.strip()
