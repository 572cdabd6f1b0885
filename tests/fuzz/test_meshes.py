"""Readers of meshes and point clouds, and the initialization from them."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import strategies as st
from PIL import Image

from sctd.formats import mesh, ply
from sctd.recipe.scene import MESH_SUFFIXES, InitializationConfig
from sctd.train.initialization import InitializationError, initial_gaussians
from tests.fuzz.test_splats import check_gaussians, parts_of_glb, ply_file
from tests.support.fuzzing import Choices, Refused, changed, chosen, damaged, fuzz, made, outcome, put, to_json

NUMBERS = (
    "0", "1", "-1", "0.5", "1e39", "1e400", "nan", "inf", "-3", "2", "7", "a", "", "1/1/1", "2//", "99999999999", "-0",
)  # fmt: skip
OBJ = ["v 0 0 0", "v 1 0 0 1 0 0", "v 0 1 0", "vn 0 0 1", "vt 0 0", "f 1 2 3", "f 1//1 2//1 3//1", "f -3 -2 -1", "o a"]
OBJ_WORDS = "v", "vn", "vt", "f", "l", "p", "o", "g", "mtllib", "usemtl", "#", "s", "\\", "call", "curv"


def row(choices: Choices) -> str:
    return " ".join(choices.some(NUMBERS, 5))


def _cube() -> trimesh.Trimesh:
    return trimesh.creation.box()


def _textured() -> trimesh.Trimesh:
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.new("RGB", (2, 2), "red"), baseColorFactor=[1, 0.5, 1, 1]
    )
    made = _cube()
    made.visual = trimesh.visual.TextureVisuals(uv=np.zeros((len(made.vertices), 2)), material=material)
    return made


def _exported(suffix: str) -> list[bytes]:
    coloured = _cube()
    coloured.visual.vertex_colors = np.full((len(coloured.vertices), 4), 200, np.uint8)
    made = [_cube(), coloured, *([_textured()] if suffix == ".glb" else [])]
    contents = [each.export(file_type=suffix[1:]) for each in made]
    return [each.encode() if isinstance(each, str) else each for each in contents]


FILES = {suffix: _exported(suffix) for suffix in MESH_SUFFIXES}


def obj_file(choices: Choices) -> bytes:
    lines = OBJ[: choices.below(len(OBJ) + 1)]
    for _ in range(choices.below(6)):
        lines.append(choices.of([*OBJ, *(f"{word} {row(choices)}" for word in [choices.of(OBJ_WORDS)] * 4)]))
    return ("\n".join(lines) + "\n").encode()


def off_file(choices: Choices) -> bytes:
    head = choices.of(["OFF", "OFF", "COFF", "off", "OFF 3 1 0", "NOFF"])
    counts = choices.of(["3 1 0", "3 1 3", "0 0 0", "2147483648 1 0", "3 2147483648 0", "-1 1 0", row(choices)])
    rows = choices.some(["0 0 0", "1 0 0", "0 1 0", "3 0 1 2", "4 0 1 2 0", "3 0 1 9", row(choices), row(choices)], 5)
    return "\n".join([head, counts, "0 0 0", "1 0 0", "0 1 0", "3 0 1 2", *rows]).encode()


def stl_file(choices: Choices) -> bytes:
    if choices.below(2):
        numbers = 0.0, 1.0, -1.0, 1e30, float("nan"), float("inf")
        count = struct.pack("<I", choices.of([0, 1, 2, 2**31, 2**32 - 1]))
        triangle = struct.pack("<12f", *(choices.of(numbers) for _ in range(12))) + b"\0\0"
        return b"\0" * 80 + count + triangle * choices.below(4)
    loop = "outer loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop"
    first, second = row(choices), row(choices)
    return f"solid {first}\nfacet normal 0 0 1\n{loop}\nvertex {second}\nendfacet\nendsolid\n".encode()


GLBS = [parts_of_glb(file) for file in FILES[".glb"]]


def glb_file(choices: Choices) -> bytes:
    tree, rest = choices.of(GLBS)
    content = to_json(changed(tree, choices))
    content += b" " * (-len(content) % 4)
    chunks = struct.pack("<I4s", len(content), b"JSON") + content + rest[: choices.of([10**6] * 5 + [0, 30])]
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def mesh_ply_file(choices: Choices) -> bytes:
    """A .ply of triangles with wrong counts and indices."""
    if choices.below(2):
        return ply_file(choices)
    count, faces = (choices.of([0, 1, 3, 4, 2**31]) for _ in range(2))
    corners = [choices.of(["0 0 0", "1 0 0", "0 1 0", "nan 0 0", "1e400 0 0"]) for _ in range(3 + choices.below(2))]
    indices = choices.some(["3 0 1 2", "3 0 1 9", "4 0 1 2 0", "3 -1 0 1", "0", "99 1"], 3)
    head = f"ply\nformat ascii 1.0\nelement vertex {count}\nproperty float x\nproperty float y\nproperty float z\n"
    head += f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    return (head + "\n".join([*corners, *indices]) + "\n").encode()


MAKERS = {".glb": glb_file, ".obj": obj_file, ".off": off_file, ".ply": mesh_ply_file, ".stl": stl_file}


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_meshes(suffix):
    def check(file: bytes) -> None:
        found = outcome(lambda: mesh.read_mesh(file, suffix), mesh.MeshError)
        if isinstance(found, Refused):
            return
        assert found.triangles.isfinite().all()
        assert sum(number for number, _ in found.parts) == len(found.triangles)
        points = outcome(lambda: mesh.on_surface(found, 5, torch.Generator().manual_seed(0)), mesh.MeshError)
        assert not isinstance(points, Refused)
        assert points.xyz.isfinite().all()
        assert points.rgb is None or (points.rgb.isfinite().all() and points.rgb.min() >= 0 and points.rgb.max() <= 1)

    fuzz(st.one_of(made(MAKERS[suffix]), damaged(chosen(FILES[suffix])), damaged(made(MAKERS[suffix]))), check)


def test_point_clouds():
    def check(file: bytes) -> None:
        found = outcome(lambda: ply.read_points(file), ply.PlyError)
        if not isinstance(found, Refused):
            assert len(found.points)
            assert found.points.isfinite().all()
            assert found.rgb is None or (
                len(found.rgb) == len(found.points) and 0 <= found.rgb.min() <= found.rgb.max() <= 1
            )

    fuzz(st.one_of(made(ply_file), damaged(made(ply_file))), check)


def npz_file(choices: Choices) -> bytes:
    """A point cloud of Point-E with arrays of right and wrong shapes and types."""
    arrays = {}
    for name in choices.of([["coords"], ["coords", "R", "G", "B"], ["coords", "R"], ["R", "G", "B"], []]):
        shapes = [(4,), (4,), (2,), (), (4, 1)]
        if name == "coords":
            shapes = [(4, 3), (4, 3), (4, 3), (0, 3), (4,), (2, 3), (), (4, 4), (4, 3, 1)]
        array = np.full(choices.of(shapes), choices.of([0, 0.5, 1, 7, float("nan"), float("inf"), 1e300]))
        with np.errstate(all="ignore"):
            arrays[name] = array.astype(choices.of(["f4", "f4", "f8", "i4", "U3", "c8", "?", "u1"]))
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".ply", ".npz"])
def test_initialization(suffix, tmp_path):
    path = Path(tmp_path) / f"shape{suffix}"
    config = InitializationConfig(kind="ply", path=str(path), count=8, replicas=2)
    files = made({".ply": ply_file, ".npz": npz_file}[suffix])

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(
            lambda: initial_gaussians(config, "a cat", torch.Generator().manual_seed(0)), InitializationError
        )
        if not isinstance(found, Refused):
            check_gaussians(found)

    fuzz(st.one_of(files, damaged(files)), check)
