"""`.glb` ⇄ Gaussians: glTF 2.0 with KHR_gaussian_splatting as ratified (text of April 2026), all in float32.

One primitive of points. Attributes besides POSITION: ROTATION (x y z w, length 1), SCALE (standard deviations), OPACITY
in [0, 1] and one SH_DEGREE_l_COEF_n per SH coefficient. COLOR_0 is for viewers without the extension, which show
points. glTF defines the axes: y up, front +z.
"""

import json
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, NonNegativeInt
from pydantic.alias_generators import to_camel
from torch import Tensor

from sctd.formats.common import FormatError, checked, parsed, unit_quats
from sctd.scene.gaussians import Gaussians, sh_to_rgb, srgb_to_linear

EXTENSION = "KHR_gaussian_splatting"
_TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_FLOAT, _POINTS, _ARRAY_BUFFER = 5126, 0, 34962
_IDENTITY = tuple(np.eye(4).ravel().tolist())
_HEADER, _CHUNK = struct.Struct("<4sII"), struct.Struct("<I4s")


class _Json(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class _View(_Json):
    byte_offset: NonNegativeInt = 0
    byte_stride: int | None = None


class _Accessor(_Json):
    buffer_view: NonNegativeInt | None = None
    byte_offset: NonNegativeInt = 0
    component_type: int
    count: NonNegativeInt
    type: str


class _Primitive(_Json):
    attributes: dict[str, NonNegativeInt]


class _Mesh(_Json):
    primitives: list[_Primitive]


class _Node(_Json):
    matrix: list[float] = list(_IDENTITY)
    translation: list[float] = [0.0, 0.0, 0.0]
    rotation: list[float] = [0.0, 0.0, 0.0, 1.0]
    scale: list[float] = [1.0, 1.0, 1.0]

    @property
    def transforms(self) -> list[str]:
        """The names of the transforms that are not the identity."""
        return [name for name, value in self if value != type(self).model_fields[name].default]


class _Content(_Json):
    """The JSON of a file, as far as it is read."""

    extensions_used: list[str] = []
    nodes: list[_Node] = []
    meshes: list[_Mesh] = []
    accessors: list[_Accessor] = []
    buffer_views: list[_View] = []

    def column(self, attributes: dict[str, int], name: str, width: int, buffer: bytes) -> np.ndarray:
        """The values of an attribute, [count, width]. Raises FormatError."""
        number = attributes.get(name, len(self.accessors))
        accessor = self.accessors[number] if number < len(self.accessors) else None
        if accessor is None or accessor.buffer_view is None or accessor.buffer_view >= len(self.buffer_views):
            raise FormatError(f"The .glb has no {name}; expected {EXTENSION} as ratified. Export it again.")
        view = self.buffer_views[accessor.buffer_view]
        if (accessor.component_type, accessor.type) != (_FLOAT, _TYPES[width]) or view.byte_stride is not None:
            raise FormatError(f"{name} is not stored as contiguous float32, the only supported layout.")
        begin, size = view.byte_offset + accessor.byte_offset, accessor.count
        if begin + 4 * size * width > len(buffer):
            raise FormatError(f"The .glb is truncated: it announces {size} values of {name}; copy it again.")
        return np.frombuffer(buffer, "<f4", size * width, begin).reshape(size, width).copy()


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
    kind = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
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
    return EXTENSION.encode() in data[: _HEADER.size + _CHUNK.size + _length(data)]


def _length(data: bytes) -> int:
    """Bytes of the JSON."""
    return _CHUNK.unpack_from(data, _HEADER.size)[0] if len(data) >= _HEADER.size + _CHUNK.size else 0


def from_glb(data: bytes, *, drop_invalid: bool = False) -> Gaussians:
    """Read a file as `to_glb` writes it (float32, untransformed nodes). Raises FormatError for other files."""
    start = _HEADER.size + _CHUNK.size
    if len(data) < start:
        raise FormatError("This is not a .glb (it ends within its header); export or copy it again.")
    magic, version, _ = _HEADER.unpack_from(data)
    length, _ = _CHUNK.unpack_from(data, _HEADER.size)
    if (magic, version) != (b"glTF", 2):
        raise FormatError(f"This is not a glTF 2.0 .glb with {EXTENSION}; read meshes with sctd.formats.mesh.")
    content = parsed(_Content, data[start : start + length], "The JSON of the .glb")
    if EXTENSION not in content.extensions_used:
        raise FormatError(f"This is not a glTF 2.0 .glb with {EXTENSION}; read meshes with sctd.formats.mesh.")
    if len(content.meshes) != 1 or len(content.meshes[0].primitives) != 1:
        found = ", ".join(str(len(mesh.primitives)) for mesh in content.meshes[:10]) or "none"
        raise FormatError(f"The .glb has meshes with these numbers of primitives: {found}; expected one with one.")
    if transforms := sorted({name for node in content.nodes for name in node.transforms}):
        raise FormatError(
            f"The .glb has nodes with a {' and a '.join(transforms)}; expected Gaussians in their final place. Apply "
            "the transforms, then export it again."
        )
    attributes = content.meshes[0].primitives[0].attributes
    buffer = data[start + length + _CHUNK.size :]

    def column(name: str, width: int) -> Float[Tensor, "num columns"]:
        return torch.from_numpy(content.column(attributes, name, width, buffer))

    names = [name for name in map(_sh_name, range(16)) if name in attributes]
    if len(names) not in (1, 4, 9, 16) or names[-1] != _sh_name(len(names) - 1):
        raise FormatError(f"The .glb has {len(names)} spherical harmonics; expected all of degree 0, 1, 2 or 3.")
    columns = [
        column(name, width)
        for name, width in (
            ("POSITION", 3), (f"{EXTENSION}:SCALE", 3), (f"{EXTENSION}:ROTATION", 4), (f"{EXTENSION}:OPACITY", 1),
            *((name, 3) for name in names),
        )
    ]  # fmt: skip
    if len({len(each) for each in columns}) > 1:
        raise FormatError("The .glb has attributes of different numbers of Gaussians; export or copy it again.")
    means, scales, quats, opacities, *coefficients = columns
    gaussians = Gaussians(
        means=means,
        log_scales=scales.log(),
        quats=quats[:, [3, 0, 1, 2]],
        logit_opacities=opacities[:, 0].logit(eps=1e-7),
        sh=torch.stack(coefficients, dim=1),
    )
    return checked(gaussians, "glb", drop_invalid=drop_invalid)


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
