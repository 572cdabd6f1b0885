"""`.glb` ⇄ Gaussians: glTF 2.0 with KHR_gaussian_splatting, a release candidate in the text of April to July 2026.

One primitive of points. Attributes besides POSITION: ROTATION (x y z w, length 1), SCALE (standard deviations), OPACITY
in [0, 1] and one SH_DEGREE_l_COEF_n per SH coefficient. COLOR_0 is for viewers without the extension, which show
points: it is written in linear light and never read. glTF defines the axes: y up, front +z. All is written in float32;
integers, strides, several primitives and nodes with transforms are read as well.
"""

import json
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sctd.formats.axes import placed
from sctd.formats.common import FormatError, checked, exact_logits, joined, unit_quats
from sctd.formats.gltf_file import Gltf, GltfFile, Json, Primitive, item, opened
from sctd.scene.gaussians import Gaussians, sh_to_rgb, srgb_to_linear

EXTENSION = "KHR_gaussian_splatting"
KERNEL, COLOR_SPACE = "ellipse", "srgb_rec709_display"
_READ = {EXTENSION, "KHR_mesh_quantization", "KHR_materials_unlit"}  # extensions that a file may require
_FEWEST_BYTES = 16  # of a Gaussian; files whose nodes repeat a mesh more often are refused
_TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_FLOAT, _POINTS, _ARRAY_BUFFER = 5126, 0, 34962
_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")


class _Kind(Json):
    """The extension of a primitive."""

    kernel: str = KERNEL
    color_space: str = COLOR_SPACE


def to_glb(gaussians: Gaussians) -> bytes:
    """One node with one mesh of Gaussians, in their order. Raises FormatError without Gaussians: glTF forbids it."""
    if not gaussians.num:
        raise FormatError("There are no Gaussians; a .glb needs at least one.")
    gaussians = checked(gaussians.detach(), "glb")
    columns = {name: tensor.float().numpy() for name, tensor in _attributes(gaussians).items()}
    buffer = b"".join(column.astype("<f4").tobytes() for column in columns.values())
    starts = np.cumsum([0, *(4 * column.size for column in columns.values())]).tolist()
    accessors: list[dict[str, Any]] = [
        {
            "bufferView": number,
            "componentType": _FLOAT,
            "count": gaussians.num,
            "type": _TYPES[column.size // gaussians.num],
        }
        for number, column in enumerate(columns.values())
    ]
    positions = columns["POSITION"]
    accessors[0] |= {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
    kind = {"kernel": KERNEL, "colorSpace": COLOR_SPACE}
    primitive = {
        "attributes": {name: number for number, name in enumerate(columns)},
        "mode": _POINTS,
        "extensions": {EXTENSION: kind},
    }
    content = {
        "asset": {"version": "2.0", "generator": "SegmentDreamer"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": len(buffer)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": end - start, "target": _ARRAY_BUFFER}
            for start, end in pairwise(starts)
        ],
        "accessors": accessors,
    }
    return _container(json.dumps(content, separators=(",", ":")).encode(), buffer)


def has_gaussians(data: bytes) -> bool:
    """Whether the JSON of a .glb names the extension."""
    start = _HEADER.size + _CHUNK.size
    length = _CHUNK.unpack_from(data, _HEADER.size)[0] if len(data) >= start else 0
    return EXTENSION.encode() in data[: start + length]


def from_glb(data: bytes, *, drop_invalid: bool = False) -> Gaussians:
    """Read all splats of the scene, in their places. Raises FormatError for other files and those that need others."""
    if not data.startswith(b"glTF"):
        raise FormatError(f"This is not a .glb (it starts with {data[:8]!r}); export or copy it again.")
    gltf, chunk = opened(Gltf, data, _READ)
    if EXTENSION not in gltf.extensions_used:
        raise FormatError(f"This is not a glTF 2.0 .glb with {EXTENSION}; read meshes with sctd.formats.mesh.")
    file = GltfFile(gltf, chunk, None, len(data))
    found = [
        (primitive, transform)
        for number, transform in file.world().items()
        if (mesh := gltf.nodes[number].mesh) is not None
        for primitive in item(gltf.meshes, mesh, "mesh").primitives
        if EXTENSION in primitive.extensions
    ]
    if not found:
        raise FormatError(f"The scene of the .glb has no primitive with {EXTENSION}; export the splats again.")
    num = sum(file.count(_attribute(primitive, "POSITION")) for primitive, _ in found)
    if num * _FEWEST_BYTES > len(data):
        raise FormatError(f"The .glb is truncated: it announces {num:,} Gaussians; copy it again.")
    parts = [placed(_part(file, primitive), torch.from_numpy(transform)) for primitive, transform in found]
    return checked(joined(parts), "glb", drop_invalid=drop_invalid)


def _attribute(primitive: Primitive, name: str) -> int:
    """The accessor of an attribute."""
    if name not in primitive.attributes:
        instead = next(iter(_kind(primitive).extensions), None)
        why = f" (it has {instead[:60]!r} instead)" if instead else ""
        raise FormatError(f"The .glb has splats without {name}{why}; expected {EXTENSION} without compression.")
    return primitive.attributes[name]


def _part(file: GltfFile[Gltf], primitive: Primitive) -> Gaussians:
    """The Gaussians of a primitive, before the transform of its node."""
    kind = _kind(primitive)
    if kind.kernel != KERNEL:
        raise FormatError(f"The .glb has splats with the kernel {kind.kernel[:40]!r}; expected {KERNEL!r}.")
    if kind.color_space != COLOR_SPACE:
        raise FormatError(
            f"The .glb has splats with colours in {kind.color_space[:40]!r}, which blend differently; expected "
            f"{COLOR_SPACE!r}: convert it with the program that trained them."
        )
    names = [name for name in map(_sh_name, range(16)) if name in primitive.attributes]
    if len(names) not in (1, 4, 9, 16) or names[-1] != _sh_name(len(names) - 1):
        raise FormatError(f"The .glb has {len(names)} spherical harmonics; expected all of degree 0, 1, 2 or 3.")
    columns = [
        _column(file, primitive, name, width)
        for name, width in (
            ("POSITION", 3), (f"{EXTENSION}:SCALE", 3), (f"{EXTENSION}:ROTATION", 4), (f"{EXTENSION}:OPACITY", 1),
            *((name, 3) for name in names),
        )
    ]  # fmt: skip
    if len({len(each) for each in columns}) > 1:
        raise FormatError("The .glb has attributes of different numbers of Gaussians; export or copy it again.")
    means, scales, quats, opacities, *coefficients = columns
    if len(scales) and float(scales.median()) < 0:
        raise FormatError(
            "The .glb has negative scales, probably logarithms as in drafts of the extension; expected standard "
            "deviations: export it with a newer version of its program."
        )
    return Gaussians(
        means=means,
        log_scales=scales.log(),
        quats=quats[:, [3, 0, 1, 2]],
        logit_opacities=exact_logits(opacities[:, 0]),
        sh=torch.stack(coefficients, dim=1),
    )


def _kind(primitive: Primitive) -> _Kind:
    try:
        return _Kind.model_validate(primitive.extensions[EXTENSION])
    except ValueError as error:
        raise FormatError(f"The {EXTENSION} of a primitive is invalid; export the .glb again.") from error


def _column(file: GltfFile[Gltf], primitive: Primitive, name: str, width: int) -> Float[Tensor, "num width"]:
    values = file.values(_attribute(primitive, name), width)
    if values.shape[1] != width:
        raise FormatError(f"The .glb has {values.shape[1]} numbers for each {name}; expected {width}.")
    return torch.from_numpy(values.astype(np.float32))


def _attributes(gaussians: Gaussians) -> dict[str, Tensor]:
    """The accessors by name, POSITION first."""
    rgb, opacities = sh_to_rgb(gaussians.sh[:, 0]).clamp(0, 1), gaussians.opacities[:, None]
    return {
        "POSITION": gaussians.means,
        "COLOR_0": torch.cat([srgb_to_linear(rgb), opacities], dim=1),  # glTF colours are linear
        f"{EXTENSION}:ROTATION": unit_quats(gaussians)[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": gaussians.scales,
        f"{EXTENSION}:OPACITY": opacities,
        **{_sh_name(k): gaussians.sh[:, k] for k in range(gaussians.sh.shape[1])},
    }


def _sh_name(k: int) -> str:
    """The attribute name of the k-th SH coefficient: degree l starts at l²."""
    degree = int(np.sqrt(k))
    return f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{k - degree**2}"


def _container(content: bytes, buffer: bytes) -> bytes:
    """A .glb: a header, the JSON padded with spaces to a multiple of 4 bytes, and the buffer (already a multiple)."""
    content += b" " * (-len(content) % 4)
    chunks = _CHUNK.pack(len(content), b"JSON") + content + _CHUNK.pack(len(buffer), b"BIN\0") + buffer
    return _HEADER.pack(b"glTF", 2, _HEADER.size + len(chunks)) + chunks
