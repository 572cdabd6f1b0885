"""sctd.formats.ply: the 3DGS convention, bit-exact round trips, and refused files."""

import re
from io import BytesIO

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from sctd.formats.common import FormatError, InvalidGaussiansError
from sctd.formats.gltf import from_glb, to_glb
from sctd.formats.ply import PlyError, from_ply, read_points, to_ply
from sctd.formats.splat import from_splat, to_splat
from sctd.formats.spz import from_spz, to_spz
from sctd.scene.gaussians import Gaussians


def some_gaussians(num: int, degree: int) -> Gaussians:
    generator = torch.Generator().manual_seed(degree)
    shapes = (num, 3), (num, 3), (num, 4), (num,), (num, (degree + 1) ** 2, 3)
    return Gaussians(*(torch.randn(shape, generator=generator) for shape in shapes))


def write(vertices: np.ndarray, name: str = "vertex", *, text: bool = False) -> bytes:
    file = BytesIO()
    PlyData([PlyElement.describe(vertices, name)], text=text, byte_order="<").write(file)
    return file.getvalue()


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("num", [0, 7])
def test_round_trip_is_bit_exact(num, degree):
    gaussians = some_gaussians(num, degree)
    for name, tensor in from_ply(to_ply(gaussians)).tensors().items():
        assert torch.equal(tensor, gaussians.tensors()[name]), name


def test_header_matches_3dgs():
    header = to_ply(some_gaussians(2, 1)).split(b"end_header\n")[0].decode().splitlines()
    assert header[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 2"]
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(9))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert header[3:] == [f"property float {name}" for name in names]


def test_higher_sh_coefficients_are_stored_channel_by_channel():
    gaussians = some_gaussians(3, 2)
    vertices = PlyData.read(BytesIO(to_ply(gaussians)))["vertex"]
    for color in range(3):
        for k in range(1, 9):
            stored = torch.from_numpy(np.array(vertices[f"f_rest_{color * 8 + k - 1}"]))
            assert torch.equal(stored, gaussians.sh[:, k, color])


@pytest.mark.parametrize("degree", [0, 3])
def test_properties_in_another_order_and_other_properties_are_read(degree):
    """splat-transform writes the rotation before the scales, no normals, and keeps what others add, of any type."""
    gaussians = some_gaussians(5, degree)
    ours = PlyData.read(BytesIO(to_ply(gaussians)))["vertex"].data
    kept = sorted(set(ours.dtype.names) - {"nx", "ny", "nz"}, key=lambda name: name[::-1])
    theirs = np.empty(5, [("label", "<u4"), *((name, "<f4") for name in kept), ("segment", "u1")])
    for name in kept:
        theirs[name] = ours[name]
    for name, tensor in from_ply(write(theirs)).tensors().items():
        assert torch.equal(tensor, gaussians.tensors()[name]), name


def test_files_without_gaussians_are_refused():
    good = to_ply(some_gaussians(3, 0))
    with pytest.raises(PlyError, match=r"This is not a \.ply: it starts with b'\\x89PNG', not 'ply'"):
        from_ply(b"\x89PNG")
    with pytest.raises(PlyError, match=r"The \.ply is damaged \(.*early end-of-file.*\): export or copy it again\."):
        from_ply(good[:-5])
    with pytest.raises(PlyError, match=r"The \.ply is damaged"):
        from_ply(b"ply\nformat binary_little_endian 9.0\nend_header\n")
    with pytest.raises(PlyError, match=r"no element 'vertex' \(elements: face\)"):
        from_ply(write(np.zeros(1, [("x", "f4")]), "face"))
    with pytest.raises(PlyError, match=r"lacks the properties f_dc_0, f_dc_1, f_dc_2 \(it has x, y, z\)"):
        from_ply(write(np.zeros(1, [(name, "f4") for name in "xyz"])))
    with pytest.raises(PlyError, match=r"has 1 f_rest properties; expected 0, 9, 24 or 45"):
        from_ply(write(np.zeros(1, [("f_rest_0", "f4")])))


@pytest.mark.parametrize("kind", ["ply", "splat", "spz", "glb"])
@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("means", torch.nan, "position nan"),
        ("means", torch.inf, "position inf"),
        ("means", 1e30, "position 1e+30"),
        ("log_scales", torch.nan, "log scale nan"),
        ("log_scales", 120.0, "log scale 120"),
        ("quats", 0.0, "quaternion 0, 0, 0, 0"),
        ("quats", 1e-30, "quaternion 1e-30, 1e-30, 1e-30, 1e-30"),
        ("quats", 1e30, "quaternion 1e+30, 1e+30, 1e+30, 1e+30"),
        ("logit_opacities", torch.nan, "opacity nan"),
        ("sh", torch.nan, "colour nan"),
    ],
)
def test_invalid_gaussians_are_counted_and_can_be_dropped(kind, field, value, shown):
    bad = some_gaussians(4, 0)
    getattr(bad, field)[1] = value
    getattr(bad, field)[3] = value
    if kind == "ply":
        with pytest.raises(
            InvalidGaussiansError, match=rf"^The .ply has 2 invalid of 4 .* number 1, with {re.escape(shown)}"
        ):
            from_ply(to_ply(bad))
        kept, good = from_ply(to_ply(bad), drop_invalid=True), bad.select(torch.tensor([0, 2]))
        assert all(torch.equal(kept.tensors()[name], tensor) for name, tensor in good.tensors().items())
        return
    write_as, read_as = {"splat": (to_splat, from_splat), "spz": (to_spz, from_spz), "glb": (to_glb, from_glb)}[kind]
    with pytest.raises(FormatError, match=r"2 invalid of 4|coordinate"):
        write_as(bad)
    assert read_as(write_as(bad.select(torch.tensor([0, 2])))).num == 2


def test_infinite_opacities_are_opaque_and_invisible():
    gaussians = some_gaussians(3, 0)
    gaussians.logit_opacities[:2] = torch.tensor([torch.inf, -torch.inf])
    gaussians.log_scales[2, 0] = -torch.inf
    read = from_ply(to_ply(gaussians))
    assert read.opacities[:2].tolist() == pytest.approx([1, 0], abs=2e-7)
    assert all(bool(tensor.isfinite().all()) for tensor in read.tensors().values())
    assert read.scales[2, 0] < 1e-37


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    "names", [("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")]
)
@pytest.mark.parametrize(("dtype", "scale"), [("u1", 255), ("u2", 65535), ("f4", 1), ("f8", 1)])
def test_point_clouds_have_integer_or_float_colors(text, names, dtype, scale):
    vertices = np.zeros(2, [(name, "f4") for name in "xyz"] + [(name, dtype) for name in names])
    vertices["x"], vertices[names[0]], vertices[names[2]] = [0.5, -1], [scale, 0], [0, scale]
    points = read_points(write(vertices, text=text))
    assert points.points.tolist() == [[0.5, 0, 0], [-1, 0, 0]]
    assert points.rgb.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_point_clouds_may_have_no_colors():
    assert read_points(write(np.zeros(1, [(name, "f4") for name in "xyz"]))).rgb is None


def test_point_clouds_without_valid_colors_are_refused():
    with pytest.raises(PlyError, match=r"lacks the properties green, blue \(it has x, y, z, red\)"):
        read_points(write(np.zeros(1, [(name, "f4") for name in ("x", "y", "z", "red")])))
    vertices = np.full(1, 2, [(name, "f4") for name in ("x", "y", "z", "red", "green", "blue")])
    with pytest.raises(PlyError, match="colours outside their range: write integers 0 to 255"):
        read_points(write(vertices))
    vertices["red"] = np.nan
    with pytest.raises(PlyError, match=r"^The \.ply has red = nan at vertex 0; expected a finite number"):
        read_points(write(vertices))


def test_meshes_and_empty_point_clouds_are_refused():
    colours = [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4"), *colours])
    faces = np.array([([0, 1, 2],)], [("vertex_indices", "i4", (3,))])
    file = BytesIO()
    PlyData([PlyElement.describe(vertices, "vertex"), PlyElement.describe(faces, "face")]).write(file)
    with pytest.raises(
        PlyError, match=r"^The \.ply is a mesh of 3 vertices and 1 faces; expected .*set initialization\.kind=mesh"
    ):
        read_points(file.getvalue())
    with pytest.raises(PlyError, match=r"^The \.ply has no vertices; expected points\."):
        read_points(write(vertices[:0]))
    assert len(read_points(write(vertices)).points) == 3


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("element vertex +3_000\nproperty float x", "announces \\+3_000 of 'vertex', and 6 bytes follow"),
        ("element vertex 2147483648\nproperty float x", "announces 2147483648 of 'vertex', and 6 bytes follow"),
        (
            "element vertex 1\nproperty float x\nelement face 9999999999999999999999\nproperty int a",
            "of 'face', and 6 bytes follow",
        ),
        (
            "element vertex 1\nproperty list uchar float x\nproperty float y",
            "lacks the properties z",
        ),
    ],
)
def test_a_wrong_header_is_refused_before_anything_is_allocated(header, sentence):
    with pytest.raises(PlyError, match=sentence):
        read_points(f"ply\nformat ascii 1.0\n{header}\nend_header\n1 2 3\n".encode())


@pytest.mark.parametrize("value", ["1e39", "3e38", "-1e19", "nan"])
def test_a_position_that_cannot_be_rendered_is_refused(value):
    properties = "property float x\nproperty float y\nproperty float z"
    head = f"ply\nformat ascii 1.0\nelement vertex 1\n{properties}\nend_header\n"
    with pytest.raises(PlyError, match=r"^The \.ply has y = .* at vertex 0; expected a finite number"):
        read_points(f"{head}0 {value} 0\n".encode())


def test_lists_are_no_coordinates():
    properties = "property list uchar float x\nproperty float y\nproperty float z"
    with pytest.raises(PlyError, match=r"^The \.ply has lists as x; expected a number for each vertex"):
        read_points(f"ply\nformat ascii 1.0\nelement vertex 1\n{properties}\nend_header\n1 2 3 4\n".encode())


@pytest.mark.parametrize("element", ["element vertex 0", "element face 3\ncomment property float x"])
def test_an_element_without_properties_is_refused(element):
    """plyfile divides by the size of a row, which ends the process in binary files; this one is text."""
    with pytest.raises(PlyError, match=r"^The \.ply is damaged \(an element has no properties\)"):
        read_points(f"ply\nformat ascii 1.0\n{element}\nend_header\n".encode())
