"""One asset → files of other programs: which asset is meant, what each format keeps, and its bytes."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import UserError, nearest, shortened
from pipeline.store import manifest
from pipeline.store.run_folder import ASSET, Store

if TYPE_CHECKING:
    from sctd.scene.gaussians import Gaussians

# Of each format the axis that points up where nothing else is asked for; None where there are no axes.
FORMATS = {
    "ply": "z",
    "splat": "-y",
    "spz": "y",
    "sog": "-y",
    "glb": "y",
    "obj": "y",
    "mp4": None,
    "gif": None,
    "png": None,
}
UPS = "z", "y", "-y"
ONE_COLOUR = "splat", "sog"  # for all directions
MESH_CELLS = 128  # along the longest side
SMALLEST_PIXELS, MOST_PIXELS = 16, 2048
TURNTABLE_VIEWS, GIF_VIEWS, ELEVATION_DEGREES, RADIUS, FOV_Y_RADIANS = 120, 48, 15.0, 3.5, 0.55


class Options(NamedTuple):
    """How to write: pixels of pictures and films, azimuth of a single view, what is up, a mesh instead of splats."""

    pixels: int = 512
    azimuth_degrees: float | None = None
    up: str | None = None
    mesh: bool = False


class Asset(NamedTuple):
    """A .ply of Gaussians, and what to call its files and captions."""

    path: Path
    name: str
    caption: str


def export(
    source: Path, formats: Sequence[str], out: Path | None, options: Options, prompt: str | None, job: str | None
) -> None:
    """Write the asset in each format; say what a format cannot hold. Raises UserError before anything is written."""
    formats = list(dict.fromkeys(formats))
    check(formats, options)
    asset = found(source, prompt, job)
    targets = _targets(asset, formats, out)
    gaussians = _read(asset.path)
    for kind, path in targets.items():
        if kind in ONE_COLOUR and gaussians.sh_degree:
            _say(
                f"Left out of {path.name}: the spherical harmonics of degree 1 to {gaussians.sh_degree}; a .{kind} has "
                "one colour for all directions (.ply, .spz and .glb keep them)."
            )
        try:
            content = _contents(gaussians, asset.caption, kind, options)
        except ValueError as error:
            raise UserError(f"{asset.path} cannot be written as .{kind}. {error}") from error
        Store(path.parent).write(path, content)
        print(f"{path}  ({len(content):,} bytes)")


def check(formats: Sequence[str], options: Options) -> None:
    """Raise UserError for a format there is not, or options that cannot be meant."""
    for kind in formats:
        if kind not in FORMATS:
            hint = nearest(kind, FORMATS)
            raise UserError(f"There is no format {kind!r}; --to is one of {', '.join(FORMATS)}{hint}.")
    if options.up is not None and options.up not in UPS:
        raise UserError(
            f"--up is {options.up!r}; give z, y or -y, or leave it out for what the format's readers expect."
        )
    if options.mesh and "glb" not in formats:
        raise UserError("--mesh is for --to glb, which holds splats otherwise; an .obj is always a mesh.")
    if not SMALLEST_PIXELS <= options.pixels <= MOST_PIXELS:
        raise UserError(f"--size is {options.pixels}; give {SMALLEST_PIXELS} to {MOST_PIXELS} pixels.")
    if options.azimuth_degrees is not None and "png" not in formats:
        raise UserError("--azimuth is for --to png: one view instead of a contact sheet.")


def found(source: Path, prompt: str | None, job: str | None) -> Asset:
    """The asset that is meant: a .ply, an item's folder, or the one of a run folder. Raises UserError."""
    if source.is_file() or source.suffix == ".ply":
        if not source.is_file():
            raise UserError(f"{source} does not exist; give a .ply of Gaussians, an item's folder or a run folder.")
        return _asset(source, source.parent.name if source.name == ASSET else source.stem)
    if (source / ASSET).is_file():
        return _asset(source / ASSET, source.name)
    if not (source / manifest.FILE).is_file():
        raise UserError(
            f"{source} is no asset: expected a .ply of Gaussians, an item's folder with {ASSET}, or a run folder with "
            f"{manifest.FILE}."
        )
    store = Store(source)
    jobs = manifest.read(store)["jobs"]
    chosen = [each for each in jobs if _is_meant(each, prompt, job)]
    if not chosen:
        known = ", ".join(repr(text) for text in dict.fromkeys(each["prompt"] for each in jobs))
        asked = f"--job {job}" if job else f"--prompt {prompt!r}"
        raise UserError(f"{source} has no asset for {asked}; its prompts are {shortened(known, 200)}.")
    made = [each for each in chosen if (store.item(each["job_id"]) / ASSET).is_file()]
    if not made:
        raise UserError(f"{source} has no asset made yet for {chosen[0]['prompt']!r}; finish the run first.")
    if len(made) > 1:
        listed = "; ".join(f"{each['job_id']} {each['prompt']!r} by {each['method']}" for each in made[:4])
        more = f"; and {len(made) - 4} more" if len(made) > 4 else ""
        raise UserError(f"{source} has {len(made)} assets; choose one by --prompt or --job: {listed}{more}.")
    (one,) = made
    return Asset(store.item(one["job_id"]) / ASSET, _file_name(one["prompt"]), one["prompt"])


def _is_meant(each: dict[str, Any], prompt: str | None, job: str | None) -> bool:
    return (prompt is None or prompt in (each["prompt"], each["prompt_id"])) and (
        job is None or each["job_id"].startswith(job)
    )


def _asset(path: Path, name: str) -> Asset:
    """An asset by its file; of a run's item the manifest two folders above knows the prompt."""
    root = path.parent.parent.parent
    if path.parent.parent.name == "items" and (root / manifest.FILE).is_file():
        for each in manifest.read(Store(root))["jobs"]:
            if each["job_id"] == path.parent.name:
                return Asset(path, _file_name(each["prompt"]), each["prompt"])
    return Asset(path, name, name)


def _file_name(prompt: str) -> str:
    """Letters, digits and dashes of a prompt."""
    words = "".join(letter if letter.isalnum() else " " for letter in prompt.lower()).split()
    return "-".join(words)[:60].rstrip("-") or "asset"


def _targets(asset: Asset, formats: Sequence[str], out: Path | None) -> dict[str, Path]:
    """Where each file goes: here under the asset's name, in the folder --out, or, of one format, at --out."""
    if out is None or out.is_dir():
        targets = {kind: (out or Path()) / f"{asset.name}.{kind}" for kind in formats}
    elif len(formats) > 1:
        raise UserError(f"--out {out} is no folder, and {len(formats)} files are to be written; make it one first.")
    elif out.suffix != f".{formats[0]}":
        raise UserError(
            f"--out {out} ends with {out.suffix!r} and --to is {formats[0]}; give it the ending .{formats[0]}."
        )
    else:
        targets = {formats[0]: out}
    for path in targets.values():
        if path.resolve() == asset.path.resolve():
            raise UserError(f"{path} is the asset itself; choose another --out.")
    return targets


def _read(path: Path) -> "Gaussians":
    from sctd.formats import ply

    try:
        gaussians = ply.from_ply(path.read_bytes())
    except ply.PlyError as error:
        raise UserError(f"{path} is no asset. {error}") from error
    if not gaussians.num:
        raise UserError(f"{path} holds no Gaussian; give an asset that was made.")
    return gaussians


def _contents(gaussians: "Gaussians", caption: str, kind: str, options: Options) -> bytes:
    """The bytes of one file."""
    if FORMATS[kind] is None:
        return _picture(gaussians, caption, kind, options)
    from sctd.formats.axes import axes, turned

    rotation = axes(options.up or str(FORMATS[kind]))
    if kind == "obj" or (kind == "glb" and options.mesh):
        from sctd.formats.mesh import to_mesh_file
        from sctd.render.mesh_fusion import fused

        vertices, faces, rgb = fused(gaussians, MESH_CELLS)
        return to_mesh_file(vertices @ rotation.to(vertices).T, faces, rgb, f".{kind}")
    return _writer(kind)(turned(gaussians, rotation))


def _writer(kind: str) -> "Callable[[Gaussians], bytes]":
    from sctd.formats import gltf, ply, sog, splat, spz

    writers = {"ply": ply.to_ply, "splat": splat.to_splat, "spz": spz.to_spz, "sog": sog.to_sog, "glb": gltf.to_glb}
    return writers[kind]


def _picture(gaussians: "Gaussians", caption: str, kind: str, options: Options) -> bytes:
    from pipeline.assets import images as pictures
    from sctd.scene.cameras import on_sphere, orbit

    around = partial(orbit, elevation_degrees=ELEVATION_DEGREES, radius=RADIUS, fov_y_radians=FOV_Y_RADIANS)
    if kind == "mp4":
        return pictures.video(pictures.on_white(gaussians, around(TURNTABLE_VIEWS, size=options.pixels)))
    if kind == "gif":
        return pictures.animation(pictures.on_white(gaussians, around(GIF_VIEWS, size=options.pixels)))
    if options.azimuth_degrees is None:
        views = pictures.on_white(gaussians, around(pictures.SHEET_VIEWS, size=2 * pictures.THUMBNAIL_PIXELS))
        return pictures.contact_sheet(views, caption)
    import torch

    azimuth, elevation, radius, fov_y = torch.tensor(
        [[options.azimuth_degrees], [ELEVATION_DEGREES], [RADIUS], [FOV_Y_RADIANS]]
    )
    camera = on_sphere(azimuth, elevation, radius, fov_y, options.pixels)
    return pictures.picture(pictures.on_white(gaussians, camera)[0])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
