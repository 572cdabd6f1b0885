"""The container of glTF 2.0, for meshes and splats: JSON, buffers, accessors, and the transforms of nodes."""

import struct
from collections.abc import Set
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from pydantic.alias_generators import to_camel

from sctd.formats.common import FormatError, parsed, shown
from sctd.formats.side_files import MAX_FILE_BYTES, read_uri

MAX_JSON_BYTES = 2**25
MAX_JSON_NODES = 500_000  # each takes hundreds of bytes of memory
MAX_SPARSE = 10_000_000
TRIANGLES = 4  # the mode of a primitive that has none
_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")
_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_COMPRESSED = {
    "KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt", "KHR_meshopt_compression": "meshopt",
    "KHR_texture_basisu": "KTX2",
}  # fmt: skip

Number = Annotated[float, Field(allow_inf_nan=False)]
Vector3 = tuple[Number, Number, Number]
Vector4 = tuple[Number, Number, Number, Number]
T = TypeVar("T")


class Json(BaseModel):
    """An object of the JSON, with names in camel case."""

    model_config = ConfigDict(alias_generator=to_camel, ignored_types=(cached_property,))
    extensions: dict[str, Any] = {}


class _Asset(Json):
    version: str


class _Buffer(Json):
    uri: str | None = None
    byte_length: NonNegativeInt


class _View(Json):
    buffer: NonNegativeInt
    byte_offset: NonNegativeInt = 0
    byte_length: NonNegativeInt
    byte_stride: Annotated[int, Field(ge=4, le=252)] | None = None


class _SparseIndices(Json):
    buffer_view: NonNegativeInt
    byte_offset: NonNegativeInt = 0
    component_type: Literal[5121, 5123, 5125]


class _SparseValues(Json):
    buffer_view: NonNegativeInt
    byte_offset: NonNegativeInt = 0


class _Sparse(Json):
    count: Annotated[int, Field(ge=1, le=MAX_SPARSE)]
    indices: _SparseIndices
    values: _SparseValues


class _Accessor(Json):
    buffer_view: NonNegativeInt | None = None
    byte_offset: NonNegativeInt = 0
    component_type: Literal[5120, 5121, 5122, 5123, 5125, 5126]
    normalized: bool = False
    count: Annotated[int, Field(ge=1, le=2**31)]
    type: str
    sparse: _Sparse | None = None


class Primitive(Json):
    """A part of a mesh, with one material."""

    attributes: dict[str, NonNegativeInt]
    indices: NonNegativeInt | None = None
    material: NonNegativeInt | None = None
    mode: int = TRIANGLES
    targets: list[dict[str, NonNegativeInt]] = []


class JsonMesh(Json):
    """The primitives of a mesh."""

    primitives: list[Primitive]
    weights: list[Number] = []


class Node(Json):
    """A node of the scene, with its transform to the parent."""

    children: list[NonNegativeInt] = []
    mesh: NonNegativeInt | None = None
    skin: NonNegativeInt | None = None
    weights: list[Number] | None = None
    matrix: Annotated[list[Number], Field(min_length=16, max_length=16)] | None = None
    translation: Vector3 = (0.0, 0.0, 0.0)
    rotation: Vector4 = (0.0, 0.0, 0.0, 1.0)
    scale: Vector3 = (1.0, 1.0, 1.0)

    @property
    def transform(self) -> np.ndarray:
        """The transform to the parent, [4, 4]."""
        if self.matrix is not None:
            return np.array(self.matrix, np.float64).reshape(4, 4).T
        x, y, z, w = np.array(self.rotation, np.float64) / (np.linalg.norm(self.rotation) or 1)
        transform = np.eye(4)
        transform[:3, :3] = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        ) * np.array(self.scale)
        transform[:3, 3] = self.translation
        return transform


class _Scene(Json):
    nodes: list[NonNegativeInt] = []


class Gltf(Json):
    """The JSON of a file, as far as all kinds of assets need it."""

    asset: _Asset
    extensions_required: list[str] = []
    extensions_used: list[str] = []
    scene: NonNegativeInt | None = None
    scenes: list[_Scene] = []
    nodes: list[Node] = []
    meshes: list[JsonMesh] = []
    accessors: list[_Accessor] = []
    buffer_views: list[_View] = []
    buffers: list[_Buffer] = []


G = TypeVar("G", bound=Gltf)


def opened(model: type[G], data: bytes, read: Set[str]) -> tuple[G, memoryview | None]:
    """The JSON of a .glb or .gltf and the binary chunk, if any. Raises FormatError.

    `read` are the extensions that a file may require.
    """
    content, chunk = _chunks(data)
    if len(content) > MAX_JSON_BYTES:
        raise FormatError(
            f"The JSON of the glTF has {len(content) / 2**20:,.0f} MiB; at most {MAX_JSON_BYTES // 2**20} are read. "
            "Save the mesh as .glb, with binary buffers."
        )
    if content.count(b"{") + content.count(b"[") > MAX_JSON_NODES:
        raise FormatError(f"The JSON of the glTF has more than {MAX_JSON_NODES:,} lists and objects; export it again.")
    gltf = parsed(model, content, "The JSON of the glTF")
    if not gltf.asset.version.startswith("2."):
        raise FormatError(
            f"The glTF has version {shown(gltf.asset.version, 20)}; expected 2.0. Export it again as .glb."
        )
    for name in gltf.extensions_required:
        if name in _COMPRESSED:
            raise compressed(name)
        if name not in read:
            raise FormatError(f"The glTF requires the extension {shown(name)!r}, which is not read; export it without.")
    return gltf, chunk


def compressed(name: str) -> FormatError:
    """The error of a file that requires a compression."""
    what = "textures" if name == "KHR_texture_basisu" else "triangles"
    return FormatError(
        f"The {what} of the glTF are compressed with {_COMPRESSED[name]} ({name}); write a copy without compression: "
        "gltf-transform copy IN.glb OUT.glb decodes Draco and meshopt, gltf-transform ktxdecompress KTX2."
    )


def _chunks(data: bytes) -> tuple[bytes, memoryview | None]:
    """The JSON and the binary chunk, if any. Raises FormatError for a truncated .glb."""
    if not data.startswith(b"glTF"):
        return data, None
    if len(data) < _HEADER.size + _CHUNK.size:
        raise FormatError("The .glb ends within its header; copy or export it again.")
    _, version, total = _HEADER.unpack_from(data)
    if version != 2:
        raise FormatError(f"The .glb has version {version}; expected glTF 2.0. Export it again.")
    if total > len(data):
        raise FormatError(f"The .glb is truncated: it has {len(data):,} of {total:,} bytes. Copy it again.")
    chunks: list[tuple[bytes, memoryview]] = []
    position = _HEADER.size
    while position + _CHUNK.size <= len(data) and len(chunks) < 2:
        length, kind = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size
        chunks.append((kind, memoryview(data)[position : position + length]))
        position += length
    if chunks[0][0] != b"JSON":
        raise FormatError("The .glb does not begin with JSON; copy or export it again.")
    return bytes(chunks[0][1]), chunks[1][1] if len(chunks) > 1 and chunks[1][0] == b"BIN\0" else None


def item(items: list[T], number: int, what: str) -> T:
    """The element of a list of the JSON. Raises FormatError if there is none."""
    if number >= len(items):
        raise FormatError(f"The glTF refers to {what} {number} of {len(items)}; export it again.")
    return items[number]


class GltfFile(Generic[G]):
    """The parts of one file, each buffer and accessor decoded when it is needed.

    `folder` has the files that it names; None for one that must not name any.
    """

    def __init__(self, gltf: G, chunk: memoryview | None, folder: Path | None, size: int):
        self.gltf, self.chunk, self.folder, self.size = gltf, chunk, folder, size
        self.buffers: dict[int, bytes | memoryview] = {}
        self.bytes_left = MAX_FILE_BYTES

    def other_file(self, uri: str) -> bytes:
        """The content of a file that this one names. Raises FormatError."""
        if self.folder is None:
            raise FormatError("The .glb keeps its data elsewhere; save it as a .glb with everything inside.")
        return read_uri(self.folder, uri)

    def world(self) -> dict[int, np.ndarray]:
        """The transforms to the world of all nodes of the scene."""
        gltf = self.gltf
        if gltf.scenes:
            roots = item(gltf.scenes, gltf.scene or 0, "scene").nodes
        else:
            children = {child for node in gltf.nodes for child in node.children}
            roots = [number for number in range(len(gltf.nodes)) if number not in children]
        world: dict[int, np.ndarray] = {}
        waiting = [(number, np.eye(4)) for number in reversed(roots)]
        while waiting:
            number, parent = waiting.pop()
            node = item(gltf.nodes, number, "node")
            if number in world:
                raise FormatError(f"Node {number} of the glTF has two parents or is in a circle; export it again.")
            with np.errstate(all="ignore"):  # what overflows is refused as a vertex
                world[number] = parent @ node.transform
            waiting += [(child, world[number]) for child in reversed(node.children)]
        return world

    def view(self, number: int) -> memoryview:
        """The bytes of a buffer view. Raises FormatError unless all are in the file."""
        view = item(self.gltf.buffer_views, number, "buffer view")
        for name in ("EXT_meshopt_compression", "KHR_meshopt_compression"):
            if name in view.extensions:
                raise compressed(name)
        buffer = self._buffer(view.buffer)
        if view.byte_offset + view.byte_length > len(buffer):
            raise FormatError(
                f"The glTF is truncated: buffer view {number} ends at byte {view.byte_offset + view.byte_length:,} of "
                f"{len(buffer):,}. Copy it again."
            )
        return memoryview(buffer)[view.byte_offset : view.byte_offset + view.byte_length]

    def _buffer(self, number: int) -> bytes | memoryview:
        if number not in self.buffers:
            buffer = item(self.gltf.buffers, number, "buffer")
            if buffer.uri is None:
                if number or self.chunk is None:
                    raise FormatError(f"Buffer {number} of the glTF has no content; export it again.")
                self.buffers[number] = self.chunk
            else:
                self.buffers[number] = self.other_file(buffer.uri)
                self.bytes_left -= len(self.buffers[number])
                if self.bytes_left < 0:
                    raise FormatError(
                        f"The buffers of the glTF have more than {MAX_FILE_BYTES // 2**20} MiB. Simplify the mesh."
                    )
        return self.buffers[number]

    def count(self, number: int) -> int:
        """The number of values that an accessor announces."""
        return item(self.gltf.accessors, number, "accessor").count

    def values(self, number: int, width: int, rows: np.ndarray | None = None) -> np.ndarray:
        """The values of an accessor, [count, width], or those of `rows`; fewer columns if it has fewer.

        Normalized integers become numbers up to 1. Raises FormatError unless all are in the file.
        """
        accessor = item(self.gltf.accessors, number, "accessor")
        found = _WIDTHS.get(accessor.type, 0)
        if found > width or (found != width and (width, found) != (4, 3)):
            raise FormatError(f"Accessor {number} of the glTF has type {shown(accessor.type, 20)}; export it again.")
        if rows is not None and len(rows) and rows[-1] >= accessor.count:
            raise FormatError(f"Accessor {number} of the glTF has {accessor.count:,} values, too few. Export it again.")
        kind = np.dtype(_TYPES[accessor.component_type])
        if accessor.buffer_view is None:
            if accessor.count > self.size:
                raise FormatError(f"The glTF announces {accessor.count:,} values without data. Export it again.")
            values = np.zeros((accessor.count if rows is None else len(rows), found), kind)
        else:
            stored = self._stored(accessor.buffer_view, accessor.byte_offset, accessor.count, found, kind)
            values = np.array(stored if rows is None else stored[rows])
        if accessor.sparse is not None:
            self._replace(values, accessor, accessor.sparse, found, kind, rows)
        if not accessor.normalized or kind.kind == "f":
            return values
        return (values.astype(np.float64) / np.iinfo(kind).max).clip(-1, 1)

    def _stored(self, view: int, offset: int, count: int, width: int, kind: np.dtype) -> np.ndarray:
        content = self.view(view)
        stride = self.gltf.buffer_views[view].byte_stride or width * kind.itemsize
        if offset + stride * (count - 1) + width * kind.itemsize > len(content):
            raise FormatError(
                f"The glTF announces {count:,} values of {width} numbers in {len(content):,} bytes, too few. "
                "Copy or export it again."
            )
        return np.ndarray((count, width), kind, content, offset, (stride, kind.itemsize))

    def _replace(
        self,
        values: np.ndarray,
        accessor: _Accessor,
        sparse: _Sparse,
        width: int,
        kind: np.dtype,
        rows: np.ndarray | None,
    ) -> None:
        """Write the sparse values of an accessor into `values` (those of `rows`, in ascending order)."""
        places, inside = sparse.indices, sparse.values
        index_kind = np.dtype(_TYPES[places.component_type])
        index = self._stored(places.buffer_view, places.byte_offset, sparse.count, 1, index_kind)[:, 0].astype(np.int64)
        new = self._stored(inside.buffer_view, inside.byte_offset, sparse.count, width, kind)
        if index.max() >= accessor.count:
            raise FormatError("The glTF has sparse values outside their accessor; export it again.")
        if rows is None:
            values[index] = new
        elif len(rows):
            place = np.searchsorted(rows, index).clip(max=len(rows) - 1)
            here = rows[place] == index
            values[place[here]] = new[here]
