"""Readers of meshes and point clouds, and the initialization from them."""

import io
import json
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
from tests.fuzz.test_splats import check_gaussians, ply_files
from tests.support.fuzzing import Refused, changed_trees, chosen, damaged, fuzz, outcome

NUMBERS = st.sampled_from(
    ["0", "1", "-1", "0.5", "1e39", "1e400", "nan", "inf", "-3", "2", "7", "a", "", "1/1/1", "2//", "99999999999", "-0"]
)
ROW = st.lists(NUMBERS, max_size=5).map(" ".join)
OBJ = ["v 0 0 0", "v 1 0 0 1 0 0", "v 0 1 0", "vn 0 0 1", "vt 0 0", "f 1 2 3", "f 1//1 2//1 3//1", "f -3 -2 -1", "o a"]
OBJ_WORDS = st.sampled_from(
    ["v", "vn", "vt", "f", "l", "p", "o", "g", "mtllib", "usemtl", "#", "s", "\\", "call", "curv"]
)


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


@st.composite
def obj_files(draw: st.DrawFn) -> bytes:
    odd = st.builds(" ".join, st.tuples(OBJ_WORDS, ROW))
    lines = draw(st.lists(st.one_of(st.sampled_from(OBJ), odd), max_size=8))
    return ("\n".join([*OBJ[: draw(st.integers(0, len(OBJ)))], *lines]) + "\n").encode()


@st.composite
def off_files(draw: st.DrawFn) -> bytes:
    head = draw(st.sampled_from(["OFF", "OFF", "COFF", "off", "OFF 3 1 0", "NOFF"]))
    counts = draw(
        st.one_of(st.sampled_from(["3 1 0", "3 1 3", "0 0 0", "2147483648 1 0", "3 2147483648 0", "-1 1 0"]), ROW)
    )
    rows = draw(
        st.lists(
            st.one_of(st.sampled_from(["0 0 0", "1 0 0", "0 1 0", "3 0 1 2", "4 0 1 2 0", "3 0 1 9"]), ROW), max_size=5
        )
    )
    return "\n".join([head, counts, "0 0 0", "1 0 0", "0 1 0", "3 0 1 2", *rows]).encode()


@st.composite
def stl_files(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        number = draw(st.sampled_from([0, 1, 2, 2**31, 2**32 - 1]))
        corners = draw(
            st.lists(st.sampled_from([0.0, 1.0, -1.0, 1e30, float("nan"), float("inf")]), min_size=12, max_size=12)
        )
        return (
            b"\0" * 80 + struct.pack("<I", number) + (struct.pack("<12f", *corners) + b"\0\0") * draw(st.integers(0, 3))
        )
    loop = "outer loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop"
    return f"solid {draw(ROW)}\nfacet normal 0 0 1\n{loop}\nvertex {draw(ROW)}\nendfacet\nendsolid\n".encode()


def _parts(file: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(file[12:16], "little")
    return json.loads(file[20 : 20 + length]), file[20 + length :]


GLBS = [_parts(file) for file in FILES[".glb"]]


@st.composite
def glb_files(draw: st.DrawFn) -> bytes:
    tree, rest = draw(chosen(GLBS))
    content = json.dumps(draw(changed_trees(st.just(tree)))).encode()
    content += b" " * (-len(content) % 4)
    chunks = struct.pack("<I4s", len(content), b"JSON") + content + rest[: draw(st.sampled_from([10**6] * 5 + [0, 30]))]
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


@st.composite
def mesh_ply_files(draw: st.DrawFn) -> bytes:
    """A .ply of triangles with wrong counts and indices."""
    count, faces = (draw(st.sampled_from([0, 1, 3, 4, 2**31])) for _ in range(2))
    corners = draw(
        st.lists(st.sampled_from(["0 0 0", "1 0 0", "0 1 0", "nan 0 0", "1e400 0 0"]), min_size=3, max_size=4)
    )
    indices = draw(st.lists(st.sampled_from(["3 0 1 2", "3 0 1 9", "4 0 1 2 0", "3 -1 0 1", "0", "99 1"]), max_size=3))
    head = f"ply\nformat ascii 1.0\nelement vertex {count}\nproperty float x\nproperty float y\nproperty float z\n"
    head += f"element face {faces}\nproperty list uchar int vertex_indices\nend_header\n"
    return (head + "\n".join([*corners, *indices]) + "\n").encode()


STRUCTURED = {
    ".glb": glb_files(),
    ".obj": obj_files(),
    ".off": off_files(),
    ".ply": st.one_of(mesh_ply_files(), ply_files()),
    ".stl": stl_files(),
}


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

    fuzz(st.one_of(STRUCTURED[suffix], damaged(chosen(FILES[suffix])), damaged(STRUCTURED[suffix])), check)


def test_point_clouds():
    def check(file: bytes) -> None:
        found = outcome(lambda: ply.read_points(file), ply.PlyError)
        if not isinstance(found, Refused):
            assert len(found.points)
            assert found.points.isfinite().all()
            assert found.rgb is None or (
                len(found.rgb) == len(found.points) and 0 <= found.rgb.min() <= found.rgb.max() <= 1
            )

    fuzz(st.one_of(ply_files(), damaged(ply_files())), check)


@st.composite
def npz_files(draw: st.DrawFn) -> bytes:
    shapes, kinds = (
        st.sampled_from([(4, 3), (4, 3), (0, 3), (4,), (2, 3), (), (4, 4), (4, 3, 1)]),
        st.sampled_from(["f4", "f8", "i4", "U3", "c8", "?", "M8[s]"]),
    )
    values = st.sampled_from([0, 0.5, 1, 7, float("nan"), float("inf"), 1e300])
    arrays = {}
    for name in draw(st.sampled_from([["coords"], ["coords", "R", "G", "B"], ["coords", "R"], ["R", "G", "B"], []])):
        shape = draw(shapes) if name == "coords" else draw(st.sampled_from([(4,), (4,), (2,), (), (4, 1)]))
        with np.errstate(all="ignore"):
            try:
                arrays[name] = np.full(shape, draw(values)).astype(draw(kinds))
            except (ValueError, OverflowError):
                arrays[name] = np.zeros(shape)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".ply", ".npz", ".obj"])
def test_initialization(suffix, tmp_path):
    path = Path(tmp_path) / f"shape{suffix}"
    kind = "mesh" if suffix == ".obj" else "ply"
    config = InitializationConfig(kind=kind, path=str(path), count=8, replicas=2)
    files = {".ply": ply_files(), ".npz": npz_files(), ".obj": obj_files()}[suffix]

    def check(file: bytes) -> None:
        path.write_bytes(file)
        found = outcome(
            lambda: initial_gaussians(config, "a cat", torch.Generator().manual_seed(0)), InitializationError
        )
        if not isinstance(found, Refused):
            check_gaussians(found)

    fuzz(st.one_of(files, damaged(files)), check)
