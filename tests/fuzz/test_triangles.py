"""The reader of coloured meshes: damaged files end in a mesh that can be rendered, or in one sentence."""

import numpy as np
import pytest
from hypothesis import strategies as st

from sctd.formats.common import FormatError
from sctd.formats.mesh_data import Mesh, Part, Piece, Texture, assemble
from sctd.formats.triangles import SUFFIXES, read_mesh
from tests.fuzz import test_meshes as geometry
from tests.fuzz.test_splats import parts_of_glb
from tests.support import fuzzing
from tests.support.fuzzing import Choices, Refused, changed, chosen, damaged, fuzz, made, outcome, put, to_json
from tests.support.gltf import Gltf, glb, png

RGBA = np.random.default_rng(0).integers(0, 256, (4, 4, 4), dtype=np.uint8)
CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
MTL = ["newmtl a", "Kd 1 0 0", "Kd 0.4 0.4 0.4", "d 0.5", "Tr 0.2", "map_Kd a.png", "map_d a.png", "newmtl b"]


def rich():
    """A .glb that uses all that is read: nodes, a skin, a morph target, a sparse accessor, a texture and a sampler."""
    file = Gltf(extensionsUsed=["KHR_texture_transform"])
    position = file.add(CORNERS)
    file.json["accessors"][position]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": file.view(np.array([1], "u1").tobytes()), "componentType": 5121},
        "values": {"bufferView": file.view(np.float32([2, 0, 0]).tobytes())},
    }
    attributes = {
        "POSITION": position,
        "NORMAL": file.add([[0, 0, 1]] * 3),
        "COLOR_0": file.add([[255, 0, 100, 9]] * 3, "u1", normalized=True),
        "TEXCOORD_0": file.add(CORNERS[:, :2]),
        "JOINTS_0": file.add([[0, 0, 0, 0]] * 3, "u1"),
        "WEIGHTS_0": file.add([[1, 0, 0, 0]] * 3),
    }
    primitive = {"attributes": attributes, "indices": file.add([0, 1, 2], "u2"), "material": 0, "mode": 5}
    primitive["targets"] = [{"POSITION": file.add(CORNERS)}]
    transform = {"offset": [0.5, 0], "rotation": 1, "scale": [2, 2], "texCoord": 0}
    slot = {"index": 0, "extensions": {"KHR_texture_transform": transform}}
    color = {"baseColorFactor": [1, 0.5, 0.2, 0.9], "baseColorTexture": slot}
    file.json |= {
        "meshes": [{"primitives": [primitive, {"attributes": {"POSITION": position}}], "weights": [0.5]}],
        "materials": [{"pbrMetallicRoughness": color, "alphaMode": "MASK", "alphaCutoff": 0.3, "doubleSided": True}],
        "nodes": [
            {"children": [1, 2], "scale": [1, -1, 2]},
            {"mesh": 0, "rotation": [0, 0, 1, 0], "translation": [1, 2, 3]},
            {"mesh": 0, "skin": 0},
        ],
        "skins": [{"joints": [1], "inverseBindMatrices": file.add(np.eye(4).reshape(1, 16))}],
    }
    file.image(RGBA, sampler=0)
    file.json["samplers"] = [{"magFilter": 9728, "wrapS": 33071, "wrapT": 33648}]
    return file


GLBS = [rich().glb(), *geometry.FILES[".glb"]]
GLTFS = [rich().gltf(), rich().gltf("a.bin")]


def glb_file(choices: Choices) -> bytes:
    tree, rest = parts_of_glb(choices.of(GLBS))
    return glb(to_json(changed(tree, choices)), rest[8 : choices.of([10**6] * 5 + [8, 40])])


def gltf_file(choices: Choices) -> bytes:
    return to_json(changed(rich_tree(choices.of(["a.bin", None, "../a.bin", "b.bin", "a.png"])), choices))


def rich_tree(uri):
    file = rich()
    file.gltf(uri)
    return file.json


def obj_file(choices: Choices) -> bytes:
    lines = [choices.of(["mtllib a.mtl", "mtllib ../a.mtl", ""]), choices.of(["usemtl a", "usemtl b", ""])]
    return "\n".join(lines).encode() + b"\n" + geometry.obj_file(choices)


def mtl_file(choices: Choices) -> bytes:
    lines = [choices.of([*MTL, f"{choices.of(MTL)[:4]} {geometry.row(choices)}"]) for _ in range(choices.below(8))]
    return "\n".join(lines).encode()


MAKERS = {**geometry.MAKERS, ".glb": glb_file, ".gltf": gltf_file, ".obj": obj_file}
FILES = {**geometry.FILES, ".glb": GLBS, ".gltf": GLTFS}


def check(mesh: Mesh | Refused) -> None:
    if isinstance(mesh, Refused):
        return
    assert np.isfinite(mesh.vertices).all()
    assert 0 <= mesh.faces.min() <= mesh.faces.max() < len(mesh.vertices)
    assert sum(part.num_faces for part in mesh.parts) == len(mesh.faces)
    assert all(part.texture is None or part.texture < len(mesh.textures) for part in mesh.parts)
    for values, most in ((mesh.uv, 1e6), (mesh.colors, 1), (mesh.normals, 1e6)):
        assert len(values) == len(mesh.vertices)
        assert (np.abs(values) <= most).all()
    assert Mesh.from_bytes(mesh.to_bytes()).to_bytes() == mesh.to_bytes()


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    """A quarter of the cases: the formats that `sctd.formats.mesh` reads too are read by the same libraries."""
    monkeypatch.setattr(fuzzing, "CASES", max(1, fuzzing.CASES // 4))


@pytest.fixture
def folder(tmp_path):
    put(tmp_path / "a.png", png(RGBA))
    put(tmp_path / "a.bin", bytes(rich().buffer))
    put(tmp_path / "a.mtl", "\n".join(MTL[:6]).encode())
    return tmp_path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_meshes(suffix, folder):
    path = folder / f"a{suffix}"

    def run(file: bytes) -> None:
        put(path, file)
        check(outcome(lambda: read_mesh(path), FormatError))

    fuzz(st.one_of(made(MAKERS[suffix]), damaged(chosen(FILES[suffix])), damaged(made(MAKERS[suffix]))), run)


def test_material_files(folder):
    put(folder / "a.obj", b"mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nusemtl a\nf 1/1 2/1 3/1\n")

    def run(file: bytes) -> None:
        put(folder / "a.mtl", file)
        check(outcome(lambda: read_mesh(folder / "a.obj"), FormatError))

    fuzz(st.one_of(made(mtl_file), damaged(made(mtl_file))), run)


def test_stored_meshes():
    piece = Piece(CORNERS, np.array([[0, 1, 2]]), Part(0, texture=0), uv=CORNERS[:, :2])
    content = assemble([piece], [Texture(RGBA)], linear=True).to_bytes()
    fuzz(damaged(chosen([content])), lambda file: check(outcome(lambda: Mesh.from_bytes(file), FormatError)))
