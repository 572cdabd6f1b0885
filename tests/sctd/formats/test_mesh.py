"""sctd.formats.mesh: uniform points on the surface with its colours, axes, and errors of bad files."""

import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from sctd.formats import ply
from sctd.formats.mesh import Mesh, MeshError, on_surface, read_mesh, to_world
from sctd.recipe.scene import MESH_SUFFIXES
from sctd.scene.gaussians import Gaussians

HALF = torch.tensor([0.5, 1.0, 1.5])
RAMP = np.array([[0, 0, 0, 255], [255, 0, 0, 255], [255, 255, 0, 255], [0, 255, 0, 255]], np.uint8)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def box():
    return trimesh.creation.box(extents=2 * HALF.numpy())


def square(visual=None):
    """[0, 1]² at z = 0, in two triangles."""
    corners = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    return trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)


def written(mesh, suffix):
    content = mesh.export(file_type=suffix.removeprefix("."))
    return content.encode() if isinstance(content, str) else content


def read(mesh, suffix=".glb"):
    return read_mesh(written(mesh, suffix), suffix)


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_every_format_gives_the_same_surface_and_points_on_it(suffix):
    mesh = read(box(), suffix)
    assert float(mesh.areas.sum()) == pytest.approx(2 * (1 * 2 + 1 * 3 + 2 * 3))
    points = on_surface(mesh, 500, generator())
    torch.testing.assert_close((points.xyz.abs() / HALF).amax(1), torch.ones(500), rtol=1e-5, atol=0)
    assert points.rgb is None


def test_every_triangle_gets_its_share_of_the_points():
    """Triangles of area 1 and 3, and one of area 0: the first gets 250 ± 1 of 1000 points, the last none."""
    strip = torch.tensor([[[0.0, 0, 0], [2, 0, 0], [0, 1, 0]], [[5, 5, 5]] * 3, [[9, 0, 0], [15, 0, 0], [9, 1, 0]]])
    points = on_surface(Mesh(strip.double(), ((3, None),)), 1000, generator(1)).xyz
    assert abs(int((points[:, 0] < 3).sum()) - 250) <= 1
    assert not bool((points[:, 2] == 5).any())


def test_points_are_uniform_within_a_triangle():
    """Barycentric coordinates of a uniform point: E b_i = 1/3, E b_i² = 1/6, E b_i b_j = 1/12; 5 std. errors."""
    corner = torch.eye(3, dtype=torch.float64)[None]
    b = on_surface(Mesh(corner, ((1, None),)), 20_000, generator(2)).xyz.double()
    torch.testing.assert_close(b.sum(1), torch.ones(20_000).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(b.T @ b / len(b), (torch.ones(3, 3) + torch.eye(3)).double() / 12, atol=0.007, rtol=0)


def test_the_generator_determines_the_points():
    mesh = read(box())
    first, again, other = (on_surface(mesh, 50, generator(seed)).xyz for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize(
    ("up", "front", "left"), [("y", "z", "x"), ("z", "x", "y"), ("z", "-y", "x"), ("y", "x", "-z"), ("z", "-x", "-y")]
)
def test_up_front_and_left_of_the_file_become_z_x_and_y(up, front, left):
    """glTF is (y, z), Blender (z, -y); the object's left is up × front."""
    axes = {
        "x": [1.0, 0, 0],
        "-x": [-1.0, 0, 0],
        "y": [0, 1.0, 0],
        "z": [0, 0, 1.0],
        "-y": [0, -1.0, 0],
        "-z": [0, 0, -1.0],
    }
    triangle = torch.tensor([[axes[front], axes[left], axes[up]]], dtype=torch.float64)
    rotated = to_world(Mesh(triangle, ((1, None),)), up, front, 0.0).triangles
    torch.testing.assert_close(rotated[0], torch.eye(3, dtype=torch.float64))


def test_parallel_axes_are_refused():
    with pytest.raises(ValueError, match=r"front '-y' and up 'y' are parallel; give two perpendicular axes"):
        to_world(read(box()), "y", "-y", 1.0)


def test_a_mesh_is_centred_and_scaled_to_the_radius():
    moved = box().apply_translation([5, -3, 2])
    fitted = to_world(read(moved), "z", "x", 0.8).triangles.flatten(0, 1)
    torch.testing.assert_close(fitted.abs().amax(0), 0.8 * HALF.double() / HALF.norm(), rtol=1e-6, atol=0)
    torch.testing.assert_close(fitted.amin(0), -fitted.amax(0), rtol=1e-6, atol=0)
    unscaled = to_world(read(moved), "z", "x", 0.0).triangles
    torch.testing.assert_close(unscaled, read(moved).triangles)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_vertex_colours_are_interpolated(suffix):
    """Red grows with x and green with y, up to the rounding of a byte."""
    points = on_surface(read(square(ColorVisuals(vertex_colors=RAMP)), suffix), 300, generator())
    torch.testing.assert_close(points.rgb[:, :2], points.xyz[:, :2], atol=0.003, rtol=0)
    assert not points.rgb[:, 2].any()


def test_face_colours_are_constant_per_face():
    mesh = square(ColorVisuals(face_colors=np.array([[255, 0, 0, 255], [0, 0, 255, 255]], np.uint8)))
    points = on_surface(read(mesh, ".ply"), 300, generator())
    below = points.xyz[:, 0] > points.xyz[:, 1]
    assert points.rgb.equal(torch.where(below[:, None], torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1])))


def test_texture_colours_are_multiplied_by_the_base_colour_factor():
    """A texture of 64 columns from black to white, with one red row at the top, where v = 1."""
    texture = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    texture[0] = [255, 0, 0]
    material = PBRMaterial(baseColorTexture=Image.fromarray(texture), baseColorFactor=[255, 255, 51, 255])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    points = on_surface(read(square(TextureVisuals(uv=uv, material=material))), 400, generator())
    top, bottom = points.xyz[:, 1] > 0.995, points.xyz[:, 1] < 0.98
    expected = points.xyz[bottom, :1] * torch.tensor([1.0, 1.0, 0.2])
    torch.testing.assert_close(points.rgb[bottom], expected, atol=0.01, rtol=0)
    assert float(points.rgb[top, 0].min()) > 0.6
    assert float(points.rgb[top, 1:].max()) < 0.4


def test_scene_transforms_apply_and_parts_without_colours_are_grey():
    scene = trimesh.Scene([square()])
    for x, colour in ((5, [0, 255, 0, 255]), (9, [255, 0, 0, 255])):
        coloured = square(TextureVisuals(material=PBRMaterial(baseColorFactor=colour)))
        scene.add_geometry(coloured, transform=trimesh.transformations.translation_matrix([x, 0, 0]))
    points = on_surface(read(scene), 300, generator())
    for x, rgb in ((0, [0.5, 0.5, 0.5]), (5, [0.0, 1.0, 0.0]), (9, [1.0, 0.0, 0.0])):
        here = (points.xyz[:, 0] - x - 0.5).abs() <= 0.5
        assert int(here.sum()) == 100
        assert points.rgb[here].equal(torch.tensor(rgb).expand(100, 3))


def gaussian_ply():
    shapes = (5, 3), (5, 3), (5, 4), (5,), (5, 1, 3)
    return ply.to_ply(Gaussians(*(torch.randn(shape, generator=generator()) for shape in shapes)))


OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"
CLOUD = trimesh.PointCloud(np.eye(3)).export(file_type="ply")


@pytest.mark.parametrize(
    ("data", "suffix", "sentence"),
    [
        (b"", ".glb", r"^The file is empty; expected a mesh\. Export it again as \.glb\.$"),
        (b"no mesh", ".glb", r"cannot be read as \.glb \(.+\); expected a complete mesh\. Export it again\.$"),
        (written(box(), ".glb")[:-50], ".glb", r"cannot be read as \.glb"),
        (written(box(), ".ply")[:-5], ".ply", r"cannot be read as \.ply"),
        (OBJ + b"f 1 2 7\n", ".obj", r"cannot be read as \.obj"),
        (OBJ, ".obj", r"^The file has 3 vertices and no faces; expected triangles: export a surface, or .*kind=ply\.$"),
        (CLOUD, ".ply", r"^The file has 3 vertices and no faces"),
        (b"not at all", ".stl", r"^The file has 0 vertices and no faces"),
        (gaussian_ply(), ".ply", r"^The \.ply has 3DGS Gaussians and no faces; set initialization\.kind=ply"),
        (OBJ + b"v 0 nan 0\nf 1 2 4\n", ".obj", r"^The mesh has vertex 2 at \(0, nan, 0\); expected finite numbers\."),
        (OBJ + b"f 1 2 2\n", ".obj", r"^The mesh has 1 faces of area 0; expected a surface\."),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_in_one_line(data, suffix, sentence):
    with pytest.raises(MeshError, match=sentence) as caught:
        read_mesh(data, suffix)
    assert "\n" not in str(caught.value)


def test_an_obj_is_read_without_its_material_file():
    material = PBRMaterial(baseColorFactor=[0, 255, 0, 255])
    content = trimesh.exchange.obj.export_obj(square(TextureVisuals(uv=np.zeros((4, 2)), material=material)))
    assert "mtllib" in content
    mesh = read_mesh(content.encode(), ".obj")
    assert (len(mesh.triangles), mesh.has_colours) == (2, False)


def changed_glb(change, mesh=None) -> bytes:
    """A .glb of a mesh, by default a box, after a change of its JSON."""
    data = written(mesh or box(), ".glb")
    length = int.from_bytes(data[12:16], "little")
    tree = json.loads(data[20 : 20 + length])
    change(tree)
    content = json.dumps(tree).encode()
    content += b" " * (-len(content) % 4)
    chunks = len(content).to_bytes(4, "little") + b"JSON" + content + data[20 + length :]
    return data[:8] + (12 + len(chunks)).to_bytes(4, "little") + chunks


def test_a_mesh_with_more_values_than_bytes_is_refused_before_they_are_allocated():
    with pytest.raises(MeshError, match=r"^The \.glb is truncated: it announces 9e\+09 values in \d+ bytes\."):
        read_mesh(changed_glb(lambda tree: tree["accessors"][0].update(count=9e9)), ".glb")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n", "has vertices of 2 coordinates; expected 3"),
        (OBJ + b"v 0 1e300 0\nf 1 2 4\n", r"has vertex \d at \(0, 1e\+300, 0\); expected finite numbers"),
    ],
)
def test_vertices_that_cannot_be_rendered_are_refused(data, sentence):
    with pytest.raises(MeshError, match=sentence):
        read_mesh(data, ".obj")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda material: material.update(baseColorFactor=[[1.0] * 4]), r"has a colour factor of shape \(1, 4\)"),
        (lambda material: material.update(baseColorTexture=2**31), "has a texture that cannot be read"),
    ],
)
def test_a_material_that_is_none_is_refused(change, sentence):
    material = PBRMaterial(baseColorTexture=Image.new("RGB", (2, 2)), baseColorFactor=[1.0, 0.5, 1.0, 1.0])
    mesh = box()
    mesh.visual = TextureVisuals(uv=np.zeros((len(mesh.vertices), 2)), material=material)
    with pytest.raises(MeshError, match=sentence):
        read_mesh(changed_glb(lambda tree: change(tree["materials"][0]["pbrMetallicRoughness"]), mesh), ".glb")
