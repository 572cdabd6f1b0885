"""Readers of Gaussians and point clouds: `.ply`, `.splat`, `.spz`, `.sog` and `.glb`."""

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable

import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from sctd.formats import gltf, ply, sog, splat, spz
from sctd.formats.common import LENGTHS, FormatError
from sctd.scene.gaussians import Gaussians
from tests.support.fuzzing import PIECES, Refused, changed_trees, chosen, damaged, fuzz, outcome, zipped
from tests.support.splats import some_splats

SPLATS = [some_splats(num, degree) for num, degree in ((1, 0), (2, 1), (3, 0), (2, 3), (1, 2))]
CODECS: dict[str, tuple[Callable, Callable]] = {
    "ply": (ply.from_ply, ply.to_ply),
    "splat": (splat.from_splat, splat.to_splat),
    "spz": (spz.from_spz, spz.to_spz),
    "sog": (sog.from_sog, sog.to_sog),
    "glb": (gltf.from_glb, gltf.to_glb),
}
FILES = {kind: [write(splats) for splats in SPLATS] for kind, (_, write) in CODECS.items()}
NUMBERS = st.sampled_from([0, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**32 - 1])

# --- .ply: headers of right and wrong lines, in all encodings.

TYPES = st.sampled_from(
    ["float", "float32", "double", "uchar", "ushort", "int", "int8", "list uchar int", "float64", "text"]
)
NAMES = st.sampled_from(
    ["x", "y", "z", "red", "green", "blue", "r", "f_dc_0", "opacity", "scale_0", "rot_0", "nx", "\x1b[m"]
)


@st.composite
def ply_files(draw: st.DrawFn) -> bytes:
    """A point cloud or Gaussians, with up to three wrong header lines, in one of the three encodings."""
    kind = draw(st.sampled_from(["points", "colours", "gaussians"]))
    names = {
        "points": ply.POSITION,
        "colours": (*ply.POSITION, "red", "green", "blue"),
        "gaussians": (*ply.POSITION, *ply.CONSTANT, "opacity", *ply.SCALE, *ply.ROTATION),
    }[kind]
    encoding = draw(st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian", "binary"]))
    count = draw(st.sampled_from([0, 1, 2, 3, 5, -1, 2**31, 10**30]))
    lines = ["ply", f"format {encoding} 1.0", f"element vertex {count}"]
    lines += [f"property {'uchar' if name in ('red', 'green', 'blue') else 'float'} {name}" for name in names]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(1, len(lines)))
        match draw(st.sampled_from(["drop", "repeat", "property", "element", "comment", "junk"])):
            case "drop":
                del lines[at : at + 1]
            case "repeat":
                lines[at:at] = lines[at : at + 1]
            case "property":
                lines.insert(at, f"property {draw(TYPES)} {draw(NAMES)}")
            case "element":
                lines.insert(at, f"element {draw(st.sampled_from(['vertex', 'face', 'a b']))} {draw(NUMBERS)}")
            case "comment":
                lines.insert(at, draw(st.sampled_from(["comment", "obj_info a", "comment TextureFile a.png"])))
            case "junk":
                lines.insert(at, draw(st.sampled_from(PIECES)).decode("latin-1"))
    if draw(st.integers(0, 9)):
        lines.append("end_header")
    if encoding == "ascii":
        values = ["0", "1", "0.5", "-3e38", "1e39", "nan", "inf", "a", "255", "1e400"]
        row = st.lists(st.sampled_from(values), min_size=len(names), max_size=len(names)).map(" ".join)
        body = "\n".join(draw(st.lists(row, min_size=max(0, min(count, 5)), max_size=6))).encode() + b"\n"
    else:
        body = draw(st.sampled_from([b"\0", b"\xff", b"\x00\x00\x80\x3f"])) * draw(
            st.sampled_from([0, 1, 15, 60, 168, 500])
        )
    return "\n".join(lines).encode("utf-8") + b"\n" + body


# --- .spz: headers and contents that do not fit each other.


@st.composite
def spz_files(draw: st.DrawFn) -> bytes:
    magic = draw(st.sampled_from([spz.MAGIC] * 9 + [0]))
    version = draw(st.sampled_from([spz.VERSION] * 9 + [2, 4]))
    num, degree = draw(st.sampled_from([0, 1, 2, 5, 2**20, 2**32 - 1])), draw(st.sampled_from([0, 0, 1, 2, 3, 4, 255]))
    header = struct.pack("<IIIBBBB", magic, version, num, degree, draw(st.sampled_from([12, 12, 0, 23, 24, 255])), 1, 0)
    size = draw(st.sampled_from([0, 20, 40, 100, 400, 2**20]))
    return gzip.compress(header + draw(st.sampled_from([b"\0", b"\xff", b"\x80", b"\x12\x34\x56"])) * size, 1, mtime=0)


# --- .sog: changed values in meta.json, other images.


def _image(width: int, height: int, kind: str, mode: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), 255).save(file, kind)
    return file.getvalue()


IMAGES = [
    _image(1, 1, "PNG", "L"),
    _image(2, 2, "WEBP", "RGB"),
    _image(3, 1, "PNG", "I;16"),
    _image(1, 2, "PNG", "1"),
    b"",
    b"RIFF",
]
METAS = [json.loads(zipfile.ZipFile(io.BytesIO(file)).read("meta.json")) for file in FILES["sog"]]
CONTENTS = [
    {name: archive.read(name) for name in archive.namelist()}
    for archive in map(zipfile.ZipFile, map(io.BytesIO, FILES["sog"]))
]


@st.composite
def sog_files(draw: st.DrawFn) -> bytes:
    files = dict(draw(chosen(CONTENTS)))
    if draw(st.integers(0, 3)):
        files["meta.json"] = json.dumps(draw(changed_trees(st.just(json.loads(files["meta.json"]))))).encode()
    if not draw(st.integers(0, 2)):
        files[draw(st.sampled_from(sorted(files)))] = draw(chosen(IMAGES))
    if not draw(st.integers(0, 5)):
        del files[draw(st.sampled_from(sorted(files)))]
    return zipped(files)


# --- .glb: changed JSON in an intact container, other lengths.


def _parts(file: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(file[12:16], "little")
    return json.loads(file[20 : 20 + length]), file[28 + length :]


TREES = [_parts(file) for file in FILES["glb"]]


@st.composite
def glb_files(draw: st.DrawFn) -> bytes:
    tree, buffer = draw(chosen(TREES))
    content = json.dumps(draw(changed_trees(st.just(tree)))).encode()
    length, version = (
        draw(st.sampled_from([len(content)] * 5 + [0, 1, 2**32 - 1])),
        draw(st.sampled_from([2] * 5 + [1])),
    )
    buffer = buffer[: draw(st.sampled_from([10**6] * 5 + [0, 3, 40]))]
    chunks = struct.pack("<I4s", length, b"JSON") + content + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer
    return struct.pack("<4sII", b"glTF", version, 12 + len(chunks)) + chunks


def splat_files() -> st.SearchStrategy[bytes]:
    numbers = st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, 3e38, float("inf"), float("nan"), -float("inf"), 0.1])
    row = st.builds(
        lambda f, b: struct.pack("<6f", *f) + b,
        st.lists(numbers, min_size=6, max_size=6),
        st.binary(min_size=8, max_size=8),
    )
    return st.lists(row, max_size=3).map(b"".join)


STRUCTURED = {"ply": ply_files(), "splat": splat_files(), "spz": spz_files(), "sog": sog_files(), "glb": glb_files()}


def files_of(kind: str) -> st.SearchStrategy[bytes]:
    """Files made of right and wrong parts, damaged files of our own, and any bytes behind the right first ones."""
    return st.one_of(
        STRUCTURED[kind],
        STRUCTURED[kind],
        damaged(chosen(FILES[kind])),
        damaged(STRUCTURED[kind]),
        st.builds(lambda data, tail: data[:8] + tail, chosen(FILES[kind]), st.binary(max_size=100)),
    )


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
