"""sctd.formats.triangles: hostile and broken files are refused in one sentence, soon, and with little memory."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.error_handling import text_of
from sctd.formats.common import FormatError
from sctd.formats.triangles import read_mesh
from tests.support import fuzzing
from tests.support.gltf import Gltf, glb, png

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
SECRET = "outside.bin"


def file(**content):
    """A glTF file with one triangle."""
    made = Gltf(**content)
    made.json["meshes"] = [{"primitives": [{"attributes": {"POSITION": made.add(CORNERS)}}]}]
    return made


def textured(image, **content):
    """A glTF file with one triangle and this image, as JSON of `images`."""
    made = file(**content)
    made.json["meshes"][0]["primitives"][0] |= {"material": 0}
    made.json["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"] = made.add(CORNERS[:, :2])
    made.json["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
    made.json |= {"textures": [{"source": 0}], "images": [image]}
    return made


def changed(where, value):
    """The file with one value of its JSON changed, which dots and numbers lead to."""
    made = file()
    *path, last = [int(key) if key.isdigit() else key for key in where.split(".")]
    place = made.json
    for key in path:
        place = place[key]
    place[last] = value
    return made.glb()


def huge_png(side=60_000):
    """A valid .png of 3.6 billion black pixels in 440 KB of zlib."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(side * 8)) for _ in range(side // 64 + 1)) + rows.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def five_textures():
    """A black image of 4,096², which repeats, is mirrored or ends."""
    made = file()
    place = made.add(CORNERS[:, :2])
    image = png(np.zeros((4096, 4096), np.uint8))
    made.json["images"] = [{"bufferView": made.view(image)}]
    wraps = [(10497, 10497), (10497, 33071), (33071, 10497), (33648, 33648), (33071, 33071)]
    made.json["samplers"] = [{"wrapS": u, "wrapT": v} for u, v in wraps]
    made.json["textures"] = [{"source": 0, "sampler": number} for number in range(5)]
    made.json["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": number}}} for number in range(5)]
    attributes = {"POSITION": 0, "TEXCOORD_0": place}
    made.json["meshes"] = [{"primitives": [{"attributes": attributes, "material": number} for number in range(5)]}]
    return made.glb()


def uri(name):
    made = file()
    return made.gltf(name)


def nodes(count):
    """Every node shows the same 1,000 triangles."""
    made = file()
    made.json["meshes"] = [{"primitives": [{"attributes": {"POSITION": made.add(np.tile(CORNERS, (1000, 1)))}}]}]
    made.json["nodes"] = [{"mesh": 0}] * count
    made.json["scenes"] = [{"nodes": list(range(count))}]
    return made.glb()


def ply(vertices="3", faces="1", body="0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"):
    head = f"ply\nformat ascii 1.0\nelement vertex {vertices}\nproperty float x\nproperty float y\nproperty float z\n"
    return f"{head}element face {faces}\nproperty list uchar int vertex_indices\nend_header\n{body}"


def nan_mesh():
    made = file()
    made.json["meshes"][0]["primitives"][0]["attributes"]["POSITION"] = made.add([[0, 0, 0], [1, 0, np.nan], [0, 1, 0]])
    return made.glb()


OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\n"
# By name: the file, its name, and how the sentence begins or what it contains.
FILES = {
    "a buffer above the folder": (lambda: uri("../" + SECRET), "a.gltf", r"names \.\./outside\.bin, outside its"),
    "the same, quoted": (lambda: uri("%2e%2e/" + SECRET), "a.gltf", "outside its"),
    "the same, of Windows": (lambda: uri("..\\" + SECRET), "a.gltf", "outside its"),
    "a buffer by its whole path": (lambda: uri("/etc/passwd"), "a.gltf", "names /etc/passwd, outside its folder"),
    "a buffer on a drive": (lambda: uri("C:/a.bin"), "a.gltf", "names C:/a.bin, outside its folder"),
    "a link out of the folder": (lambda: uri("link"), "a.gltf", "names link, outside its folder"),
    "a buffer in the web": (lambda: uri("https://example.com/a.bin"), "a.gltf", "only files in its folder are read"),
    "a buffer by a file URL": (lambda: uri("file:///etc/passwd"), "a.gltf", "only files in its folder are read"),
    "a missing buffer": (lambda: uri("a.bin"), "a.gltf", r"^a\.bin cannot be read \(No such file"),
    "a folder as buffer": (lambda: uri("."), "a.gltf", "is no file; expected a mesh or a part of one"),
    "data that is not base64": (lambda: uri("data:a/b;base64,@@@"), "a.gltf", "is not base64"),
    "an image in the web": (lambda: textured({"uri": "http://a.b/c.png"}).glb(), "a.glb", "only files in its folder"),
    "an image that is missing": (lambda: textured({"uri": "c.png"}).glb(), "a.glb", r"^c\.png cannot be"),
    "a texture without image": (lambda: textured({}).glb(), "a.glb", "Image 0 of the glTF has no content"),
    "an image of text": (lambda: textured({"uri": "data:a;base64,AAAA"}).glb(), "a.glb", "Image 0 .* cannot be"),
    "an image of 3.6 billion pixels": (lambda: textured({"uri": "huge.png"}).glb(), "a.glb", "has more pixels than"),
    "one large image in five textures": (five_textures, "a.glb", "have more than 67,108,864 pixels"),
    "half an image": (lambda: textured({"uri": "half.png"}).glb(), "a.glb", "Image 0 .* cannot be"),
    "more values than bytes": (lambda: changed("accessors.0.count", 2**31 - 1), "a.glb", "has 715,827,882 triangles"),
    "some more values than bytes": (lambda: changed("accessors.0.count", 9), "a.glb", "announces 9 values of 3"),
    "values without data": (
        lambda: changed("accessors.0", {"componentType": 5126, "count": 8_000_000, "type": "VEC3"}),
        "a.glb",
        "announces 8,000,000 values without data",
    ),
    "a negative count": (lambda: changed("accessors.0.count", -1), "a.glb", r"accessors\.0\.count"),
    "a view beyond the buffer": (lambda: changed("bufferViews.0.byteLength", 10**9), "a.glb", "The glTF is truncated"),
    "an accessor that is not there": (
        lambda: changed("meshes.0.primitives.0.attributes.POSITION", 7), "a.glb", "refers to accessor 7 of 1",
    ),
    "positions of two numbers": (lambda: changed("accessors.0.type", "VEC2"), "a.glb", "has type VEC2"),
    "a mesh without positions": (
        lambda: changed("meshes.0.primitives.0.attributes", {}), "a.glb", "has triangles without POSITION",
    ),
    "points only": (lambda: changed("meshes.0.primitives.0.mode", 0), "a.glb", "The file has no triangles"),
    "no meshes": (lambda: changed("nodes", [{}]), "a.glb", "The file has no triangles"),
    "nodes in a circle": (
        lambda: changed("nodes", [{"mesh": 0, "children": [1]}, {"children": [0]}]), "a.glb", "or is in a circle",
    ),
    "a node with two parents": (
        lambda: changed("nodes", [{"children": [1, 2]}, {"children": [2]}, {"mesh": 0}]), "a.glb", "has two parents",
    ),
    "10,000 copies of 1,000 triangles": (lambda: nodes(10_000), "a.glb", "at most 3,000,000 are read"),
    "30,000 primitives": (
        lambda: changed("meshes.0.primitives", [{"attributes": {"POSITION": 0}, "mode": 1}] * 30_000),
        "a.glb",
        "more than 20,000 primitives",
    ),
    "an infinite transform": (lambda: changed("nodes.0", {"mesh": 0, "scale": [1e300] * 3}), "a.glb", "be shown"),
    "a vertex that is no number": (nan_mesh, "a.glb", "1 vertices that cannot be shown, the first at"),
    "a truncated .glb": (lambda: file().glb()[:-8], "a.glb", "The .glb is truncated"),
    "a .glb of 9 bytes": (lambda: file().glb()[:9], "a.glb", "ends within its header"),
    "glTF 1": (lambda: b"glTF" + struct.pack("<4I", 1, 20, 0, 0), "a.glb", "has version 1; expected glTF 2.0"),
    "a .glb without JSON": (lambda: glb(b"{}", b"").replace(b"JSON", b"NOSJ"), "a.glb", "does not begin with JSON"),
    "Draco": (lambda: file(extensionsRequired=["KHR_draco_mesh_compression"]).glb(), "a.glb", "with Draco"),
    "meshopt": (lambda: file(extensionsRequired=["EXT_meshopt_compression"]).glb(), "a.glb", "with meshopt"),
    "KTX2": (lambda: file(extensionsRequired=["KHR_texture_basisu"]).glb(), "a.glb", "textures .* with KTX2"),
    "an unknown extension": (lambda: file(extensionsRequired=["X_y"]).glb(), "a.glb", "extension 'X_y'"),
    "deeply nested JSON": (lambda: glb(b'{"asset":' + b"[" * 10**5, b""), "a.glb", "The JSON of the glTF is invalid"),
    "200 MB of nested JSON": (lambda: b'{"a":[' + b"[" * 200_000_000, "a.gltf", "has 191 MiB; at most 32"),
    "objects without end in JSON": (
        lambda: b'{"asset":{"version":"2.0"},"nodes":[' + b"{}," * 10**7 + b"{}]}",
        "a.gltf",
        "more than 500,000 lists and objects",
    ),
    "no JSON": (lambda: b"<html>", "a.gltf", "The JSON of the glTF is invalid"),
    "an empty file": (lambda: b"", "a.glb", r"^a\.glb is empty"),
    "an .obj without faces": (lambda: OBJ, "a.obj", "The file has no triangles"),
    "an .obj with an index beyond": (lambda: OBJ + "f 1 2 9\n", "a.obj", r"a face with vertex 9 of 3"),
    "an .obj with index 0": (lambda: OBJ + "f 0 1 2\n", "a.obj", r"Line 5 of the \.obj is invalid \(f 0 1 2\)"),
    "an .obj with a texture index beyond": (lambda: OBJ + "f 1/1 2/1 3/7\n", "a.obj", "texture coordinate 7 of 1"),
    "an .obj with an infinite vertex": (lambda: "v inf 0 0\n" + OBJ + "f 1 2 3\n", "a.obj", "cannot be shown"),
    "an .obj in two bytes a letter": (lambda: (OBJ + "f 1 2 3").encode("utf-16"), "a.obj", "is not text"),
    "an .obj with a line of 2 MB": (lambda: OBJ + "f" + " 1" * 10**6, "a.obj", "more than 1,048,576 bytes"),
    "an .obj that names a library above": (lambda: "mtllib ../a.mtl\n" + OBJ + "f 1 2 3", "a.obj", "outside its"),
    "an .obj that names a huge texture": (
        lambda: "mtllib huge.mtl\n" + OBJ + "usemtl a\nf 1/1 2/1 3/1", "a.obj", "has more pixels than",
    ),
    "a flat mesh": (lambda: "v 1 1 1\n" * 3 + "f 1 2 3", "a.obj", "triangles of area 0"),
    "a .ply with too many vertices": (lambda: ply(vertices="2147483647"), "a.ply", "has 0 of 1 faces"),
    "a .ply with an index beyond": (lambda: ply(body="0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n"), "a.ply", "face|cannot be read"),
    "a .ply that names a texture above": (
        lambda: ply().replace("ascii 1.0", "ascii 1.0\ncomment TextureFile ../a.png"), "a.ply", "outside its folder",
    ),
    "a binary .ply with too many faces": (
        lambda: ply(faces="4000000000", body="").replace("ascii", "binary_little_endian"), "a.ply", "cannot be read as",
    ),
    "half a .ply": (lambda: ply(faces="2"), "a.ply", "has 1 of 2 faces"),
    "half a .stl": (lambda: bytes(80) + struct.pack("<I", 2**31) + bytes(500), "a.stl", "no triangles"),
    "an .off with too many vertices": (lambda: "OFF\n2147483647 1 0\n0 0 0", "a.off", "announces 2,147,483,647"),
    "an .off that ends": (lambda: "OFF\n3 1 0\n0 0 0\n", "a.off", "ends after line 3"),
    "an .off with an index beyond": (lambda: "OFF 3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 5", "a.off", "vertex 5, but 3"),
    "a text of 5 million lines": (lambda: ply(body="\n" * 5_000_000), "a.ply", "Save it in binary form"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    above = tmp_path_factory.mktemp("above")
    (above / SECRET).write_bytes(CORNERS.tobytes())
    inside = above / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(above / SECRET)
    (inside / "huge.png").write_bytes(huge_png())
    (inside / "half.png").write_bytes(png(np.random.default_rng(0).integers(0, 256, (64, 64, 4)))[:3000])
    (inside / "huge.mtl").write_text("newmtl a\nmap_Kd huge.png\n")
    return inside


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_one_sentence(case, folder):
    make, name, expected = FILES[case]
    content = make()
    path = Path(folder) / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    del content
    with fuzzing._limited_memory(), pytest.raises(FormatError, match=expected) as caught:
        read_mesh(path)
    sentence = text_of(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    assert not fuzzing.INTERNALS.search(sentence)
