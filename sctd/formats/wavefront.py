"""`.obj` with `.mtl` → mesh: Kd, map_Kd, d, Tr, map_d, vertex colours, polygons, negative indices.

Read here and not through a library: trimesh counts negative indices from the end of the file, and reads one `mtllib`
(docs/decisions/0036). Colours multiply as shown on a display, as viewers of this format do.
"""

import math
from array import array
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from sctd.formats.common import FormatError, shown
from sctd.formats.mesh_data import GREY, MAX_TEXTURE_PIXELS, Mesh, Part, Piece, Texture, assemble, check_count
from sctd.formats.side_files import image_rgba, read_uri
from sctd.formats.text_lines import text_lines

_MISSING = -1
_TRIMESH_KD = (0.4, 0.4, 0.4)  # beside every texture that trimesh writes


@dataclass
class _Material:
    kd: tuple[float, ...] | None = None
    alpha: float = 1.0
    color_map: str | None = None
    alpha_map: str | None = None
    clamp: bool = False


class _Corners:
    """The corners of triangles with one material: indices of position, texture coordinate and normal."""

    def __init__(self) -> None:
        self.indices = array("q")

    def add(self, corners: list[tuple[int, int, int]]) -> None:
        """A polygon, as a fan of triangles."""
        for second, third in pairwise(corners[1:]):
            self.indices.extend((*corners[0], *second, *third))


def from_obj(data: bytes, folder: Path) -> Mesh:
    """Read an .obj; `folder` has its .mtl files and textures. Raises FormatError."""
    positions, colors, uvs, normals = array("d"), array("d"), array("d"), array("d")
    groups: dict[str, _Corners] = {}
    current = groups.setdefault("", _Corners())
    libraries: list[str] = []
    triangles = 0
    for number, words in text_lines(data, ".obj"):
        key = words[0]
        try:
            if key == "v":
                values = list(map(float, words[1:]))
                positions.extend(values[:3])
                if len(values) < 3:
                    raise ValueError
                colors.extend(values[3:6] if len(values) in (6, 7) else (-1.0, -1.0, -1.0))
            elif key == "vt":
                uvs.extend((float(words[1]), float(words[2]) if len(words) > 2 else 0.0))
            elif key == "vn":
                normals.extend((float(words[1]), float(words[2]), float(words[3])))
            elif key == "f":
                sizes = len(positions) // 3, len(uvs) // 2, len(normals) // 3
                triangles += len(words) - 3
                if len(words) < 4:
                    raise ValueError
                check_count(triangles)
                current.add([_corner(word, sizes) for word in words[1:]])
            elif key == "usemtl":
                current = groups.setdefault(" ".join(words[1:]), _Corners())
            elif key == "mtllib":
                libraries.append(" ".join(words[1:]))
        except (ValueError, IndexError) as error:
            if isinstance(error, FormatError):
                raise
            line = shown(" ".join(words), 40)
            raise FormatError(f"Line {number:,} of the .obj is invalid ({line}); export it again.") from error
    reader = _Materials(folder, libraries)
    place = np.asarray(positions, np.float64).reshape(-1, 3)
    paint = np.asarray(colors, np.float64).reshape(-1, 3)
    uv = np.asarray(uvs, np.float64).reshape(-1, 2) * (1, -1) + (0, 1)  # v points up in this format
    normal = np.asarray(normals, np.float64).reshape(-1, 3)
    painted = bool((paint >= 0).all()) and len(paint) > 0
    if painted and paint.max() > 1:
        paint = paint / 255  # some programs write bytes
    pieces = []
    for name, corners in groups.items():
        if not corners.indices:
            continue
        rows, faces = _unique(np.asarray(corners.indices).reshape(-1, 3))
        for column, (kind, num) in enumerate((("vertex", place), ("texture coordinate", uv), ("normal", normal))):
            if (last := int(rows[:, column].max())) >= len(num):
                raise FormatError(f"The .obj has a face with {kind} {last + 1:,} of {len(num):,}; export it again.")
        part = reader.part(name, painted)
        textured = part.texture is not None
        if textured and (rows[:, 1] == _MISSING).any():
            reader.notes.append("A texture without texture coordinates is left out.")
            part = replace(part, texture=None)
        pieces.append(
            Piece(
                place[rows[:, 0]],
                faces.reshape(-1, 3),
                part,
                uv[rows[:, 1]] if part.texture is not None else None,
                paint[rows[:, 0]] if painted else None,
                normal[rows[:, 2]] if len(normal) and (rows[:, 2] != _MISSING).all() else None,
            )
        )
    return assemble(pieces, reader.textures, linear=False, notes=reader.notes)


def _unique(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows, and the number of each row among them."""
    widths = corners.max(axis=0, initial=0) + 2  # indices from -1
    if math.prod(widths.tolist()) >= 2**63:
        rows, numbers = np.unique(corners, axis=0, return_inverse=True)
        return rows, numbers.reshape(-1)
    key = ((corners[:, 0] + 1) * widths[1] + corners[:, 1] + 1) * widths[2] + corners[:, 2] + 1
    _, first, numbers = np.unique(key, return_index=True, return_inverse=True)
    return corners[first], numbers


def _corner(word: str, sizes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Indices from 0 of a corner "v/vt/vn"; negative ones count back from the last element so far."""
    numbers = [_MISSING, _MISSING, _MISSING]
    for place, text in enumerate(word.split("/")[:3]):
        if text or place == 0:
            index = int(text)
            index = index - 1 if index > 0 else index + sizes[place] if index else -2
            if index < 0:
                raise ValueError
            numbers[place] = index
    return numbers[0], numbers[1], numbers[2]


class _Materials:
    """The materials of the libraries of a file; textures are decoded when a face uses them."""

    def __init__(self, folder: Path, libraries: list[str]):
        self.folder = folder
        self.textures: list[Texture] = []
        self.notes: list[str] = []
        self.pixels_left = MAX_TEXTURE_PIXELS
        self.images: dict[tuple[str, str | None, bool], int | None] = {}
        self.materials: dict[str, _Material] = {}
        for library in dict.fromkeys(libraries):
            content = self._file(library, "surfaces without a colour are grey")
            if content is not None:
                self.materials |= _read_mtl(content)

    def part(self, name: str, painted: bool) -> Part:
        """The material of faces with this name; grey without one, unless the vertices have colours."""
        material = self.materials.get(name)
        grey = (1.0,) * 3 if painted else (GREY,) * 3
        if material is None:
            if not painted:
                self.notes.append("Surfaces without a material are grey.")
            return Part(0, base_color=(grey[0], grey[1], grey[2], 1.0))
        texture = None
        if material.color_map is not None:
            texture = self._texture(material.color_map, material.alpha_map, material.clamp)
        kd = material.kd if material.kd is not None else (1.0, 1.0, 1.0) if texture is not None else grey
        if texture is not None and (kd == _TRIMESH_KD or not any(kd)):
            kd = (1.0, 1.0, 1.0)
        transparent = material.alpha < 1 or (texture is not None and material.alpha_map is not None)
        red, green, blue = (min(max(value, 0.0), 1.0) for value in kd)
        return Part(
            0,
            base_color=(red, green, blue, min(max(material.alpha, 0.0), 1.0)),
            texture=texture,
            alpha_mode="BLEND" if transparent else "OPAQUE",
        )

    def _texture(self, color_map: str, alpha_map: str | None, clamp: bool) -> int | None:
        key = color_map, alpha_map, clamp
        if key not in self.images:
            self.images[key] = None
            content = self._file(color_map, "its surfaces have no texture")
            if content is not None:
                rgba = self._image(content, color_map)
                rgba[..., 3] = 255
                if alpha_map is not None:
                    self._add_alpha(rgba, alpha_map)
                self.images[key] = len(self.textures)
                self.textures.append(Texture(rgba, ("clamp", "clamp") if clamp else ("repeat", "repeat")))
        return self.images[key]

    def _add_alpha(self, rgba: np.ndarray, name: str) -> None:
        content = self._file(name, "its surfaces are opaque")
        if content is None:
            return
        alpha = self._image(content, name)
        if alpha.shape != rgba.shape:
            self.notes.append(f"The size of {shown(name)} is not that of its texture; its surfaces are opaque.")
            return
        has_alpha = int(alpha[..., 3].min()) < 255
        rgba[..., 3] = alpha[..., 3] if has_alpha else alpha[..., 0]

    def _image(self, content: bytes, name: str) -> np.ndarray:
        rgba = image_rgba(content, f"The texture {shown(name)}", self.pixels_left)
        self.pixels_left -= rgba.size // 4
        return rgba

    def _file(self, name: str, consequence: str) -> bytes | None:
        """A file that is named; None with a note if it is missing. Raises FormatError if it is outside the folder."""
        try:
            return read_uri(self.folder, name, quoted=False)
        except FormatError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            self.notes.append(f"{shown(name)} is missing; {consequence}.")
            return None


def _read_mtl(data: bytes) -> dict[str, _Material]:
    materials: dict[str, _Material] = {}
    current = _Material()
    for number, words in text_lines(data, ".mtl"):
        key = words[0].lower()
        try:
            if key == "newmtl":
                current = materials.setdefault(" ".join(words[1:]), _Material())
            elif key == "kd":
                values = [float(word) for word in words[1:4]]
                current.kd = tuple(values * 3 if len(values) == 1 else values)
                if len(current.kd) != 3:
                    raise ValueError
            elif key == "d":
                current.alpha = float(words[-1])  # may follow -halo
            elif key == "tr":
                current.alpha = 1 - float(words[1])
            elif key in ("map_kd", "map_d"):
                name, clamp = _map_name(words[1:])
                if key == "map_kd":
                    current.color_map, current.clamp = name, clamp
                else:
                    current.alpha_map = name
        except (ValueError, IndexError) as error:
            line = shown(" ".join(words), 40)
            raise FormatError(f"Line {number:,} of the .mtl is invalid ({line}); export it again.") from error
    return materials


def _map_name(words: list[str]) -> tuple[str, bool]:
    """The file of a map after its options, and whether it is clamped. Offsets and scales are not honoured."""
    counts = {"-o": 3, "-s": 3, "-t": 3, "-mm": 2}
    clamp = False
    while len(words) > 1 and words[0].startswith("-"):
        option = words.pop(0).lower()
        if option == "-clamp":
            clamp = words[0].lower() == "on"
        numbers = 0
        while len(words) > 1 and numbers < counts.get(option, 1):
            if numbers and not _is_number(words[0]):
                break
            words.pop(0)
            numbers += 1
    if not words:
        raise ValueError
    return " ".join(words), clamp


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
