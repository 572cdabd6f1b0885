"""`.glb` and `.gltf` → mesh: glTF 2.0 with node transforms, base colours, texture transforms and unlit materials.

Read here and not through a library: trimesh drops vertex colours beside a texture, texture transforms and second sets
of texture coordinates, and allocates what an accessor announces (docs/decisions/0036).
"""

import struct
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from pydantic.alias_generators import to_camel

from sctd.formats.common import FormatError, parsed
from sctd.formats.mesh_data import (
    GREY,
    MAX_TEXTURE_PIXELS,
    AlphaMode,
    Mesh,
    Part,
    Piece,
    Texture,
    Wrap,
    assemble,
    check_count,
)
from sctd.formats.side_files import MAX_FILE_BYTES, image_rgba, read_uri

MAX_JSON_BYTES = 2**25
MAX_JSON_NODES = 500_000  # each takes hundreds of bytes of memory
MAX_PRIMITIVES = 20_000  # of all nodes together
MAX_SPARSE = 10_000_000
_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")
_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_NEAREST = 9728
_WRAPS: dict[int, Wrap] = {33071: "clamp", 33648: "mirror", 10497: "repeat"}
_READ = {  # extensions that a file may require; what the others do is not known here
    "KHR_materials_unlit", "KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp",
    "KHR_materials_pbrSpecularGlossiness", "KHR_materials_variants", "KHR_lights_punctual", "KHR_materials_specular",
    "KHR_materials_ior", "KHR_materials_clearcoat", "KHR_materials_sheen", "KHR_materials_transmission",
    "KHR_materials_volume", "KHR_materials_emissive_strength", "KHR_materials_iridescence", "KHR_materials_anisotropy",
    "KHR_materials_dispersion", "KHR_xmp_json_ld", "KHR_animation_pointer",
}  # fmt: skip
_PACKED = {
    "KHR_draco_mesh_compression": "Draco", "EXT_meshopt_compression": "meshopt", "KHR_meshopt_compression": "meshopt",
    "KHR_texture_basisu": "KTX2",
}  # fmt: skip

Number = Annotated[float, Field(allow_inf_nan=False)]
Vector3 = tuple[Number, Number, Number]
Vector4 = tuple[Number, Number, Number, Number]
T = TypeVar("T")


class _Json(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, ignored_types=(cached_property,))
    extensions: dict[str, Any] = {}


class _Asset(_Json):
    version: str


class _Buffer(_Json):
    uri: str | None = None
    byte_length: NonNegativeInt


class _View(_Json):
    buffer: NonNegativeInt
    byte_offset: NonNegativeInt = 0
    byte_length: NonNegativeInt
    byte_stride: Annotated[int, Field(ge=4, le=252)] | None = None


class _SparseIndices(_Json):
    buffer_view: NonNegativeInt
    byte_offset: NonNegativeInt = 0
    component_type: Literal[5121, 5123, 5125]


class _SparseValues(_Json):
    buffer_view: NonNegativeInt
    byte_offset: NonNegativeInt = 0


class _Sparse(_Json):
    count: Annotated[int, Field(ge=1, le=MAX_SPARSE)]
    indices: _SparseIndices
    values: _SparseValues


class _Accessor(_Json):
    buffer_view: NonNegativeInt | None = None
    byte_offset: NonNegativeInt = 0
    component_type: Literal[5120, 5121, 5122, 5123, 5125, 5126]
    normalized: bool = False
    count: Annotated[int, Field(ge=1, le=2**31)]
    type: str
    sparse: _Sparse | None = None


class _Primitive(_Json):
    attributes: dict[str, NonNegativeInt]
    indices: NonNegativeInt | None = None
    material: NonNegativeInt | None = None
    mode: int = _TRIANGLES
    targets: list[dict[str, NonNegativeInt]] = []


class _Mesh(_Json):
    primitives: list[_Primitive]
    weights: list[Number] = []


class _Node(_Json):
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


class _Scene(_Json):
    nodes: list[NonNegativeInt] = []


class _Skin(_Json):
    joints: list[NonNegativeInt]
    inverse_bind_matrices: NonNegativeInt | None = None


class _Slot(_Json):
    """A texture of a material."""

    index: NonNegativeInt
    tex_coord: NonNegativeInt = 0


class _TextureTransform(_Json):
    offset: tuple[Number, Number] = (0.0, 0.0)
    rotation: Number = 0.0
    scale: tuple[Number, Number] = (1.0, 1.0)
    tex_coord: NonNegativeInt | None = None


class _Metallic(_Json):
    base_color_factor: Vector4 = (1.0, 1.0, 1.0, 1.0)
    base_color_texture: _Slot | None = None


class _Glossy(_Json):
    diffuse_factor: Vector4 = (1.0, 1.0, 1.0, 1.0)
    diffuse_texture: _Slot | None = None


class _Material(_Json):
    pbr_metallic_roughness: _Metallic = _Metallic()
    alpha_mode: AlphaMode = "OPAQUE"
    alpha_cutoff: Number = 0.5
    double_sided: bool = False


class _Texture(_Json):
    sampler: NonNegativeInt | None = None
    source: NonNegativeInt | None = None


class _Sampler(_Json):
    mag_filter: int = 9729
    wrap_s: int = 10497
    wrap_t: int = 10497


class _Image(_Json):
    uri: str | None = None
    buffer_view: NonNegativeInt | None = None


class _Gltf(_Json):
    """The JSON of a file, as far as it is read."""

    asset: _Asset
    extensions_required: list[str] = []
    extensions_used: list[str] = []
    scene: NonNegativeInt | None = None
    scenes: list[_Scene] = []
    nodes: list[_Node] = []
    meshes: list[_Mesh] = []
    accessors: list[_Accessor] = []
    buffer_views: list[_View] = []
    buffers: list[_Buffer] = []
    materials: list[_Material] = []
    textures: list[_Texture] = []
    samplers: list[_Sampler] = []
    images: list[_Image] = []
    skins: list[_Skin] = []


def from_gltf(data: bytes, folder: Path) -> Mesh:
    """Read a .glb or .gltf; `folder` has the files that it names. Raises FormatError."""
    content, chunk = _chunks(data)
    if len(content) > MAX_JSON_BYTES:
        raise FormatError(
            f"The JSON of the glTF has {len(content) / 2**20:,.0f} MiB; at most {MAX_JSON_BYTES // 2**20} are read. "
            "Save the mesh as .glb, with binary buffers."
        )
    if content.count(b"{") + content.count(b"[") > MAX_JSON_NODES:
        raise FormatError(f"The JSON of the glTF has more than {MAX_JSON_NODES:,} lists and objects; export it again.")
    gltf = parsed(_Gltf, content, "The JSON of the glTF")
    if not gltf.asset.version.startswith("2."):
        raise FormatError(f"The glTF has version {gltf.asset.version[:20]}; expected 2.0. Export it again as .glb.")
    for name in gltf.extensions_required:
        if name in _PACKED:
            raise _packed(name)
        if name not in _READ:
            raise FormatError(f"The glTF requires the extension {name[:60]!r}, which is not read; export it without.")
    return _Reader(gltf, chunk, folder, len(data)).mesh()


def _packed(name: str) -> FormatError:
    what = "textures" if name == "KHR_texture_basisu" else "triangles"
    return FormatError(
        f"The {what} of the glTF are compressed with {_PACKED[name]} ({name}); write a copy without compression: "
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


def _item(items: list[T], number: int, what: str) -> T:
    if number >= len(items):
        raise FormatError(f"The glTF refers to {what} {number} of {len(items)}; export it again.")
    return items[number]


class _Reader:
    """The parts of one file, each buffer, accessor and image decoded when it is needed."""

    def __init__(self, gltf: _Gltf, chunk: memoryview | None, folder: Path, size: int):
        self.gltf, self.chunk, self.folder, self.size = gltf, chunk, folder, size
        self.buffers: dict[int, bytes | memoryview] = {}
        self.images: dict[int, np.ndarray] = {}
        self.textures: dict[int, tuple[int, Texture]] = {}
        self.notes: list[str] = []
        self.bytes_left, self.pixels_left = MAX_FILE_BYTES, MAX_TEXTURE_PIXELS

    def mesh(self) -> Mesh:
        """The mesh of the default scene. Raises FormatError."""
        world = self._nodes()
        found: list[tuple[_Primitive, int, _Mesh]] = []
        for number in world:
            if (mesh_number := self.gltf.nodes[number].mesh) is None:
                continue
            mesh = _item(self.gltf.meshes, mesh_number, "mesh")
            found += [(primitive, number, mesh) for primitive in mesh.primitives]
            if len(found) > MAX_PRIMITIVES:
                raise FormatError(
                    f"The glTF has more than {MAX_PRIMITIVES:,} primitives; join them, then export it again."
                )
        surfaces = [each for each in found if each[0].mode in (_TRIANGLES, _STRIP, _FAN)]
        if len(surfaces) < len(found):
            self.notes.append("Points and lines are left out.")
        check_count(sum(self._triangle_count(primitive) for primitive, _, _ in surfaces))
        pieces = [self._piece(*each, world) for each in surfaces]
        textures = [texture for _, texture in sorted(self.textures.values(), key=lambda each: each[0])]
        return assemble(pieces, textures, linear=True, notes=self.notes)

    def _nodes(self) -> dict[int, np.ndarray]:
        """The transforms to the world of all nodes of the scene."""
        gltf = self.gltf
        if gltf.scenes:
            roots = _item(gltf.scenes, gltf.scene or 0, "scene").nodes
        else:
            children = {child for node in gltf.nodes for child in node.children}
            roots = [number for number in range(len(gltf.nodes)) if number not in children]
        world: dict[int, np.ndarray] = {}
        waiting = [(number, np.eye(4)) for number in reversed(roots)]
        while waiting:
            number, parent = waiting.pop()
            node = _item(gltf.nodes, number, "node")
            if number in world:
                raise FormatError(f"Node {number} of the glTF has two parents or is in a circle; export it again.")
            with np.errstate(all="ignore"):  # what overflows is refused as a vertex
                world[number] = parent @ node.transform
            waiting += [(child, world[number]) for child in reversed(node.children)]
        return world

    def _triangle_count(self, primitive: _Primitive) -> int:
        number = primitive.indices
        if number is None:
            number = self._attribute(primitive, "POSITION")
        count = _item(self.gltf.accessors, number, "accessor").count
        return count // 3 if primitive.mode == _TRIANGLES else max(count - 2, 0)

    def _attribute(self, primitive: _Primitive, name: str) -> int:
        if "KHR_draco_mesh_compression" in primitive.extensions:
            raise _packed("KHR_draco_mesh_compression")
        if name not in primitive.attributes:
            raise FormatError(f"The glTF has triangles without {name}; export it again.")
        return primitive.attributes[name]

    def _piece(self, primitive: _Primitive, node_number: int, mesh: _Mesh, world: dict[int, np.ndarray]) -> Piece:
        node = self.gltf.nodes[node_number]
        positions = self._attribute(primitive, "POSITION")
        num = _item(self.gltf.accessors, positions, "accessor").count
        self.values(positions, 3, np.empty(0, np.int64))  # refused here if they are not in the file
        if primitive.indices is None:
            corners = np.arange(min(num, 3 * self._triangle_count(primitive) + 2))
        else:
            corners = self.values(primitive.indices, 1)[:, 0].astype(np.int64)
        faces = _triangles(corners, primitive.mode)
        used, local = np.unique(faces, return_inverse=True)
        if len(used) and (used[0] < 0 or used[-1] >= num):
            raise FormatError(f"The glTF has a triangle with vertex {used[-1]}, but {num:,} vertices. Export it again.")
        faces = local.reshape(-1, 3)

        def column(name: str, width: int) -> np.ndarray | None:
            if name not in primitive.attributes:
                return None
            number = primitive.attributes[name]
            if _item(self.gltf.accessors, number, "accessor").count < num:
                raise FormatError(f"The glTF has fewer values of {name} than vertices; export it again.")
            return self.values(number, width, used)

        vertices = self.values(positions, 3, used).astype(np.float64)
        normals = column("NORMAL", 3)
        weights = (node.weights if node.weights is not None else mesh.weights)[: len(primitive.targets)]
        for weight, target in zip(weights, primitive.targets, strict=False):
            if weight and "POSITION" in target:
                vertices += weight * self.values(target["POSITION"], 3, used)
        if node.skin is not None and "JOINTS_0" in primitive.attributes and "WEIGHTS_0" in primitive.attributes:
            joints, shares = column("JOINTS_0", 4), column("WEIGHTS_0", 4)
            assert joints is not None
            assert shares is not None
            matrices = self._skinned(_item(self.gltf.skins, node.skin, "skin"), joints, shares, world)
        else:
            matrices = world[node_number][None]
        with np.errstate(all="ignore"):  # what overflows is refused as a vertex
            linear = matrices[:, :3, :3]
            vertices = np.einsum("nij,nj->ni", np.broadcast_to(linear, (len(vertices), 3, 3)), vertices)
            vertices += matrices[:, :3, 3]
            if normals is not None:
                normals = _turned(normals, linear)
            if len(matrices) == 1 and np.linalg.det(linear[0]) < 0:
                faces = faces[:, ::-1]
        part, slot = self._material(primitive)
        uv = None
        if slot is not None:
            part, uv = self._textured(part, slot, column)
        colors = column("COLOR_0", 4)
        if primitive.material is None and colors is None:
            shade = ((GREY + 0.055) / 1.055) ** 2.4
            part = Part(0, base_color=(shade, shade, shade, 1.0))
            self.notes.append("Surfaces without a material are grey.")
        return Piece(vertices, faces, part, uv, colors, normals)

    def _skinned(self, skin: _Skin, joints: np.ndarray, shares: np.ndarray, world: dict[int, np.ndarray]) -> np.ndarray:
        """A matrix for every vertex: the mean of those of its joints, in the pose of the nodes."""
        bones = np.stack([world.get(number, np.eye(4)) for number in skin.joints] or [np.eye(4)])
        if skin.inverse_bind_matrices is not None:
            bind = self.values(skin.inverse_bind_matrices, 16).reshape(-1, 4, 4).transpose(0, 2, 1)
            if len(bind) < len(bones):
                raise FormatError("The skin of the glTF has fewer matrices than joints; export it again.")
            bones = bones @ bind[: len(bones)]
        joints = joints.astype(np.int64)
        if joints.max(initial=0) >= len(bones):
            raise FormatError(f"The glTF has a vertex of joint {joints.max()} of {len(bones)}; export it again.")
        total = shares.sum(axis=1, keepdims=True)
        shares = np.where(total > 0, shares / np.where(total > 0, total, 1), [1, 0, 0, 0])
        matrices = np.zeros((len(joints), 4, 4))
        for column in range(4):
            matrices += shares[:, column, None, None] * bones[joints[:, column]]
        return matrices

    def _material(self, primitive: _Primitive) -> tuple[Part, _Slot | None]:
        if primitive.material is None:
            return Part(0, double_sided=False), None
        material = _item(self.gltf.materials, primitive.material, "material")
        metallic = material.pbr_metallic_roughness
        factor, slot = metallic.base_color_factor, metallic.base_color_texture
        old = material.extensions.get("KHR_materials_pbrSpecularGlossiness")
        if old is not None and slot is None:
            glossy = _extension(_Glossy, old, "KHR_materials_pbrSpecularGlossiness")
            factor, slot = glossy.diffuse_factor, glossy.diffuse_texture
        part = Part(
            0,
            base_color=factor,
            alpha_mode=material.alpha_mode,
            alpha_cutoff=material.alpha_cutoff,
            double_sided=material.double_sided,
            unlit="KHR_materials_unlit" in material.extensions,
        )
        return part, slot

    def _textured(self, part: Part, slot: _Slot, column: Any) -> tuple[Part, np.ndarray | None]:
        """The part with its texture, and transformed texture coordinates."""
        change = _extension(
            _TextureTransform, slot.extensions.get("KHR_texture_transform", {}), "KHR_texture_transform"
        )
        set_number = slot.tex_coord if change.tex_coord is None else change.tex_coord
        uv = column(f"TEXCOORD_{set_number}", 2)
        if uv is None:
            self.notes.append("A texture without texture coordinates is left out.")
            return part, None
        cosine, sine = np.cos(change.rotation), np.sin(change.rotation)
        turn = np.array([[cosine, sine], [-sine, cosine]])  # counter-clockwise in an image whose v points down
        with np.errstate(all="ignore"):
            uv = (uv * change.scale) @ turn.T + change.offset
        number = self._texture(slot.index)
        return Part(**{**vars(part), "texture": number}), uv

    def _texture(self, number: int) -> int:
        if number not in self.textures:
            texture = _item(self.gltf.textures, number, "texture")
            webp = texture.extensions.get("EXT_texture_webp")
            source = webp.get("source", texture.source) if isinstance(webp, dict) else texture.source
            if source is None and "KHR_texture_basisu" in texture.extensions:
                raise _packed("KHR_texture_basisu")
            if not isinstance(source, int):
                raise FormatError(f"Texture {number} of the glTF has no image; export it again.")
            sampler = _Sampler()
            if texture.sampler is not None:
                sampler = _item(self.gltf.samplers, texture.sampler, "sampler")
            wrap = (_WRAPS.get(sampler.wrap_s, "repeat"), _WRAPS.get(sampler.wrap_t, "repeat"))
            decoded = Texture(self._image(source), wrap, nearest=sampler.mag_filter == _NEAREST)
            self.textures[number] = len(self.textures), decoded
        return self.textures[number][0]

    def _image(self, number: int) -> np.ndarray:
        if number not in self.images:
            image = _item(self.gltf.images, number, "image")
            what = f"Image {number} of the glTF"
            if image.buffer_view is not None:
                content = bytes(self._view(image.buffer_view))
            elif image.uri is not None:
                content = read_uri(self.folder, image.uri)
            else:
                raise FormatError(f"{what} has no content; export it again.")
            self.images[number] = image_rgba(content, what, self.pixels_left)
            self.pixels_left -= self.images[number].size // 4
        return self.images[number]

    def _view(self, number: int) -> memoryview:
        view = _item(self.gltf.buffer_views, number, "buffer view")
        for name in ("EXT_meshopt_compression", "KHR_meshopt_compression"):
            if name in view.extensions:
                raise _packed(name)
        buffer = self._buffer(view.buffer)
        if view.byte_offset + view.byte_length > len(buffer):
            raise FormatError(
                f"The glTF is truncated: buffer view {number} ends at byte {view.byte_offset + view.byte_length:,} of "
                f"{len(buffer):,}. Copy it again."
            )
        return memoryview(buffer)[view.byte_offset : view.byte_offset + view.byte_length]

    def _buffer(self, number: int) -> bytes | memoryview:
        if number not in self.buffers:
            buffer = _item(self.gltf.buffers, number, "buffer")
            if buffer.uri is None:
                if number or self.chunk is None:
                    raise FormatError(f"Buffer {number} of the glTF has no content; export it again.")
                self.buffers[number] = self.chunk
            else:
                self.buffers[number] = read_uri(self.folder, buffer.uri)
                self.bytes_left -= len(self.buffers[number])
                if self.bytes_left < 0:
                    raise FormatError(
                        f"The buffers of the glTF have more than {MAX_FILE_BYTES // 2**20} MiB. Simplify the mesh."
                    )
        return self.buffers[number]

    def values(self, number: int, width: int, rows: np.ndarray | None = None) -> np.ndarray:
        """The values of an accessor, [count, width], or those of `rows`; fewer columns if it has fewer.

        Normalized integers become numbers up to 1. Raises FormatError unless all are in the file.
        """
        accessor = _item(self.gltf.accessors, number, "accessor")
        found = _WIDTHS.get(accessor.type, 0)
        if found > width or (found != width and (width, found) != (4, 3)):
            raise FormatError(f"Accessor {number} of the glTF has type {accessor.type[:20]}; export it again.")
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
        content = self._view(view)
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


def _extension(model: type[BaseModel], value: Any, name: str) -> Any:
    try:
        return model.model_validate(value)
    except ValueError as error:
        raise FormatError(f"The {name} of a material is invalid; export the glTF again.") from error


def _triangles(corners: np.ndarray, mode: int) -> np.ndarray:
    """Indices of the corners of triangles, [F, 3], from those of a list, strip or fan."""
    if mode == _TRIANGLES:
        return corners[: len(corners) // 3 * 3].reshape(-1, 3)
    count = max(len(corners) - 2, 0)
    first = np.arange(count)
    if mode == _FAN:
        return np.stack([corners[first + 1], corners[first + 2], np.broadcast_to(corners[:1], count)], axis=1)
    odd = first % 2
    return np.stack([corners[first], corners[first + 1 + odd], corners[first + 2 - odd]], axis=1)


def _turned(normals: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Unit normals after a transform, by its cofactors: those of a flat scale stay finite."""
    rows = [np.cross(linear[:, (row + 1) % 3], linear[:, (row + 2) % 3]) for row in range(3)]
    cofactors = np.broadcast_to(np.stack(rows, axis=1), (len(normals), 3, 3))
    turned = np.einsum("nij,nj->ni", cofactors, normals.astype(np.float64))
    if len(linear) == 1 and np.linalg.det(linear[0]) < 0:
        turned = -turned
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    return np.where(np.isfinite(length) & (length > 0), turned / np.where(length > 0, length, 1), 0)
