"""`.glb` and `.gltf` → mesh: glTF 2.0 with node transforms, base colours, texture transforms and unlit materials.

Read here and not through a library: trimesh drops vertex colours beside a texture, texture transforms and second sets
of texture coordinates, and allocates what an accessor announces (docs/decisions/0036).
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt

from sctd.formats.common import FormatError
from sctd.formats.gltf_file import (
    TRIANGLES,
    Gltf,
    GltfFile,
    Json,
    JsonMesh,
    Number,
    Primitive,
    Vector4,
    compressed,
    item,
    opened,
)
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
from sctd.formats.side_files import image_rgba

MAX_PRIMITIVES = 20_000  # of all nodes together
_STRIP, _FAN = 5, 6
_NEAREST = 9728
_WRAPS: dict[int, Wrap] = {33071: "clamp", 33648: "mirror", 10497: "repeat"}
_READ = {  # extensions that a file may require; what the others do is not known here
    "KHR_materials_unlit", "KHR_texture_transform", "KHR_mesh_quantization", "EXT_texture_webp",
    "KHR_materials_pbrSpecularGlossiness", "KHR_materials_variants", "KHR_lights_punctual", "KHR_materials_specular",
    "KHR_materials_ior", "KHR_materials_clearcoat", "KHR_materials_sheen", "KHR_materials_transmission",
    "KHR_materials_volume", "KHR_materials_emissive_strength", "KHR_materials_iridescence", "KHR_materials_anisotropy",
    "KHR_materials_dispersion", "KHR_xmp_json_ld", "KHR_animation_pointer",
}  # fmt: skip


class _Skin(Json):
    joints: list[NonNegativeInt]
    inverse_bind_matrices: NonNegativeInt | None = None


class _Slot(Json):
    """A texture of a material."""

    index: NonNegativeInt
    tex_coord: NonNegativeInt = 0


class _TextureTransform(Json):
    offset: tuple[Number, Number] = (0.0, 0.0)
    rotation: Number = 0.0
    scale: tuple[Number, Number] = (1.0, 1.0)
    tex_coord: NonNegativeInt | None = None


class _Metallic(Json):
    base_color_factor: Vector4 = (1.0, 1.0, 1.0, 1.0)
    base_color_texture: _Slot | None = None


class _Glossy(Json):
    diffuse_factor: Vector4 = (1.0, 1.0, 1.0, 1.0)
    diffuse_texture: _Slot | None = None


class _Material(Json):
    pbr_metallic_roughness: _Metallic = _Metallic()
    alpha_mode: AlphaMode = "OPAQUE"
    alpha_cutoff: Number = 0.5
    double_sided: bool = False


class _Texture(Json):
    sampler: NonNegativeInt | None = None
    source: NonNegativeInt | None = None


class _Sampler(Json):
    mag_filter: int = 9729
    wrap_s: int = 10497
    wrap_t: int = 10497


class _Image(Json):
    uri: str | None = None
    buffer_view: NonNegativeInt | None = None


class _Gltf(Gltf):
    """The JSON of a file, with what meshes need."""

    materials: list[_Material] = Field([])
    textures: list[_Texture] = Field([])
    samplers: list[_Sampler] = Field([])
    images: list[_Image] = Field([])
    skins: list[_Skin] = Field([])


def from_gltf(data: bytes, folder: Path) -> Mesh:
    """Read a .glb or .gltf; `folder` has the files that it names. Raises FormatError."""
    gltf, chunk = opened(_Gltf, data, _READ)
    return _Reader(gltf, chunk, folder, len(data)).mesh()


class _Reader(GltfFile[_Gltf]):
    """Makes the mesh of one file; each image is decoded when it is needed."""

    def __init__(self, gltf: _Gltf, chunk: memoryview | None, folder: Path, size: int):
        super().__init__(gltf, chunk, folder, size)
        self.images: dict[int, np.ndarray] = {}
        self.textures: dict[tuple[int, tuple[Wrap, Wrap], bool], tuple[int, Texture]] = {}
        self.notes: list[str] = []
        self.pixels_left = MAX_TEXTURE_PIXELS

    def mesh(self) -> Mesh:
        """The mesh of the default scene. Raises FormatError."""
        world = self.world()
        found: list[tuple[Primitive, int, JsonMesh]] = []
        for number in world:
            if (mesh_number := self.gltf.nodes[number].mesh) is None:
                continue
            mesh = item(self.gltf.meshes, mesh_number, "mesh")
            found += [(primitive, number, mesh) for primitive in mesh.primitives]
            if len(found) > MAX_PRIMITIVES:
                raise FormatError(
                    f"The glTF has more than {MAX_PRIMITIVES:,} primitives; join them, then export it again."
                )
        if any("EXT_mesh_gpu_instancing" in self.gltf.nodes[number].extensions for number in world):
            self.notes.append("Instances (EXT_mesh_gpu_instancing) are shown once.")
        surfaces = [each for each in found if each[0].mode in (TRIANGLES, _STRIP, _FAN)]
        if len(surfaces) < len(found):
            self.notes.append("Points and lines are left out.")
        check_count(sum(self._triangle_count(primitive) for primitive, _, _ in surfaces))
        pieces = [self._piece(*each, world) for each in surfaces]
        textures = [texture for _, texture in sorted(self.textures.values(), key=lambda each: each[0])]
        return assemble(pieces, textures, linear=True, notes=self.notes)

    def _triangle_count(self, primitive: Primitive) -> int:
        number = primitive.indices
        if number is None:
            number = self._attribute(primitive, "POSITION")
        count = item(self.gltf.accessors, number, "accessor").count
        return count // 3 if primitive.mode == TRIANGLES else max(count - 2, 0)

    def _attribute(self, primitive: Primitive, name: str) -> int:
        if "KHR_draco_mesh_compression" in primitive.extensions:
            raise compressed("KHR_draco_mesh_compression")
        if name not in primitive.attributes:
            raise FormatError(f"The glTF has triangles without {name}; export it again.")
        return primitive.attributes[name]

    def _piece(self, primitive: Primitive, node_number: int, mesh: JsonMesh, world: dict[int, np.ndarray]) -> Piece:
        node = self.gltf.nodes[node_number]
        positions = self._attribute(primitive, "POSITION")
        num = item(self.gltf.accessors, positions, "accessor").count
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
            if item(self.gltf.accessors, number, "accessor").count < num:
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
            matrices = self._skinned(item(self.gltf.skins, node.skin, "skin"), joints, shares, world)
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

    def _material(self, primitive: Primitive) -> tuple[Part, _Slot | None]:
        if primitive.material is None:
            return Part(0, double_sided=False), None
        material = item(self.gltf.materials, primitive.material, "material")
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
        texture = item(self.gltf.textures, number, "texture")
        webp = texture.extensions.get("EXT_texture_webp")
        source = webp.get("source", texture.source) if isinstance(webp, dict) else texture.source
        if source is None and "KHR_texture_basisu" in texture.extensions:
            raise compressed("KHR_texture_basisu")
        if not isinstance(source, int) or source < 0:
            raise FormatError(f"Texture {number} of the glTF has no image; export it again.")
        sampler = _Sampler()
        if texture.sampler is not None:
            sampler = item(self.gltf.samplers, texture.sampler, "sampler")
        wrap = (_WRAPS.get(sampler.wrap_s, "repeat"), _WRAPS.get(sampler.wrap_t, "repeat"))
        key = source, wrap, sampler.mag_filter == _NEAREST
        if key not in self.textures:
            rgba = self._image(source)
            if rgba.size // 4 > self.pixels_left:
                raise FormatError(
                    f"The textures of the glTF have more than {MAX_TEXTURE_PIXELS:,} pixels; shrink them."
                )
            self.pixels_left -= rgba.size // 4
            self.textures[key] = len(self.textures), Texture(rgba, wrap, nearest=key[2])
        return self.textures[key][0]

    def _image(self, number: int) -> np.ndarray:
        if number not in self.images:
            image = item(self.gltf.images, number, "image")
            what = f"Image {number} of the glTF"
            if image.buffer_view is not None:
                content = bytes(self.view(image.buffer_view))
            elif image.uri is not None:
                content = self.other_file(image.uri)
            else:
                raise FormatError(f"{what} has no content; export it again.")
            self.images[number] = image_rgba(content, what, self.pixels_left)
        return self.images[number]


def _extension(model: type[BaseModel], value: Any, name: str) -> Any:
    try:
        return model.model_validate(value)
    except ValueError as error:
        raise FormatError(f"The {name} of a material is invalid; export the glTF again.") from error


def _triangles(corners: np.ndarray, mode: int) -> np.ndarray:
    """Indices of the corners of triangles, [F, 3], from those of a list, strip or fan."""
    if mode == TRIANGLES:
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
