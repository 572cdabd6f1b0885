"""Readers of Gaussians and point clouds: `.ply`, `.splat`, `.spz`, `.sog` and `.glb`."""

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable

import pytest
import torch
import zstandard
from hypothesis import strategies as st
from PIL import Image

from sctd.formats import gltf, ply, sog, splat, spz
from sctd.formats.common import LENGTHS, FormatError
from sctd.scene.gaussians import Gaussians
from tests.support.fuzzing import (
    PIECES,
    Choices,
    Refused,
    changed,
    chosen,
    damaged,
    fuzz,
    made,
    outcome,
    to_json,
    zipped,
)
from tests.support.splats import compressed, some_splats

SPLATS = [some_splats(num, degree) for num, degree in ((1, 0), (2, 1), (3, 0), (2, 3), (1, 2))]
CODECS: dict[str, tuple[Callable, Callable]] = {
    "ply": (ply.from_ply, ply.to_ply),
    "splat": (splat.from_splat, splat.to_splat),
    "spz": (spz.from_spz, spz.to_spz),
    "sog": (sog.from_sog, sog.to_sog),
    "glb": (gltf.from_glb, gltf.to_glb),
    "compressed ply": (ply.from_ply, compressed),
}
FILES = {kind: [write(splats) for splats in SPLATS] for kind, (_, write) in CODECS.items()}
NUMBERS = 0, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**32 - 1
PLY_NAMES = {
    "points": ply.POSITION,
    "colours": (*ply.POSITION, "red", "green", "blue"),
    "gaussians": (*ply.POSITION, *ply.CONSTANT, "opacity", *ply.SCALE, *ply.ROTATION),
}
PLY_TYPES = "float", "float32", "double", "uchar", "ushort", "int", "int8", "list uchar int", "float64", "text"
PLY_ODD_NAMES = "x", "y", "z", "red", "green", "blue", "r", "f_dc_0", "opacity", "scale_0", "rot_0", "nx", "\x1b[m"
PLY_VALUES = "0", "1", "0.5", "-3e38", "1e39", "nan", "inf", "a", "255", "1e400"


def ply_file(choices: Choices) -> bytes:
    """A point cloud or Gaussians, with up to three wrong header lines, in one of the three encodings."""
    names = PLY_NAMES[choices.of(list(PLY_NAMES))]
    encoding = choices.of(["ascii", "binary_little_endian", "binary_big_endian", "binary"])
    count = choices.of([0, 1, 2, 3, 5, -1, 2**31, 10**30])
    lines = ["ply", f"format {encoding} 1.0", f"element vertex {count}"]
    lines += [f"property {'uchar' if name in ('red', 'green', 'blue') else 'float'} {name}" for name in names]
    for _ in range(choices.below(4)):
        at = 1 + choices.below(len(lines))
        match choices.of(["drop", "repeat", "property", "element", "comment", "junk"]):
            case "drop":
                del lines[at : at + 1]
            case "repeat":
                lines[at:at] = lines[at : at + 1]
            case "property":
                lines.insert(at, f"property {choices.of(PLY_TYPES)} {choices.of(PLY_ODD_NAMES)}")
            case "element":
                lines.insert(at, f"element {choices.of(['vertex', 'face', 'a b'])} {choices.of(NUMBERS)}")
            case "comment":
                lines.insert(at, choices.of(["comment", "obj_info a", "comment TextureFile a.png"]))
            case "junk":
                lines.insert(at, choices.of(PIECES).decode("latin-1"))
    if choices.below(10):
        lines.append("end_header")
    if encoding == "ascii":
        rows = max(0, min(count, 5)) + choices.of([0, 0, 0, 1, -1])
        body = "".join(" ".join(choices.of(PLY_VALUES) for _ in names) + "\n" for _ in range(rows)).encode()
    else:
        body = choices.of([b"\0", b"\xff", b"\x00\x00\x80\x3f"]) * choices.of([0, 1, 15, 60, 168, 500])
    return "\n".join(lines).encode("utf-8") + b"\n" + body


def splat_file(choices: Choices) -> bytes:
    numbers = 0.0, 1.0, -1.0, 1e-30, 1e30, 3e38, float("inf"), float("nan"), -float("inf"), 0.1
    rows = (
        struct.pack("<6f", *(choices.of(numbers) for _ in range(6))) + bytes(choices.below(256) for _ in range(8))
        for _ in range(choices.below(4))
    )
    return b"".join(rows)


def spz_file(choices: Choices) -> bytes:
    """A header and contents that need not fit it."""
    magic, version = choices.of([spz.MAGIC] * 9 + [0]), choices.of([1, 2, 3, 3, 4, 4, 5])
    num, degree = choices.of([0, 1, 2, 5, 2**20, 2**32 - 1]), choices.of([0, 0, 1, 2, 3, 4, 255])
    header = struct.pack("<IIIBBBB", magic, version, num, degree, choices.of([12, 12, 0, 23, 24, 255]), 1, 0)
    content = choices.of([b"\0", b"\xff", b"\x80", b"\x12\x34\x56"]) * choices.of([0, 20, 40, 100, 400, 2**20])
    if version == 4:
        return spz_streams(choices, header[:15], num, degree)
    return gzip.compress(header + content, 1, mtime=0)


def spz_streams(choices: Choices, start: bytes, num: int, degree: int) -> bytes:
    """A file of version 4 with up to six streams, of which sizes and contents need not fit."""
    rows = [9, 1, 3, 3, 4, 3 * ((degree + 1) ** 2 - 1)][: choices.of([6, 6, 6, 5, 0])]
    sizes = [choices.of([num * row, num * row, num * row, 0, 7]) % 2**12 for row in rows]
    streams = [zstandard.compress(choices.of([b"\0", b"\xff"]) * size, 1) for size in sizes]
    lengths = [
        (len(stream), choices.of([size, size, size, *NUMBERS])) for stream, size in zip(streams, sizes, strict=True)
    ]
    counts = bytes([choices.of([len(rows)] * 5 + [0, 255])]) + struct.pack("<I12x", choices.of([32] * 5 + [0, 2**31]))
    return start + counts + b"".join(struct.pack("<QQ", *pair) for pair in lengths) + b"".join(streams)


def _image(width: int, height: int, kind: str, mode: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), 255).save(file, kind)
    return file.getvalue()


IMAGES = [
    _image(1, 1, "PNG", "L"), _image(2, 2, "WEBP", "RGB"), _image(3, 1, "WEBP", "RGBA"), _image(1, 2, "PNG", "1"),
    b"", b"RIFF",
]  # fmt: skip
ARCHIVES = [zipfile.ZipFile(io.BytesIO(file)) for file in FILES["sog"]]
CONTENTS = [{name: archive.read(name) for name in archive.namelist()} for archive in ARCHIVES]


def sog_file(choices: Choices) -> bytes:
    """Changed values in meta.json, and perhaps another image or none."""
    files = dict(choices.of(CONTENTS))
    if choices.below(4):
        files["meta.json"] = to_json(changed(json.loads(files["meta.json"]), choices))
    if not choices.below(3):
        files[choices.of(sorted(files))] = choices.of(IMAGES)
    if not choices.below(6):
        del files[choices.of(sorted(files))]
    return zipped(files)


def parts_of_glb(file: bytes) -> tuple[dict, bytes]:
    """The JSON of a file, and what follows it."""
    length = int.from_bytes(file[12:16], "little")
    return json.loads(file[20 : 20 + length]), file[20 + length :]


TREES = [parts_of_glb(file) for file in FILES["glb"]]


def glb_file(choices: Choices) -> bytes:
    """Changed JSON in a container with right and wrong lengths."""
    tree, rest = choices.of(TREES)
    content = to_json(changed(tree, choices))
    length, version = choices.of([len(content)] * 5 + [0, 1, 2**32 - 1]), choices.of([2] * 5 + [1])
    chunks = struct.pack("<I4s", length, b"JSON") + content + rest[: choices.of([10**6] * 5 + [0, 11, 48])]
    return struct.pack("<4sII", b"glTF", version, 12 + len(chunks)) + chunks


def compressed_ply_file(choices: Choices) -> bytes:
    """A file with up to three wrong header lines, and perhaps other numbers."""
    header, end, body = choices.of(FILES["compressed ply"]).partition(b"end_header\n")
    lines = header.splitlines()
    for _ in range(choices.below(4)):
        at = 1 + choices.below(len(lines))
        match choices.of(["drop", "repeat", "type", "count"]):
            case "drop":
                del lines[at : at + 1]
            case "repeat":
                lines[at:at] = lines[at : at + 1]
            case "type":
                names = b"packed_color", b"min_x", b"max_scale_z", b"f_rest_0", b"f_rest_1"
                lines.insert(at, b"property " + choices.of(PLY_TYPES).encode() + b" " + choices.of(names))
            case "count":
                names = b"vertex", b"chunk", b"sh"
                lines.insert(at, b"element " + choices.of(names) + b" %d" % choices.of(NUMBERS))
    if not choices.below(4):
        body = choices.of([b"\0", b"\xff", b"\x7f"]) * choices.of([0, len(body), len(body) + 20])
    return b"\n".join([*lines, end]) + body


MAKERS = {
    "ply": ply_file,
    "splat": splat_file,
    "spz": spz_file,
    "sog": sog_file,
    "glb": glb_file,
    "compressed ply": compressed_ply_file,
}


def files_of(kind: str) -> st.SearchStrategy[bytes]:
    """Files made of right and wrong parts, damaged files, and any bytes behind the right first ones."""
    parts = made(MAKERS[kind])
    any_bytes = st.builds(lambda data, tail: data[:8] + tail, chosen(FILES[kind]), st.binary(max_size=100))
    return st.one_of(parts, parts, damaged(chosen(FILES[kind])), damaged(parts), any_bytes)


def check_gaussians(found: Gaussians) -> None:
    """Every value can be rendered and stored."""
    for name, tensor in found.tensors().items():
        assert len(tensor) == found.num, name
        assert tensor.dtype == torch.float32, name
        assert tensor.isfinite().all(), name
    assert found.sh_degree in range(4)
    lengths = torch.linalg.vector_norm(found.quats, dim=-1)
    assert ((lengths >= LENGTHS[0]) & (lengths <= LENGTHS[1])).all()
    assert found.scales.isfinite().all()


@pytest.mark.parametrize("kind", CODECS)
def test_gaussians(kind):
    read, _ = CODECS[kind]

    def check(file: bytes) -> None:
        found = outcome(lambda: read(file), FormatError)
        if not isinstance(found, Refused):
            check_gaussians(found)
        dropped = outcome(lambda: read(file, drop_invalid=True), FormatError)
        if not isinstance(dropped, Refused):
            check_gaussians(dropped)
            assert isinstance(found, Refused) or found.num == dropped.num
        else:
            assert isinstance(found, Refused)

    fuzz(files_of(kind), check)
