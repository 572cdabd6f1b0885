"""Exports one asset to other formats: selects the asset, checks the options and writes the files."""

import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.assets.custom import check_exportable
from pipeline.errors import UserError, nearest, shortened
from pipeline.option import option
from pipeline.store import manifest
from pipeline.store.records import JobEntry
from pipeline.store.run_folder import ASSET, NERF, Store

if TYPE_CHECKING:
    from sctd.scene.gaussians import Gaussians

Page = Callable[[bytes, str], bytes]
"""From a .ply in our axes and a title to a page that shows it."""
Shown = Callable[[Any], Any]
"""From cameras to views on white, uint8 [views, height, width, 3]."""

logger = logging.getLogger(__name__)

# The default up axis of each format; None for pages, images and videos.
FORMATS = {
    "ply": "z",
    "compressed.ply": "-y",
    "splat": "-y",
    "spz": "y",
    "sog": "-y",
    "glb": "y",
    "usda": "y",
    "usdz": "y",
    "obj": "y",
    "html": None,
    "mp4": None,
    "gif": None,
    "png": None,
}
UP_AXES = "z", "y", "-y"
FIELD = ".safetensors"  # suffix of a NeRF, which is read as Gaussians
SPLATS = ".ply", ".splat", ".spz", ".sog", ".glb", ".usda", ".usdc", ".usdz"  # suffixes of files of Gaussians
OPEN_USD = "usda", "usdc", "usdz"
SPZ_VERSIONS = 3, 4
PICTURES = [kind for kind, up in FORMATS.items() if up is None and kind != "html"]
ONE_COLOUR = "splat", "sog"  # without spherical harmonics above degree 0
MESH_CELLS = 128  # along the longest side
SMALLEST_PIXELS, MOST_PIXELS = 16, 2048
TURNTABLE_VIEWS, GIF_VIEWS, ELEVATION_DEGREES, RADIUS, FOV_Y_RADIANS = 120, 48, 15.0, 3.5, 0.55


@dataclass(frozen=True)
class Options:
    """Export options."""

    mesh: bool = option(False, "--mesh", help="With --to glb, export a triangle mesh instead of splats.")
    up: str | None = option(None, metavar="AXIS", help="Up axis: z, y or -y.", show_default="the format's convention")
    size: int = option(512, metavar="PIXELS", help="Width and height of videos and views, in pixels.")
    azimuth: float | None = option(
        None,
        metavar="DEGREES",
        help="Render one view at this azimuth (0 is the front) for --to png. Without it, a contact sheet is written.",
    )
    sh_degree: int | None = option(
        None,
        metavar="N",
        help="Degree of the spherical harmonics, 0 to 3: higher ones are left out, missing ones are zero.",
        show_default="as in the asset",
    )
    spz_version: int = option(3, metavar="N", help="Version of a .spz: 3, which most programs read, or 4.")
    drop_invalid: bool = option(
        False, "--drop-invalid", help="Leave out Gaussians with NaN, infinite or overflowing values instead of failing."
    )


DEFAULTS = Options()


class Exported(NamedTuple):
    """What is exported: as Gaussians, as a function from cameras to views on white, and as a coloured mesh."""

    gaussians: "Gaussians"
    views: Shown
    mesh: Callable[[], Any]


class AssetFile(NamedTuple):
    """A file of Gaussians, the name of its exported files, and its caption."""

    path: Path
    name: str
    caption: str


def export(
    source: Path,
    formats: Sequence[str],
    out: Path | None,
    options: Options,
    prompt: str | None,
    job: str | None,
    viewer: Callable[[], Page],
) -> Iterator[str]:
    """Write the asset in each format and yield each file with its size; log losses.

    `viewer()` prepares the viewer of pages and returns the function that makes one. Raises UserError before a file of
    that format is written.
    """
    formats = list(dict.fromkeys(formats))
    check(formats, options)
    asset = find_asset(source, prompt, job)
    targets = _targets(asset, formats, out)
    page = viewer() if "html" in targets else None
    from pipeline.assets import images

    gaussians = _read(asset.path, drop_invalid=options.drop_invalid)
    splats = [kind for kind in targets if kind not in PICTURES and not _is_mesh(kind, options)]
    if asset.path.suffix.lower() == FIELD and splats:
        logger.warning(f"A NeRF becomes {gaussians.num:,} Gaussians, one per visible cell, in .{', .'.join(splats)}.")
    if (degree := options.sh_degree) is not None:
        if gaussians.sh[:, (degree + 1) ** 2 :].any():
            logger.warning(f"The spherical harmonics of degree {degree + 1} to {gaussians.sh_degree} are left out.")
        gaussians = gaussians.with_sh_degree(degree)
    exported = _exported(asset.path, gaussians)
    for kind, path in targets.items():
        if kind in ONE_COLOUR and gaussians.sh_degree:
            logger.warning(
                f"{path.name} omits the spherical harmonics of degree 1 to {gaussians.sh_degree}: a .{kind} has one "
                "colour for all directions (.ply, .spz and .glb keep them)."
            )
        if kind == "mp4" and (pixels := images.video_pixels(options.size)) != options.size:
            logger.warning(f"{path.name} is {pixels} pixels wide and high: an .mp4 has an even number of at least 256.")
        if clamped := _num_clamped(gaussians, kind):
            logger.warning(
                f"{path.name}: sizes or colours of {clamped:,} Gaussians are outside the range of a .{kind} and "
                "clamped."
            )
        try:
            content = _contents(exported, asset.caption, kind, options, page)
        except ValueError as error:
            raise UserError(f"{asset.path} cannot be written as .{kind}. {error}") from error
        Store(path.parent).write(path, content)
        yield f"{path}  ({len(content):,} bytes)"


def check(formats: Sequence[str], options: Options) -> None:
    """Raise UserError for an unknown format or invalid options."""
    for kind in formats:
        if kind not in FORMATS:
            hint = nearest(kind, FORMATS)
            raise UserError(f"Unknown value {kind!r} for --to; choose from {', '.join(FORMATS)}{hint}.")
    if options.up is not None and options.up not in UP_AXES:
        raise UserError(f"--up is {options.up!r}; expected z, y or -y, or omit it for the format's default axis.")
    if options.mesh and "glb" not in formats:
        raise UserError("--mesh requires --to glb (without --mesh, a .glb contains splats); an .obj is always a mesh.")
    if not SMALLEST_PIXELS <= options.size <= MOST_PIXELS:
        raise UserError(f"--size is {options.size}; expected {SMALLEST_PIXELS} to {MOST_PIXELS} pixels.")
    if options.sh_degree is not None and options.sh_degree not in range(4):
        raise UserError(f"--sh-degree is {options.sh_degree}; expected 0 to 3.")
    if options.spz_version not in SPZ_VERSIONS:
        raise UserError(f"--spz-version is {options.spz_version}; expected 3 or 4.")
    if options.spz_version != SPZ_VERSIONS[0] and "spz" not in formats:
        raise UserError("--spz-version requires --to spz.")
    if usd := [kind for kind in formats if kind in OPEN_USD]:
        if options.up == "-y":
            raise UserError(f"--up -y is not possible with --to {usd[0]}: OpenUSD has y or z up.")
        if importlib.util.find_spec("pxr") is None:
            raise UserError(f"--to {usd[0]} needs usd-core, which is not installed; pip install 'segmentdreamer[usd]'.")
    if options.azimuth is not None and "png" not in formats:
        raise UserError("--azimuth requires --to png: it writes one view instead of a contact sheet.")


def find_asset(source: Path, prompt: str | None, job: str | None) -> AssetFile:
    """The asset in a .ply or an item's folder, or the selected one of a run folder. Raises UserError."""
    check_exportable(source)
    if source.is_file() or source.suffix in (*SPLATS, FIELD):
        if not source.is_file():
            raise UserError(f"{source} does not exist; pass a file of Gaussians, an item's folder or a run folder.")
        stem = source.stem.removesuffix(".compressed")
        return _asset(source, source.parent.name if source.name in (ASSET, NERF) else stem)
    if found := _finished(source):
        return _asset(found, source.name)
    if not (source / manifest.FILE).is_file():
        raise UserError(
            f"{source} is not an asset; expected a file of Gaussians ({', '.join(SPLATS)}), an item's folder with "
            f"{ASSET}, or a run folder with {manifest.FILE}."
        )
    jobs = manifest.read(store := Store(source)).jobs
    chosen = [each for each in jobs if _matches(each, prompt, job)]
    if not chosen:
        known = ", ".join(repr(text) for text in dict.fromkeys(each.prompt for each in jobs))
        selection = f"--job {job}" if job else f"--prompt {prompt!r}"
        raise UserError(f"{source} has no asset for {selection}; its prompts are {shortened(known, 200)}.")
    finished = [each for each in chosen if _finished(store.item(each.job_id))]
    if not finished:
        check_exportable(store.item(chosen[0].job_id))
        raise UserError(f"{source} has no finished asset for {chosen[0].prompt!r}; finish the run first.")
    if len(finished) > 1:
        listed = "; ".join(f"{each.job_id} {each.prompt!r} by {each.method}" for each in finished[:4])
        more = f"; and {len(finished) - 4} more" if len(finished) > 4 else ""
        raise UserError(f"{source} has {len(finished)} assets; choose one with --prompt or --job: {listed}{more}.")
    return _item(store, finished[0], jobs)


def _finished(folder: Path) -> Path | None:
    """The finished asset in an item's folder, if there is one."""
    return next((path for path in (folder / ASSET, folder / NERF) if path.is_file()), None)


def _matches(each: JobEntry, prompt: str | None, job: str | None) -> bool:
    return (prompt is None or prompt in (each.prompt, each.prompt_id)) and (job is None or each.job_id.startswith(job))


def _asset(path: Path, name: str) -> AssetFile:
    """The asset in a file; an item of a run takes its name from the prompt in the run's manifest."""
    root = path.parent.parent.parent
    if path.parent.parent.name == "items" and (root / manifest.FILE).is_file():
        jobs = manifest.read(Store(root)).jobs
        for each in jobs:
            if each.job_id == path.parent.name:
                return _item(Store(root), each, jobs)
    return AssetFile(path, name, name)


def _item(store: Store, one: JobEntry, jobs: Sequence[JobEntry]) -> AssetFile:
    """The asset of a job, named after its prompt, and after its method or job too if another job has the same name."""
    names = one.prompt, f"{one.prompt} {one.method}", f"{one.prompt} {one.job_id}"
    others = [each for each in jobs if each.job_id != one.job_id]
    taken = {_file_name(text) for each in others for text in (each.prompt, f"{each.prompt} {each.method}")}
    name = next((_file_name(text) for text in names if _file_name(text) not in taken), _file_name(one.job_id))
    folder = store.item(one.job_id)
    return AssetFile(_finished(folder) or folder / ASSET, name, one.prompt)


def _file_name(prompt: str) -> str:
    """A file name of letters, digits and dashes for a prompt."""
    words = "".join(letter if letter.isalnum() else " " for letter in prompt.lower()).split()
    return "-".join(words)[:60].rstrip("-") or "asset"


def _targets(asset: AssetFile, formats: Sequence[str], out: Path | None) -> dict[str, Path]:
    """The path of each file: --out, or the asset's name in the folder --out or in the current folder."""
    if out is None or out.is_dir():
        targets = {kind: (out or Path()) / f"{asset.name}.{kind}" for kind in formats}
    elif len(formats) > 1:
        raise UserError(f"--out {out} is not a folder, but {len(formats)} formats were requested; create it first.")
    elif (suffix := _suffix(out)) != f".{formats[0]}":
        raise UserError(f"--out {out} ends with {suffix!r} and --to is {formats[0]}; use the extension .{formats[0]}.")
    else:
        targets = {formats[0]: out}
    for path in targets.values():
        if path.resolve() == asset.path.resolve():
            raise UserError(f"{path} is the asset itself; choose another --out.")
    return targets


def _suffix(path: Path) -> str:
    """The longest suffix that is a format, or the last one."""
    formats = [f".{kind}" for kind in FORMATS if path.name.endswith(f".{kind}")]
    return max(formats, key=len, default=path.suffix)


def _read(path: Path, *, drop_invalid: bool) -> "Gaussians":
    """The Gaussians of a file in our axes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); pass a readable file.") from error
    return gaussians_of(content, path, drop_invalid=drop_invalid)


def gaussians_of(content: bytes, path: Path, *, drop_invalid: bool = False) -> "Gaussians":
    """The Gaussians of the content of a file, in our axes. Raises UserError."""
    from sctd.formats.axes import axes, rotated
    from sctd.formats.common import FormatError, InvalidGaussiansError
    from sctd.formats.ply import is_compressed

    kind = path.suffix[1:].lower()
    if path.suffix.lower() == FIELD:
        return _of_field(content, path)
    if path.suffix.lower() not in SPLATS:  # a .ply may have any name
        if not content.startswith(b"ply"):
            raise UserError(
                f"{path} is not in a format of Gaussians that is read here ({', '.join(SPLATS)}); convert it first."
            )
        kind = "ply"
    if kind == "ply" and is_compressed(content):
        kind = "compressed.ply"
    try:
        gaussians = _codec(kind).read(content, drop_invalid=drop_invalid)
    except InvalidGaussiansError as error:
        raise UserError(f"{path}: {error}") from error
    except FormatError as error:
        raise UserError(f"{path} cannot be read. {error}") from error
    gaussians = rotated(gaussians, axes("y" if kind in OPEN_USD else str(FORMATS[kind])).T)
    if not gaussians.num:
        raise UserError(f"{path} contains no Gaussians; pass a finished asset.")
    return gaussians


def _of_field(content: bytes, path: Path) -> "Gaussians":
    """The Gaussians of a NeRF."""
    from sctd.formats.common import FormatError
    from sctd.render import nerf_export, nerf_file

    try:
        return nerf_export.to_gaussians(nerf_file.from_bytes(content))
    except (FormatError, nerf_export.EmptyFieldError) as error:
        raise UserError(f"{path} cannot be read. {error}") from error


def _exported(path: Path, gaussians: "Gaussians") -> Exported:
    """What is exported of the Gaussians that a file was read as."""
    if path.suffix.lower() == FIELD:
        from pipeline.assets.objects import RadianceField
        from sctd.render import nerf_export, nerf_file

        field = nerf_file.from_bytes(path.read_bytes())
        views = partial(RadianceField(field).views, device="cpu")
        return Exported(gaussians, views, partial(nerf_export.to_mesh, field))
    from pipeline.assets.images import on_white
    from sctd.render.mesh_fusion import fuse

    return Exported(gaussians, partial(on_white, gaussians), partial(fuse, gaussians, MESH_CELLS))


def _is_mesh(kind: str, options: Options) -> bool:
    return kind == "obj" or (kind == "glb" and options.mesh)


def _contents(exported: Exported, caption: str, kind: str, options: Options, page: Page | None) -> bytes:
    """The bytes of one file."""
    if kind == "html" and page is not None:
        from sctd.formats.ply import to_compressed_ply

        return page(to_compressed_ply(exported.gaussians), caption)
    if FORMATS[kind] is None:
        return _image_or_video(exported.views, caption, kind, options)
    from sctd.formats.axes import axes, rotated

    rotation = axes(options.up or str(FORMATS[kind]))
    if _is_mesh(kind, options):
        from sctd.formats.mesh import to_mesh_file

        vertices, faces, rgb = exported.mesh()
        return to_mesh_file(vertices @ rotation.to(vertices).T, faces, rgb, f".{kind}")
    return _codec(kind, options).write(rotated(exported.gaussians, rotation))


def _num_clamped(gaussians: "Gaussians", kind: str) -> int:
    """Number of Gaussians with values outside the range of a format."""
    from sctd.formats import compressed_ply, spz

    count = {"spz": spz.num_clamped, "compressed.ply": compressed_ply.num_clamped}.get(kind)
    return count(gaussians) if count else 0


class _Codec(NamedTuple):
    read: "Callable[..., Gaussians]"
    write: "Callable[[Gaussians], bytes]"


def _codec(kind: str, options: Options = DEFAULTS) -> _Codec:
    """The functions that read and write a format of splats."""
    from sctd.formats import gltf, ply, sog, splat, spz, usd

    up = options.up or "y"
    return {
        "ply": _Codec(ply.from_ply, ply.to_ply),
        "compressed.ply": _Codec(ply.from_ply, ply.to_compressed_ply),
        "splat": _Codec(splat.from_splat, splat.to_splat),
        "spz": _Codec(spz.from_spz, partial(spz.to_spz, version=options.spz_version)),
        "sog": _Codec(sog.from_sog, sog.to_sog),
        "glb": _Codec(gltf.from_glb, gltf.to_glb),
        "usda": _Codec(usd.from_usd, partial(usd.to_usda, up=up)),
        "usdc": _Codec(usd.from_usd, partial(usd.to_usda, up=up)),
        "usdz": _Codec(usd.from_usd, partial(usd.to_usdz, up=up)),
    }[kind]


def _image_or_video(shown: Shown, caption: str, kind: str, options: Options) -> bytes:
    from pipeline.assets import images
    from sctd.scene.cameras import on_sphere, orbit

    around = partial(orbit, elevation_degrees=ELEVATION_DEGREES, radius=RADIUS, fov_y_radians=FOV_Y_RADIANS)
    if kind == "mp4":
        return images.video(shown(around(TURNTABLE_VIEWS, size=options.size)))
    if kind == "gif":
        return images.gif(shown(around(GIF_VIEWS, size=options.size)))
    if options.azimuth is None:
        views = shown(around(images.SHEET_VIEWS, size=2 * images.THUMBNAIL_PIXELS))
        return images.contact_sheet(views, caption)
    import torch

    camera = on_sphere(torch.tensor([float(options.azimuth)]), ELEVATION_DEGREES, RADIUS, FOV_Y_RADIANS, options.size)
    return images.png(shown(camera)[0])
