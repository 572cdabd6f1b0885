"""Read a triangle mesh with its colours, textures and transparency: .glb, .gltf, .obj with .mtl, .ply, .stl or .off."""

import logging
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from sctd.errors import one_line
from sctd.formats import ply
from sctd.formats.common import FormatError, shown
from sctd.formats.gltf_mesh import from_gltf
from sctd.formats.mesh_data import GREY, AlphaMode, Mesh, Part, Piece, Texture, assemble
from sctd.formats.off import from_off
from sctd.formats.side_files import file_bytes, image_rgba, read_uri
from sctd.formats.text_lines import check_text
from sctd.formats.wavefront import from_obj

__all__ = ["SUFFIXES", "Mesh", "Part", "Texture", "read_mesh"]

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
logging.getLogger("trimesh").addHandler(logging.NullHandler())  # else Python prints its warnings
_PIXEL = (
    b"BM:\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\1\0\0\0\1\0\0\0\1\0\x18\0\0\0\0\0\4\0\0\0" + bytes(16) + bytes(4)
)  # a black .bmp


def read_mesh(path: Path) -> Mesh:
    """The mesh of a file and of those that it names in its folder, in the axes of the file.

    Node transforms are applied. Nothing outside the folder is read, nothing is fetched. Raises FormatError with one
    sentence for a file that cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise FormatError(f"{shown(path.name)} is no mesh; expected {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    data = file_bytes(path)
    if not data:
        raise FormatError(f"{shown(path.name)} is empty; expected a mesh. Export it again.")
    if suffix in (".glb", ".gltf"):
        return from_gltf(data, path.parent)
    if suffix == ".obj":
        return from_obj(data, path.parent)
    if suffix == ".off":
        return from_off(data)
    return _by_trimesh(data, suffix, path.parent)


class _Beside(trimesh.resolvers.Resolver):
    """The texture that a .ply names, by the rules of `read_uri`; trimesh gets one pixel in its place."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rgba: np.ndarray | None = None
        self.error: FormatError | None = None

    def get(self, name: str) -> bytes:
        try:
            self.rgba = image_rgba(read_uri(self.folder, name, quoted=False), f"The texture {shown(name)}")
        except FormatError as error:  # trimesh goes on without the texture
            self.error = error
            raise
        return _PIXEL

    def keys(self) -> list[str]:
        return []

    def namespaced(self, namespace: str) -> "_Beside":
        return self

    def write(self, name: str, data: Any) -> None:
        raise NotImplementedError


def _by_trimesh(data: bytes, suffix: str, folder: Path) -> Mesh:
    if suffix == ".ply" and ply.has_gaussians(data):
        raise FormatError("The .ply has 3DGS Gaussians and no triangles; it is not a mesh.")
    is_text = b"format ascii" in data[:4096] if suffix == ".ply" else not _is_binary_stl(data)
    if is_text:
        check_text(data, suffix)
    beside = _Beside(folder)
    try:
        with np.errstate(all="ignore"):  # what overflows becomes infinite, which is refused
            found: Any = trimesh.load_scene(BytesIO(data), file_type=suffix[1:], process=False, resolver=beside)
            meshes = [each for each in found.dump() if isinstance(each, trimesh.Trimesh) and len(each.faces)]
    except Exception as error:  # the parsers raise arbitrary exceptions
        raise FormatError(
            f"The mesh cannot be read as {suffix} ({one_line(error)}); expected a complete one. Export it again."
        ) from error
    if beside.error is not None:
        raise beside.error
    faces = sum(len(each.faces) for each in meshes)
    if suffix == ".ply" and faces < (announced := _announced_faces(data)):
        raise FormatError(f"The .ply has {faces:,} of {announced:,} faces; copy or export it again.")
    textures = () if beside.rgba is None else (Texture(beside.rgba),)
    pieces = [_piece(each, textured=beside.rgba is not None) for each in meshes]
    return assemble(pieces, textures, linear=False)


def _announced_faces(data: bytes) -> int:
    found = re.search(rb"^element\s+face\s+(\d{1,18})\s*$", data.partition(b"end_header")[0], re.MULTILINE)
    return int(found[1]) if found else 0


def _is_binary_stl(data: bytes) -> bool:
    return len(data) == 84 + 50 * int.from_bytes(data[80:84], "little")


def _piece(mesh: Any, *, textured: bool) -> Piece:
    visual, vertices, faces = mesh.visual, np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if visual.kind == "vertex":
        colors = np.asarray(visual.vertex_colors) / 255
        return Piece(vertices, faces, Part(0, alpha_mode=_mode(colors)), colors=colors)
    if visual.kind == "face":
        colors = np.repeat(np.asarray(visual.face_colors) / 255, 3, axis=0)
        corners = vertices[faces].reshape(-1, 3)
        return Piece(corners, np.arange(len(corners)).reshape(-1, 3), Part(0, alpha_mode=_mode(colors)), colors=colors)
    if visual.kind == "texture" and textured and visual.uv is not None and len(visual.uv) == len(vertices):
        uv = np.asarray(visual.uv, np.float64) * (1, -1) + (0, 1)  # v points up in trimesh
        return Piece(vertices, faces, Part(0, texture=0), uv=uv)
    return Piece(vertices, faces, Part(0, base_color=(GREY, GREY, GREY, 1.0)))


def _mode(colors: np.ndarray) -> AlphaMode:
    return "BLEND" if colors[:, 3].min(initial=1) < 1 else "OPAQUE"
