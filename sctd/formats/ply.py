"""`.ply` ⇄ Gaussians in the 3DGS convention (Kerbl et al. 2023, reference implementation), and plain point clouds.

float32 properties, little-endian: x y z, nx ny nz (zero), f_dc_0…2 (constant SH term), f_rest_* (the other SH terms:
all of red, then green, then blue), opacity (logit), scale_0…2 (logarithm), rot_0…3 (w x y z, any length).
"""

import re
from io import BytesIO
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from plyfile import PlyData, PlyElement, PlyParseError
from torch import Tensor

from sctd.errors import one_line, shortened
from sctd.formats import compressed_ply
from sctd.formats.common import LENGTHS, FormatError, checked
from sctd.scene.gaussians import Gaussians

MAX_HEADER_BYTES = 2**17
POSITION = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
CONSTANT = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
_END_OF_HEADER = re.compile(rb"[\r\n]\s*end_header[ \t]*[\r\n]")
_SPACES = bytes.maketrans(
    b"\x1c\x1d\x1e\x1f", b"    "
)  # which str.split takes for spaces, and patterns of bytes do not
COLORS = ("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")


class PlyError(FormatError):
    """The file is not a .ply of the expected kind."""


class PlyPoints(NamedTuple):
    """A point cloud; colours in [0, 1], or None if the file has none."""

    points: Float[Tensor, "num 3"]
    rgb: Float[Tensor, "num 3"] | None


def to_ply(gaussians: Gaussians) -> bytes:
    """Gaussians as a binary .ply for 3DGS viewers. `from_ply` restores every bit."""
    arrays = {name: tensor.detach().cpu().float().numpy() for name, tensor in gaussians.tensors().items()}
    num, num_basis, _ = arrays["sh"].shape
    rest = arrays["sh"][:, 1:].transpose(0, 2, 1).reshape(num, 3 * (num_basis - 1))
    columns = {
        POSITION: arrays["means"],
        NORMAL: np.zeros((num, 3), np.float32),
        CONSTANT: arrays["sh"][:, 0],
        _rest_names(num_basis): rest,
        ("opacity",): arrays["logit_opacities"][:, None],
        SCALE: arrays["log_scales"],
        ROTATION: arrays["quats"],
    }
    vertices = np.empty(num, [(name, "<f4") for names in columns for name in names])
    for names, values in columns.items():
        for i, name in enumerate(names):
            vertices[name] = values[:, i]
    return _written({"vertex": vertices})


def to_compressed_ply(gaussians: Gaussians) -> bytes:
    """Gaussians as PlayCanvas' compressed .ply, in Morton order. Raises FormatError for none or invalid ones."""
    if not gaussians.num:
        raise PlyError("There are no Gaussians; a compressed .ply needs at least one.")
    return _written(compressed_ply.packed(checked(gaussians.detach(), "ply")))


def _written(elements: compressed_ply.Elements) -> bytes:
    file = BytesIO()
    PlyData([PlyElement.describe(rows, name) for name, rows in elements.items()], byte_order="<").write(file)
    return file.getvalue()


def from_ply(data: bytes, *, drop_invalid: bool = False) -> Gaussians:
    """Read Gaussians of SH degree 0 to 3, also from a compressed .ply. Opacity logits of ±∞ mean opacity 1 and 0.

    Raises PlyError if a property is missing, InvalidGaussiansError if Gaussians are invalid and not dropped.
    """
    elements = {element.name: element.data for element in _open(data)}
    vertices = elements["vertex"]
    is_compressed = compressed_ply.MARK in (vertices.dtype.names or ())
    rest_of = elements.get("sh", vertices) if is_compressed else vertices
    num_rest = sum(name.startswith("f_rest_") for name in rest_of.dtype.names or ())
    if num_rest not in (0, 9, 24, 45):
        raise PlyError(f"The .ply has {num_rest} f_rest properties; expected 0, 9, 24 or 45 (SH degree 0 to 3).")
    if is_compressed:
        try:
            return checked(compressed_ply.unpacked(elements, num_rest), "ply", drop_invalid=drop_invalid)
        except (ValueError, TypeError) as error:
            raise PlyError(f"The compressed .ply is damaged ({one_line(error)}): export or copy it again.") from error
    num_basis = 1 + num_rest // 3
    constant = _columns(vertices, CONSTANT)
    rest = _columns(vertices, _rest_names(num_basis)).reshape(len(vertices), 3, num_basis - 1).mT
    gaussians = Gaussians(
        means=_columns(vertices, POSITION),
        log_scales=_columns(vertices, SCALE),
        quats=_columns(vertices, ROTATION),
        logit_opacities=_columns(vertices, ("opacity",))[:, 0],
        sh=torch.cat([constant[:, None], rest], dim=1),
    )
    return checked(gaussians, "ply", drop_invalid=drop_invalid)


def has_gaussians(data: bytes) -> bool:
    """Whether the header of a .ply names properties of Gaussians."""
    return b" f_dc_0" in data.partition(b"end_header")[0] or is_compressed(data)


def is_compressed(data: bytes) -> bool:
    """Whether the header of a .ply names the words of a compressed one."""
    return compressed_ply.MARK.encode() in data.partition(b"end_header")[0]


def read_points(data: bytes) -> PlyPoints:
    """Read a plain point cloud: x y z, and perhaps colours (`COLORS`): bytes, 16-bit integers, or floats 0…1.

    Raises PlyError if the file is a mesh or empty, or if a value is missing, not finite or out of range.
    """
    file = _open(data)
    vertices = file["vertex"].data
    if faces := sum(element.count for element in file if element.name in ("face", "tristrips")):
        raise PlyError(
            f"The .ply is a mesh of {len(vertices)} vertices and {faces} faces; expected a point cloud or 3DGS"
            " Gaussians: set initialization.kind=mesh."
        )
    if not len(vertices):
        raise PlyError("The .ply has no vertices; expected points. Export it again.")
    color = next((names for names in COLORS if set(names) & set(vertices.dtype.names or ())), ())
    names = (*POSITION, *color)
    columns = _columns(vertices, names)
    for name, values in zip(names, columns.T, strict=True):
        if not (valid := values.abs() <= LENGTHS[1]).all():
            row = int((~valid).nonzero()[0])
            raise PlyError(
                f"The .ply has {name} = {values[row]:g} at vertex {row}; expected a finite number up to {LENGTHS[1]:g}."
            )
    points, rgb = columns[:, :3], columns[:, 3:]
    if not color:
        return PlyPoints(points, None)
    if np.issubdtype(vertices.dtype[color[0]], np.integer):
        rgb = rgb / (2**16 - 1 if vertices.dtype[color[0]].itemsize == 2 else 255)
    if not 0 <= rgb.min() <= rgb.max() <= 1:
        raise PlyError(
            "The .ply has colours outside their range: write integers 0 to 255 (16-bit: 0 to 65535), or floats 0 to 1."
        )
    return PlyPoints(points, rgb)


def _rest_names(num_basis: int) -> tuple[str, ...]:
    return tuple(f"f_rest_{i}" for i in range(3 * (num_basis - 1)))


def _open(data: bytes) -> PlyData:
    """The parsed file, which has an element `vertex`."""
    if not data.startswith(b"ply"):
        raise PlyError(f"This is not a .ply: it starts with {data[:16]!r}, not 'ply'. Give the path of a .ply file.")
    _check_counts(data)
    try:
        # plyfile memory-maps a real file; any other stream is read number by number, 8 s for 150,000 Gaussians.
        with NamedTemporaryFile(suffix=".ply") as mapped, np.errstate(all="ignore"):  # overflow gives infinity
            mapped.write(data)
            mapped.flush()
            file = PlyData.read(mapped.name)
    except (PlyParseError, ValueError, TypeError, OverflowError) as error:
        raise PlyError(f"The .ply is damaged ({one_line(error)}): export or copy it again.") from error
    if "vertex" not in file:
        found = shortened(", ".join(element.name for element in file.elements)) or "none"
        raise PlyError(f"The .ply has no element 'vertex' (elements: {found}): export points, not only a mesh.")
    return file


def _check_counts(data: bytes) -> None:
    """Raise PlyError for a header whose elements plyfile would allocate, or divide by the size of their rows.

    These are elements with more rows than bytes follow, and elements without properties.
    """
    found = _END_OF_HEADER.search(data)
    header, left = data[: found.start() if found else None], len(data) - (found.end() if found else 0)
    if len(header) > MAX_HEADER_BYTES:
        raise PlyError(
            f"The .ply has a header of {len(header):,} bytes; at most {MAX_HEADER_BYTES:,} are read. Export it again."
        )
    header = header.translate(_SPACES)
    for lines in re.split(rb"(?:^|[\r\n])\s*element\s", header)[1:]:
        if not re.search(rb"[\r\n]\s*property\s", lines):
            raise PlyError("The .ply is damaged (an element has no properties): export or copy it again.")
    for name, text in re.findall(rb"(?:^|[\r\n])\s*element\s+(\S+)\s+(\S+)", header):
        try:
            count = int(text)
        except ValueError:
            continue  # plyfile names the line
        if count > left:
            what = f"{text[:20].decode('latin-1')} of {name[:40].decode('latin-1')!a}"
            raise PlyError(
                f"The .ply is damaged (its header announces {what}, and {left} bytes follow): export or copy it again."
            )


def _columns(vertices: np.ndarray, names: tuple[str, ...]) -> Float[Tensor, "num columns"]:
    """These properties as columns in float32. Raises PlyError if one is missing."""
    present = vertices.dtype.names or ()
    if missing := [name for name in names if name not in present]:
        found = shortened(", ".join(present), 300)
        raise PlyError(
            f"The .ply lacks the properties {', '.join(missing)} (it has {found}). Gaussians need the"
            " properties of 3DGS, point clouds x y z and red green blue."
        )
    if lists := [name for name in names if vertices.dtype[name].kind == "O"]:
        raise PlyError(f"The .ply has lists as {', '.join(lists)}; expected a number for each vertex. Export it again.")
    values = np.empty((len(vertices), len(names)), np.float32)
    with np.errstate(over="ignore"):  # a double above the range of float32 becomes infinite, which the callers refuse
        for i, name in enumerate(names):
            values[:, i] = vertices[name]
    return torch.from_numpy(values)
