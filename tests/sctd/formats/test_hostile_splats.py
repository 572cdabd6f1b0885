"""Readers of splats: hostile and broken files are refused in one sentence, soon, and with little memory."""

import gzip
import io
import json
import struct
import zipfile

import numpy as np
import pytest
import zstandard
from PIL import Image
from plyfile import PlyData, PlyElement

from pipeline.cli.error_handling import text_of
from sctd.formats import gltf, ply, sog, splat, spz, usd
from sctd.formats.common import FormatError
from tests.support import fuzzing
from tests.support.splats import some_splats

READERS = {
    "ply": ply.from_ply,
    "splat": splat.from_splat,
    "spz": spz.from_spz,
    "sog": sog.from_sog,
    "glb": gltf.from_glb,
    "usd": usd.from_usd,
}
SPLATS = some_splats(300, 1)
NAMES = (*ply.POSITION, *ply.CONSTANT, "opacity", *ply.SCALE, *ply.ROTATION)
MANY = 2**31 - 1


# ---- .ply -----------------------------------------------------------------------------------------------------------


def ply_text(count="1", names=NAMES, row="0 " * 14, kind="ascii", after="", types=None) -> bytes:
    lines = [f"property {(types or {}).get(name, 'float')} {name}" for name in names]
    head = "\n".join([f"ply\nformat {kind} 1.0\nelement vertex {count}", *lines])
    return f"{head}{after}\nend_header\n{row}\n".encode()


def long_list() -> bytes:
    """A list that announces 4 billion numbers."""
    face = "\nelement face 1\nproperty list uint float a"
    return ply_text("0", kind="binary_little_endian", row="", after=face).rstrip() + b"\n" + b"\xff" * 12


def compressed(change=lambda elements: None, words="u4") -> bytes:
    elements = {
        element.name: element.data.copy() for element in PlyData.read(io.BytesIO(ply.to_compressed_ply(SPLATS)))
    }
    change(elements)
    file = io.BytesIO()
    PlyData([PlyElement.describe(rows, name) for name, rows in elements.items()], byte_order="<").write(file)
    return file.getvalue()


def set_chunk(name, value):
    return lambda elements: elements["chunk"].__setitem__(name, value)


def floats(elements):
    vertices = elements["vertex"]
    elements["vertex"] = vertices.astype([(name, "f4") for name in vertices.dtype.names])


def half_the_harmonics(elements):
    elements["sh"] = elements["sh"][:150]


# ---- .spz -----------------------------------------------------------------------------------------------------------


def spz_header(num, version=3, degree=0, bits=12, magic=spz.MAGIC) -> bytes:
    return struct.pack("<IIIBBBB", magic, version, num, degree, bits, 0, 0)


def gzip_bomb(num) -> bytes:
    """A thousandth of the zeros that its header rightly announces."""
    return gzip.compress(spz_header(num) + bytes(20 * num), 9)


def zstandard_bomb(num) -> bytes:
    parts = [zstandard.compress(bytes(row * num), 3) for row in (9, 1, 3, 3, 4)]
    sizes = b"".join(struct.pack("<QQ", len(p), row * num) for p, row in zip(parts, (9, 1, 3, 3, 4), strict=True))
    return spz_header(num, 4)[:15] + b"\x05" + struct.pack("<I12x", 32) + sizes + b"".join(parts)


def streams(sizes, at=32, count=5) -> bytes:
    table = b"".join(struct.pack("<QQ", *pair) for pair in sizes)
    return spz_header(300, 4)[:15] + bytes([count]) + struct.pack("<I12x", at) + table + bytes(500)


# ---- .sog -----------------------------------------------------------------------------------------------------------


def sog_file(method=zipfile.ZIP_STORED, meta=None, **files) -> bytes:
    archive = zipfile.ZipFile(io.BytesIO(sog.to_sog(SPLATS)))
    contents = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(contents["meta.json"])
    for key, value in (meta or {}).items():
        *path, last = key.split(".")
        place = about
        for part in path:
            place = place[part]
        place[last] = value
    contents["meta.json"] = json.dumps(about).encode()
    contents |= {name.replace("_webp", ".webp").replace("_json", ".json"): data for name, data in files.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as written:
        for name, content in contents.items():
            written.writestr(name, content)
    return file.getvalue()


def one_colour(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (side, side), (128, 128, 128, 253)).save(file, "WEBP", lossless=True, quality=0, method=0)
    return file.getvalue()


def image_bomb(side: int) -> bytes:
    """Images of one colour with a pixel for each of the Gaussians, millions of them in a few kilobytes."""
    image = one_colour(side)
    names = "means_l_webp", "means_u_webp", "scales_webp", "quats_webp", "sh0_webp"
    return sog_file(meta={"count": side * side}, padding=bytes(10**5), **dict.fromkeys(names, image))


# ---- .glb -----------------------------------------------------------------------------------------------------------


def glb_file(change=lambda tree: None, text=None, kind=b"JSON", version=2) -> bytes:
    data = gltf.to_glb(SPLATS)
    length = int.from_bytes(data[12:16], "little")
    tree, rest = json.loads(data[20 : 20 + length]), data[20 + length :]
    change(tree)
    content = json.dumps(tree).encode() if text is None else text
    content += b" " * (-len(content) % 4)
    chunks = struct.pack("<I4s", len(content), kind) + content + rest
    return struct.pack("<4sII", b"glTF", version, 12 + len(chunks)) + chunks


def accessor(number, **values):
    return lambda tree: tree["accessors"][number].update(values)


def view(number, **values):
    return lambda tree: tree["bufferViews"][number].update(values)


# ---- OpenUSD --------------------------------------------------------------------------------------------------------


def usda(*lines) -> bytes:
    return "\n".join(["#usda 1.0", *lines, ""]).encode()


def usdc(splats=SPLATS) -> bytes:
    with zipfile.ZipFile(io.BytesIO(usd.to_usdz(splats))) as archive:
        return archive.read("splats.usdc")


def flipped(at, value) -> bytes:
    data = bytearray(usdc())
    data[at : at + len(value)] = value
    return bytes(data)


def wrong_length() -> bytes:
    """A length of compressed opacities on which usd-core 26.11 crashes."""
    splats = some_splats(100)
    splats.logit_opacities[::2], splats.logit_opacities[1::2] = -1, 2
    data = bytearray(usdc(splats))
    data[data.index(struct.pack("<Q", 100))] = 255
    return bytes(data)


def usdz_of(name, content, method=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file.getvalue()


PLY, GLB, SOG, SPZ = ply.to_ply(SPLATS), gltf.to_glb(SPLATS), sog.to_sog(SPLATS), spz.to_spz(SPLATS)
DEEP = 200_000

FILES = {
    ("ply", "a page"): (lambda: b"<!doctype html><p>Not found", "This is not a .ply"),
    ("ply", "nothing"): (lambda: b"", "This is not a .ply"),
    ("ply", "half a file"): (lambda: PLY[: len(PLY) // 2], "The .ply is damaged"),
    ("ply", "no end of the header"): (lambda: PLY[:200], "The .ply is damaged"),
    ("ply", "two billion rows"): (lambda: ply_text(MANY), "announces 2147483647 of 'vertex', and"),
    ("ply", "10^30 rows"): (lambda: ply_text(10**30), "announces 10000000000000000000 of 'vertex', and"),
    ("ply", "a negative number of rows"): (lambda: ply_text(-1), "The .ply is damaged"),
    ("ply", "words as numbers"): (lambda: ply_text(row="zero " * 14), "The .ply is damaged"),
    ("ply", "a row too short"): (lambda: ply_text(row="0 0"), "The .ply is damaged"),
    ("ply", "lists as positions"): (lambda: ply_text(types={"x": "list uchar float"}, row="1 " * 15), "lists as x"),
    ("ply", "a list of 4 billion numbers"): (long_list, "The .ply is damaged"),
    ("ply", "a property twice"): (lambda: ply_text(names=(*NAMES, "x"), row="0 " * 15), "The .ply is damaged"),
    ("ply", "a million properties"): (
        lambda: ply_text(names=[f"p{number}" for number in range(10**6)], row="0"), "The .ply has a header of",
    ),
    ("ply", "a million comments"): (lambda: ply_text(after="\ncomment a" * 10**6), "The .ply has a header of"),
    ("ply", "a million lines without an end"): (lambda: b"ply\nformat ascii 1.0\n" * 10**6, "The .ply has a header"),
    ("ply", "no positions"): (lambda: ply_text(names=NAMES[1:], row="0 " * 13), "lacks the properties x"),
    ("ply", "seven harmonics"): (
        lambda: ply_text(names=(*NAMES, *(f"f_rest_{i}" for i in range(7))), row="0 " * 21), "has 7 f_rest properties",
    ),
    ("ply", "NaN"): (lambda: ply_text(row="nan " * 14), "1 invalid of 1 Gaussians; the first is"),
    ("ply", "quaternions of length 0"): (lambda: ply_text(), "with quaternion 0, 0, 0, 0"),
    ("ply", "e^200"): (lambda: ply_text(row="0 0 0 0 0 0 0 200 0 0 1 0 0 0"), "with log scale 200"),
    ("ply", "a compressed one with NaN as range"): (lambda: compressed(set_chunk("min_x", np.nan)), "300 invalid of"),
    ("ply", "a compressed one with an infinite range"): (
        lambda: compressed(set_chunk("max_scale_y", np.inf)), "with log scale",
    ),
    ("ply", "a compressed one with one chunk"): (
        lambda: compressed(lambda elements: elements.update(chunk=elements["chunk"][:1])), "fewer than one for 256",
    ),
    ("ply", "a compressed one with words as floats"): (lambda: compressed(floats), "have no words packed_position"),
    ("ply", "a compressed one with half the harmonics"): (lambda: compressed(half_the_harmonics), "not one for each"),
    ("splat", "nothing"): (lambda: b"", "The .splat has 0 bytes; expected a multiple of 32"),
    ("splat", "text"): (lambda: b"x y z\n0 0 0\n", "The .splat has 12 bytes"),
    ("splat", "half a row"): (lambda: splat.to_splat(SPLATS)[:-7], "expected a multiple of 32"),
    ("splat", "NaN"): (lambda: b"\xff" * 64, "The .splat has 2 invalid of 2 Gaussians"),
    ("splat", "negative sizes"): (lambda: struct.pack("<6f8B", *[-1.0] * 6, *[200] * 8), "1 invalid of 1 Gaussians"),
    ("spz", "nothing"): (lambda: b"", "This is not a .spz"),
    ("spz", "text"): (lambda: b"Not found", "This is not a .spz"),
    ("spz", "half a file"): (lambda: SPZ[: len(SPZ) // 2], "This is not a .spz"),
    ("spz", "only a header"): (lambda: gzip.compress(spz_header(1)), "The .spz is truncated"),
    ("spz", "four billion Gaussians"): (lambda: gzip.compress(spz_header(2**32 - 1)), "The .spz is truncated"),
    ("spz", "degree 200"): (lambda: gzip.compress(spz_header(1, degree=200) + bytes(99)), "SH degree 200"),
    ("spz", "version 9"): (lambda: gzip.compress(spz_header(1, version=9)), "The .spz has version 9; expected 1 to 4"),
    ("spz", "an empty frame of gzip"): (lambda: gzip.compress(b""), "it ends within its header"),
    ("spz", "6 million Gaussians in 120 KB"): (lambda: gzip_bomb(6 * 10**6), "more than a .spz of real Gaussians"),
    ("spz", "6 million Gaussians in streams of 120 KB"): (
        lambda: zstandard_bomb(6 * 10**6) + bytes(120_000), "more than a .spz of real Gaussians",
    ),
    ("spz", "streams beyond the end"): (lambda: streams([(2**63, 2700)] + [(9, 300)] * 4), "The .spz is damaged"),
    ("spz", "streams of other sizes"): (lambda: streams([(9, 2**40)] * 5), "The .spz"),
    ("spz", "a table beyond the end"): (lambda: streams([(9, 2700)] * 5, at=2**31), "The .spz is truncated"),
    ("spz", "no streams"): (lambda: streams([], count=0), "The .spz is truncated"),
    ("sog", "text"): (lambda: b"Not found", "This is not a .sog"),
    ("sog", "half a file"): (lambda: SOG[: len(SOG) // 2], "This is not a .sog"),
    ("sog", "no meta.json"): (lambda: usdz_of("a.txt", b""), "it has no meta.json"),
    ("sog", "JSON nested deeply"): (lambda: sog_file(meta_json=b"[" * DEEP), "is invalid"),
    ("sog", "meta.json of 100 MB"): (lambda: sog_file(zipfile.ZIP_DEFLATED, meta_json=b" " * 10**8), "more than the"),
    ("sog", "an image of 50 MB of zeros"): (
        lambda: sog_file(zipfile.ZIP_DEFLATED, quats_webp=bytes(5 * 10**7)), "more than the",
    ),
    ("sog", "16 million Gaussians in some kilobytes"): (lambda: image_bomb(4000), "announces 16000000 Gaussians"),
    ("sog", "an image of 90 million pixels"): (lambda: sog_file(quats_webp=one_colour(9_500)), "cannot be read"),
    ("sog", "a codebook of 3"): (lambda: sog_file(meta={"scales.codebook": [0.0] * 3}), "scales.codebook: List should"),
    ("sog", "a codebook of 300,000"): (lambda: sog_file(meta={"scales.codebook": [0.0] * 300_000}), "meta.json has"),
    ("sog", "a codebook of NaN"): (lambda: sog_file(meta={"sh0.codebook": [float("nan")] * 256}), "finite number"),
    ("sog", "infinite positions"): (lambda: sog_file(meta={"means.maxs": [1e9] * 3}), "invalid of 300 Gaussians"),
    ("sog", "a file of the machine as an image"): (
        lambda: sog_file(meta={"quats.files": ["/etc/passwd"]}), "it has no /etc/passwd",
    ),
    ("sog", "a picture of another kind"): (lambda: sog_file(sh0_webp=b"GIF89a"), "it is no .webp image"),
    ("glb", "nothing"): (lambda: b"", "This is not a .glb"),
    ("glb", "text"): (lambda: b"{}", "This is not a .glb"),
    ("glb", "half a header"): (lambda: GLB[:15], "The .glb ends within its header"),
    ("glb", "half a file"): (lambda: GLB[: len(GLB) // 2], "The .glb is truncated"),
    ("glb", "glTF 1"): (lambda: glb_file(version=1), "The .glb has version 1"),
    ("glb", "no JSON first"): (lambda: glb_file(kind=b"BIN\0"), "does not begin with JSON"),
    ("glb", "JSON nested deeply"): (lambda: glb_file(text=b'{"a":' + b"[" * DEEP), "nested too deeply"),
    ("glb", "a million objects"): (lambda: glb_file(text=b"[" + b"{}," * 10**6), "lists and objects"),
    ("glb", "two billion values"): (lambda: glb_file(accessor(0, count=MANY)), "announces 2,147,483,647 Gaussians"),
    ("glb", "10^30 values"): (lambda: glb_file(accessor(0, count=10**30)), "accessors.0.count"),
    ("glb", "a negative number of values"): (lambda: glb_file(accessor(0, count=-1)), "accessors.0.count"),
    ("glb", "values beyond the end"): (lambda: glb_file(accessor(2, byteOffset=8)), "300 values of 4 numbers in"),
    ("glb", "a view beyond the end"): (lambda: glb_file(view(3, byteOffset=10**9)), "The glTF is truncated"),
    ("glb", "a negative offset"): (lambda: glb_file(view(3, byteOffset=-4)), "bufferViews.3.byteOffset"),
    ("glb", "a stride of 0"): (lambda: glb_file(view(3, byteStride=0)), "bufferViews.3.byteStride"),
    ("glb", "overlapping views"): (
        lambda: glb_file(lambda tree: tree["accessors"][4].update(bufferView=2)), "invalid of 300 Gaussians",
    ),
    ("glb", "sparse values beyond the end"): (
        lambda: glb_file(
            accessor(
                0, sparse={"count": 10**6, "indices": {"bufferView": 0, "componentType": 5125},
                           "values": {"bufferView": 0}},
            )
        ), "announces 1,000,000 values",
    ),
    ("glb", "opacities as logits"): (lambda: glb_file(accessor(4, bufferView=5)), "with opacity nan"),
    ("glb", "another file"): (lambda: glb_file(lambda tree: tree["buffers"][0].update(uri="../a")), "data elsewhere"),
    ("glb", "an address"): (
        lambda: glb_file(lambda tree: tree["buffers"][0].update(uri="https://example.org/a")), "data elsewhere",
    ),
    ("glb", "a node in itself"): (lambda: glb_file(lambda tree: tree["nodes"][0].update(children=[0])), "in a circle"),
    ("glb", "20,000 copies of a mesh"): (
        lambda: glb_file(lambda tree: tree.update(nodes=[{"mesh": 0}] * 20_000, scenes=[])), "announces 6,000,000",
    ),
    ("glb", "a mesh of triangles"): (lambda: glb_file(lambda tree: tree.pop("extensionsUsed")), "read meshes with"),
    ("usd", "nothing"): (lambda: b"", "This is not an OpenUSD file"),
    ("usd", "a page"): (lambda: b"<!doctype html>", "This is not an OpenUSD file"),
    ("usd", "half a text"): (lambda: usd.to_usda(SPLATS)[:5000], "it is damaged"),
    ("usd", "half a binary"): (lambda: usdc()[:2000], "is damaged"),
    ("usd", "half a package"): (lambda: usd.to_usdz(SPLATS)[:3000], "is damaged"),
    ("usd", "a table of contents at 2^63"): (lambda: flipped(16, b"\xff" * 7 + b"\x7f"), "is damaged"),
    ("usd", "a length that crashes usd-core"): (wrong_length, "is damaged (usd-core fails on it)"),
    ("usd", "dictionaries nested deeply"): (
        lambda: usda('( customLayerData = { dictionary a = ' + "{ dictionary a = " * DEEP), "is damaged",
    ),
    ("usd", "prims nested deeply"): (lambda: usda('def "a" {\n' * DEEP), "is damaged"),
    ("usd", "a compressed package"): (
        lambda: usdz_of("a.usda", usda('def "a" { }') + b"#" * 10**8, zipfile.ZIP_DEFLATED), "The OpenUSD file",
    ),
    ("usd", "a package of pictures"): (lambda: usdz_of("a.png", b"\x89PNG"), "is damaged"),
    ("usd", "a file of the machine"): (
        lambda: usda('def "a" (', "  references = @/etc/passwd@", ")", "{", "}"), "it needs another file, '/etc/pass",
    ),
    ("usd", "no splats"): (lambda: usda('def Sphere "a"', "{", "}"), "has no ParticleField3DGaussianSplat"),
}  # fmt: skip


def test_the_most_that_small_files_may_announce_is_read_in_little_memory():
    zeros = gzip.compress(spz_header(1_670_000) + bytes(20 * 1_670_000), 1)
    with fuzzing._limited_memory():
        assert spz.from_spz(zeros).num == 1_670_000
        assert sog.from_sog(image_bomb(1024)).num == 2**20


@pytest.mark.parametrize(("kind", "case"), FILES)
def test_a_bad_file_is_one_sentence(kind, case):
    if kind == "usd":
        pytest.importorskip("pxr", reason="usd-core is not installed: pip install 'segmentdreamer[usd]'")
    make, expected = FILES[kind, case]
    content = make()
    with fuzzing._limited_memory(), pytest.raises(FormatError) as caught:
        READERS[kind](content)
    sentence = text_of(caught.value)
    assert expected in sentence
    assert "\n" not in sentence
    assert len(sentence) < 500
    assert not fuzzing.INTERNALS.search(sentence)
