"""The value of a triangle mesh: vertices, faces, colours, textures and materials, with its limits and its bytes."""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, NonNegativeInt

from sctd.formats.common import LENGTHS, FormatError, parsed

Wrap = Literal["repeat", "clamp", "mirror"]
AlphaMode = Literal["OPAQUE", "MASK", "BLEND"]

GREY = 200 / 255  # of surfaces whose file has no colour, as shown on a display
MAX_TRIANGLES = 3_000_000
MAX_TEXTURE_PIXELS = 8192**2  # of all textures of a mesh together
MAX_TILES = 1e6  # texture coordinates beyond have too few digits left
_ARRAYS = {"vertices": ("<f4", 3), "faces": ("<i4", 3), "uv": ("<f4", 2), "colors": ("<f4", 4), "normals": ("<f4", 3)}
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Texture:
    """An image, uint8 [height, width, 4] in sRGB with straight alpha, row 0 at v = 0, and how it is sampled."""

    rgba: np.ndarray
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")  # of u and v
    nearest: bool = False  # without interpolation between texels


@dataclass(frozen=True)
class Part:
    """`num_faces` faces with one material, in the order of the faces of the mesh.

    A surface has base colour × texture × vertex colour; `base_color` (red, green, blue, alpha) in [0, 1].
    """

    num_faces: int
    base_color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    texture: int | None = None
    alpha_mode: AlphaMode = "OPAQUE"
    alpha_cutoff: float = 0.5
    double_sided: bool = True
    unlit: bool = False  # also if the rest is shown with light (KHR_materials_unlit)


class Piece(NamedTuple):
    """What a reader found of a part: indexed triangles, attributes of vertices or None, and the material."""

    vertices: np.ndarray
    faces: np.ndarray
    part: Part
    uv: np.ndarray | None = None
    colors: np.ndarray | None = None
    normals: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles of all parts in one coordinate frame.

    `vertices` float32 [V, 3]; `faces` int32 [F, 3], counter-clockwise seen from the front; `uv` float32 [V, 2], v
    downwards as in glTF; `colors` float32 [V, 4] in [0, 1] (white without vertex colours); `normals` float32 [V, 3]
    (0 without). Colours multiply in linear light if `linear` (glTF), else as shown on a display (the other formats);
    base and vertex colours are stored in that space. `notes` says what could not be honoured, a sentence each.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    colors: np.ndarray
    normals: np.ndarray
    parts: tuple[Part, ...]
    textures: tuple[Texture, ...] = ()
    linear: bool = True
    notes: tuple[str, ...] = field(default=())

    @property
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner of the bounding box, float32 [2, 3]."""
        return np.stack([self.vertices.min(0), self.vertices.max(0)])

    def transformed(self, rotation: Any, scale: float = 1.0, shift: Any = (0.0, 0.0, 0.0)) -> "Mesh":
        """The mesh with vertices scale · (rotation @ vertex) + shift. Raises FormatError unless scale > 0.

        `rotation` [3, 3] is orthogonal; a reflection also reverses the faces, so that their front stays in front.
        """
        if not 0 < scale < float("inf"):
            raise FormatError(f"The scale of a mesh is {scale:g}; expected a positive number.")
        matrix = np.asarray(rotation, np.float64)
        vertices = scale * (self.vertices.astype(np.float64) @ matrix.T) + np.asarray(shift, np.float64)
        mirrored = np.linalg.det(matrix) < 0
        return replace(
            self,
            vertices=vertices.astype(np.float32),
            normals=(self.normals.astype(np.float64) @ matrix.T).astype(np.float32),
            faces=np.ascontiguousarray(self.faces[:, ::-1]) if mirrored else self.faces,
        )

    def to_bytes(self) -> bytes:
        """A .npz without pickles; equal meshes have equal bytes."""
        content = {name: getattr(self, name).astype(kind) for name, (kind, _) in _ARRAYS.items()}
        content |= {f"texture_{number}": texture.rgba for number, texture in enumerate(self.textures)}
        about = {
            "parts": [vars(part) for part in self.parts],
            "textures": [{"wrap": texture.wrap, "nearest": texture.nearest} for texture in self.textures],
            "linear": self.linear,
            "notes": self.notes,
        }
        content["about"] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in content.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        return target.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> "Mesh":
        """Read what `to_bytes` wrote. Raises FormatError for other bytes."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _most_bytes():
                    raise FormatError("The mesh.npz is larger inside than a mesh may be; import the asset again.")
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                content = {name: archive[name] for name in archive.files}
            about = parsed(_About, content.pop("about").tobytes(), "The description in the mesh.npz")
            textures = [
                Texture(content[f"texture_{number}"], texture.wrap, texture.nearest)
                for number, texture in enumerate(about.textures)
            ]
            arrays = {name: content[name] for name in _ARRAYS}
        except FormatError:
            raise
        except Exception as error:  # the readers of .zip and .npy raise arbitrary exceptions
            raise FormatError("The mesh.npz is damaged; import the asset again.") from error
        num = len(arrays["vertices"])
        fits = all(
            array.dtype == kind
            and array.ndim == 2
            and array.shape[1] == width
            and (name == "faces" or len(array) == num)
            for (name, (kind, width)), array in zip(_ARRAYS.items(), arrays.values(), strict=True)
        )
        parts = tuple(Part(**vars(part)) for part in about.parts)
        if (
            not fits
            or sum(part.num_faces for part in parts) != len(arrays["faces"])
            or any(texture.rgba.dtype != np.uint8 or texture.rgba.shape[2:] != (4,) for texture in textures)
            or any(part.texture is not None and part.texture >= len(textures) for part in parts)
        ):
            raise FormatError("The mesh.npz has arrays that do not fit together; import the asset again.")
        mesh = Mesh(**arrays, parts=parts, textures=tuple(textures), linear=about.linear, notes=about.notes)
        _check(mesh)
        return mesh


class _AboutPart(BaseModel):
    num_faces: NonNegativeInt
    base_color: tuple[float, float, float, float]
    texture: NonNegativeInt | None
    alpha_mode: AlphaMode
    alpha_cutoff: float
    double_sided: bool
    unlit: bool


class _AboutTexture(BaseModel):
    wrap: tuple[Wrap, Wrap]
    nearest: bool


class _About(BaseModel):
    parts: list[_AboutPart]
    textures: list[_AboutTexture]
    linear: bool
    notes: tuple[str, ...]


def assemble(pieces: Sequence[Piece], textures: Sequence[Texture], *, linear: bool, notes: Sequence[str] = ()) -> Mesh:
    """Join pieces to a mesh without the vertices that no face uses. Raises FormatError unless it has a surface."""
    pieces = [_used(piece) for piece in pieces if len(piece.faces)]
    if not pieces:
        raise FormatError("The file has no triangles; expected a mesh: export the surface again.")
    starts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])[:-1]
    mesh = Mesh(
        vertices=np.concatenate([piece.vertices for piece in pieces]),
        faces=np.concatenate([piece.faces + start for piece, start in zip(pieces, starts, strict=True)]).astype("i4"),
        uv=np.concatenate([_filled(piece.uv, len(piece.vertices), 2, 0.0) for piece in pieces]),
        colors=np.concatenate([_filled(piece.colors, len(piece.vertices), 4, 1.0) for piece in pieces]).clip(0, 1),
        normals=np.concatenate([_filled(piece.normals, len(piece.vertices), 3, 0.0) for piece in pieces]),
        parts=tuple(replace(piece.part, num_faces=len(piece.faces)) for piece in pieces),
        textures=tuple(textures),
        linear=linear,
        notes=tuple(dict.fromkeys(notes)),
    )
    _check(mesh)
    return mesh


def check_count(triangles: int) -> None:
    """Raise FormatError for more triangles than are rendered."""
    if triangles > MAX_TRIANGLES:
        raise FormatError(f"The mesh has {triangles:,} triangles; at most {MAX_TRIANGLES:,} are read. Simplify it.")


def _filled(array: np.ndarray | None, num: int, width: int, value: float) -> np.ndarray:
    """An attribute as float32 [num, width]; `value` where it is missing."""
    filled = np.full((num, width), value, np.float32)
    if array is not None:
        filled[:, : array.shape[1]] = array[:, :width]
    return filled


def _used(piece: Piece) -> Piece:
    """The piece without vertices that no face uses. Raises FormatError if an index is out of range."""
    num, faces = len(piece.vertices), np.asarray(piece.faces, np.int64)
    check_count(len(faces))
    if faces.min() < 0 or faces.max() >= num:
        raise FormatError(
            f"The mesh has a face with vertex {int(faces.max() if faces.max() >= num else faces.min())}, but {num:,} "
            "vertices. Export it again."
        )
    used = np.zeros(num, bool)
    used[faces] = True
    with np.errstate(all="ignore"):  # what overflows becomes infinite, which is refused
        vertices = np.asarray(piece.vertices)[used].astype(np.float32)
    uv, colors, normals = (
        None if array is None else np.asarray(array)[used] for array in (piece.uv, piece.colors, piece.normals)
    )
    return Piece(vertices, (np.cumsum(used) - 1)[faces], piece.part, uv, colors, normals)


def _check(mesh: Mesh) -> None:
    """Raise FormatError for values that cannot be rendered."""
    check_count(len(mesh.faces))
    if not len(mesh.faces):
        raise FormatError("The mesh has no triangles; expected a surface. Export it again.")
    if int(mesh.faces.min()) < 0 or int(mesh.faces.max()) >= len(mesh.vertices):
        raise FormatError("The mesh has faces with vertices that do not exist. Export it again.")
    valid = (np.abs(mesh.vertices) <= LENGTHS[1]).all(axis=1)
    if not valid.all():
        row = int(np.flatnonzero(~valid)[0])
        found = ", ".join(f"{value:g}" for value in mesh.vertices[row])
        raise FormatError(
            f"The mesh has {int((~valid).sum()):,} vertices that cannot be shown, the first at ({found}); expected "
            f"finite coordinates up to {LENGTHS[1]:g}. Repair it, then export it again."
        )
    for name, what in (("uv", "texture coordinates"), ("colors", "vertex colours"), ("normals", "normals")):
        if not (np.abs(getattr(mesh, name)) <= MAX_TILES).all():
            raise FormatError(f"The mesh has {what} that are not finite or very large. Export it again.")
    first, second, third = (mesh.vertices[mesh.faces[:, corner]].astype(np.float64) for corner in range(3))
    if not np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() > 0:
        raise FormatError(f"The mesh has {len(mesh.faces):,} triangles of area 0; expected a surface. Export it again.")


def _most_bytes() -> int:
    per_vertex = 4 * sum(width for name, (_, width) in _ARRAYS.items() if name != "faces")
    return MAX_TRIANGLES * (12 + 3 * per_vertex) + 4 * MAX_TEXTURE_PIXELS + 2**24
