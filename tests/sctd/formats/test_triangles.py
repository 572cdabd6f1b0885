"""sctd.formats.triangles: the same mesh from every format, with colours by the rules of each."""

import io
import zipfile

import numpy as np
import pytest
import trimesh
from PIL import Image

from sctd.formats import mesh_data
from sctd.formats.common import FormatError
from sctd.formats.mesh_data import GREY, Mesh
from sctd.formats.triangles import SUFFIXES, read_mesh
from tests.support.gltf import Gltf, png

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
QUAD = np.array([[0, 1, 2], [0, 2, 3]])
UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
RGBA = np.array([[[255, 0, 0, 255], [0, 255, 0, 128]], [[0, 0, 255, 255], [9, 9, 9, 0]]], np.uint8)
BOX = np.array([1.0, 2.0, 3.0])


def put(folder, content, name="a.glb"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder, content, name="a.glb"):
    return read_mesh(put(folder, content, name))


def triangles(mesh):
    """Corners of all triangles, float32 [F, 3, 3]."""
    return mesh.vertices[mesh.faces]


def quad(materials=(), material=None, nodes=None, **attributes):
    """A glTF file with the unit square; attributes by name, as arrays or numbers of accessors."""
    file = Gltf()
    names = {"POSITION": CORNERS, **attributes}
    numbers = {name: value if isinstance(value, int) else file.add(value) for name, value in names.items()}
    primitive = {"attributes": numbers, "indices": file.add(QUAD.ravel(), "u2")}
    if materials:
        file.json["materials"] = list(materials)
        primitive["material"] = 0 if material is None else material
    file.json["meshes"] = [{"primitives": [primitive]}]
    if nodes:
        file.json["nodes"] = nodes
    return file


def primitive(file):
    return file.json["meshes"][0]["primitives"][0]


# ---- all formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_triangles(suffix, tmp_path):
    box = trimesh.creation.box(extents=BOX)
    if suffix == ".gltf":
        for name, content in box.export(file_type="gltf").items():
            put(tmp_path, content, name)
        path = tmp_path / "model.gltf"
    else:
        path = put(tmp_path, box.export(file_type=suffix[1:]), f"a{suffix}")
    mesh = read_mesh(path)
    expected = np.sort(np.round(box.triangles, 5).reshape(12, 9), axis=0)
    assert np.array_equal(np.sort(triangles(mesh).reshape(12, 9), axis=0), expected.astype(np.float32))
    assert np.array_equal(mesh.bounds, np.float32([-BOX / 2, BOX / 2]))
    volume = np.einsum("ij,ij->i", triangles(mesh)[:, 0], np.cross(triangles(mesh)[:, 1], triangles(mesh)[:, 2])).sum()
    assert volume / 6 == pytest.approx(6)  # faces are counter-clockwise seen from outside
    assert mesh.vertices.dtype == np.float32
    assert mesh.faces.dtype == np.int32


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_mesh_without_colours_is_light_grey(suffix, tmp_path):
    if suffix == ".gltf":
        mesh = read(tmp_path, quad().gltf(), "a.gltf")
    else:
        mesh = read(tmp_path, trimesh.creation.box().export(file_type=suffix[1:]), f"a{suffix}")
    shown = np.float64(mesh.parts[0].base_color[:3])
    if mesh.linear:
        shown = 1.055 * shown ** (1 / 2.4) - 0.055
    assert shown == pytest.approx(GREY)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(
        FormatError, match=r"^a\.fbx is no mesh; expected \.glb, \.gltf, \.obj, \.ply, \.stl or \.off\.$"
    ):
        read(tmp_path, b"x", "a.fbx")
    with pytest.raises(FormatError, match=r"^b\.glb cannot be read \(No such file or directory\); copy the mesh with"):
        read_mesh(tmp_path / "b.glb")


def test_a_transformed_mesh_is_rotated_scaled_and_shifted_and_a_reflection_keeps_its_front(tmp_path):
    mesh = read(tmp_path, quad(NORMAL=np.float32([[0, 0, 1]] * 4)).glb())
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float64)
    moved = mesh.transformed(turn, 2.0, (10, 20, 30))
    assert np.array_equal(moved.vertices, CORNERS @ turn.T.astype("f4") * 2 + np.float32([10, 20, 30]))
    assert np.array_equal(moved.faces, mesh.faces)
    mirrored = mesh.transformed(np.diag([-1.0, 1, 1]))
    for each in (moved, mirrored):
        first, second, third = triangles(each)[0]
        assert np.cross(second - first, third - first)[2] > 0
        assert np.array_equal(each.normals, mesh.normals)
    with pytest.raises(FormatError, match=r"^The scale of a mesh is 0; expected a positive number\.$"):
        mesh.transformed(turn, 0.0)


def test_a_mesh_comes_back_from_its_bytes(tmp_path):
    file = quad([{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}, "alphaMode": "MASK"}], TEXCOORD_0=UV)
    file.image(RGBA)
    mesh = read(tmp_path, file.glb())
    again = Mesh.from_bytes(mesh.to_bytes())
    for name in ("vertices", "faces", "uv", "colors", "normals"):
        assert np.array_equal(getattr(again, name), getattr(mesh, name))
    assert (again.parts, again.linear, again.notes) == (mesh.parts, mesh.linear, mesh.notes)
    assert np.array_equal(again.textures[0].rgba, RGBA)
    assert again.to_bytes() == mesh.to_bytes()


def test_bytes_of_something_else_are_refused(tmp_path, monkeypatch):
    mesh = read(tmp_path, quad().glb())
    content = mesh.to_bytes()
    for data in (b"", b"PK\3\4", content[:-40], content[:100]):
        with pytest.raises(FormatError, match=r"^The mesh\.npz is damaged; import the asset again\.$"):
            Mesh.from_bytes(data)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vertices.npy", bytes(2**20))
    monkeypatch.setattr(mesh_data, "_most_bytes", lambda: 2**20 - 1)
    with pytest.raises(
        FormatError, match=r"^The mesh\.npz is larger inside than a mesh may be; import the asset again"
    ):
        Mesh.from_bytes(bomb.getvalue())
    monkeypatch.undo()
    wrong = Mesh(**{**vars(mesh), "faces": mesh.faces + 1})
    with pytest.raises(FormatError, match=r"^The mesh has faces with vertices that do not exist\. Export it again\.$"):
        Mesh.from_bytes(wrong.to_bytes())
    short = Mesh(**{**vars(mesh), "uv": mesh.uv[:-1]})
    with pytest.raises(
        FormatError, match=r"^The mesh\.npz has arrays that do not fit together; import the asset again"
    ):
        Mesh.from_bytes(short.to_bytes())


# ---- glTF -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "factor"),
    [("f4", {}, 1.0), ("u1", {"normalized": True}, 255), ("u2", {"normalized": True}, 65535)],
)
@pytest.mark.parametrize("width", [3, 4])
def test_vertex_colours_stay_beside_a_texture_and_a_factor(kind, options, factor, width, tmp_path):
    """trimesh drops them beside a texture; glTF multiplies all three in linear light."""
    colors = np.array([[0, 1, 0.2, 1], [1, 0, 0.4, 0.6], [0.2, 0.4, 0.6, 0.8], [1, 1, 1, 0]])
    material = {"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.25, 1, 0.5], "baseColorTexture": {"index": 0}}}
    file = quad([material], TEXCOORD_0=UV)
    primitive(file)["attributes"]["COLOR_0"] = file.add(
        np.rint(colors[:, :width] * factor) if factor > 1 else colors[:, :width], kind, **options
    )
    file.image(RGBA)
    mesh = read(tmp_path, file.glb())
    colors[:, width:] = 1
    np.testing.assert_allclose(mesh.colors, colors, atol=1 / factor if factor > 1 else 1e-7)
    assert mesh.linear
    assert mesh.parts[0].base_color == (0.5, 0.25, 1, 0.5)
    assert np.array_equal(mesh.textures[0].rgba, RGBA)
    assert np.array_equal(mesh.uv, UV)


def test_a_texture_transform_is_applied_to_the_coordinates(tmp_path):
    """The matrices of KHR_texture_transform: translation · rotation · scale."""
    offset, rotation, scale = (0.25, -0.5), 0.7, (2.0, 3.0)
    extension = {"offset": offset, "rotation": rotation, "scale": scale, "texCoord": 1}
    slot = {"index": 0, "texCoord": 0, "extensions": {"KHR_texture_transform": extension}}
    file = quad([{"pbrMetallicRoughness": {"baseColorTexture": slot}}], TEXCOORD_1=UV)
    file.json["extensionsRequired"] = ["KHR_texture_transform"]
    file.image(RGBA)
    cosine, sine = np.cos(rotation), np.sin(rotation)
    matrix = (
        np.array([[1, 0, offset[0]], [0, 1, offset[1]], [0, 0, 1]])
        @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        @ np.diag([*scale, 1])
    )
    expected = (np.c_[UV, np.ones(4)] @ matrix.T)[:, :2]
    np.testing.assert_allclose(read(tmp_path, file.glb()).uv, expected, atol=1e-6)


def test_materials_say_how_they_are_shown(tmp_path):
    material = {"alphaMode": "MASK", "alphaCutoff": 0.3, "doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}
    part = read(tmp_path, quad([material]).glb()).parts[0]
    assert (part.alpha_mode, part.alpha_cutoff, part.double_sided, part.unlit) == ("MASK", 0.3, True, True)
    part = read(tmp_path, quad([{"alphaMode": "BLEND"}]).glb()).parts[0]
    assert (part.alpha_mode, part.alpha_cutoff, part.double_sided, part.unlit) == ("BLEND", 0.5, False, False)


def test_the_older_specular_materials_give_their_diffuse_colour(tmp_path):
    old = {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [1, 0.5, 0.25, 1], "diffuseTexture": {"index": 0}}}
    file = quad([{"extensions": old}], TEXCOORD_0=UV)
    file.image(RGBA)
    mesh = read(tmp_path, file.glb())
    assert mesh.parts[0].base_color == (1, 0.5, 0.25, 1)
    assert np.array_equal(mesh.textures[mesh.parts[0].texture].rgba, RGBA)


def test_samplers_say_how_a_texture_repeats(tmp_path):
    file = quad([{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}], TEXCOORD_0=UV)
    file.image(RGBA, sampler=0)
    file.json["samplers"] = [{"magFilter": 9728, "wrapS": 33071, "wrapT": 33648}]
    texture = read(tmp_path, file.glb()).textures[0]
    assert (texture.wrap, texture.nearest) == (("clamp", "mirror"), True)


def test_materials_share_a_texture(tmp_path):
    """Two textures with one image and equal samplers are one; instances are noted."""
    file = quad([{"pbrMetallicRoughness": {"baseColorTexture": {"index": n}}} for n in (0, 1)], TEXCOORD_0=UV)
    file.image(RGBA)
    file.json["textures"] *= 2
    file.json["meshes"][0]["primitives"].append({**primitive(file), "material": 1})
    file.json["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {}}
    mesh = read(tmp_path, file.glb())
    assert [part.texture for part in mesh.parts] == [0, 0]
    assert len(mesh.textures) == 1
    assert mesh.notes == ("Instances (EXT_mesh_gpu_instancing) are shown once.",)


def test_nodes_move_their_meshes_and_a_mirrored_one_keeps_its_front(tmp_path):
    """Parent: shift by (10, 0, 0). Children: a quarter turn about z and twice the size; mirrored in x by a matrix."""
    half = np.sqrt(0.5)
    nodes = [
        {"translation": [10, 0, 0], "children": [1, 2]},
        {"mesh": 0, "rotation": [0, 0, half, half], "scale": [2, 2, 2]},
        {"mesh": 0, "matrix": [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 5, 1]},
    ]
    mesh = read(tmp_path, quad(nodes=nodes, NORMAL=np.float32([[0, 0, 1]] * 4)).glb())
    turned = CORNERS[:, [1, 0, 2]] * [-2, 2, 2] + [10, 0, 0]
    mirrored = CORNERS * [-1, 1, 1] + [10, 0, 5]
    np.testing.assert_allclose(mesh.vertices, np.concatenate([turned, mirrored]), atol=1e-6)
    first, second, third = np.moveaxis(triangles(mesh), 1, 0)
    assert (np.cross(second - first, third - first)[:, 2] > 0).all()
    np.testing.assert_allclose(mesh.normals, [[0, 0, 1]] * 8, atol=1e-6)
    assert [part.num_faces for part in mesh.parts] == [2, 2]


def test_only_the_default_scene_is_read(tmp_path):
    nodes = [{"mesh": 0}, {"mesh": 0, "translation": [0, 0, 7]}]
    file = quad(nodes=nodes)
    file.json |= {"scenes": [{"nodes": [0]}, {"nodes": [1]}], "scene": 1}
    assert read(tmp_path, file.glb()).vertices[:, 2].tolist() == [7] * 4
    del file.json["scenes"], file.json["scene"]
    assert len(read(tmp_path, file.glb()).faces) == 4  # all roots


@pytest.mark.parametrize(
    ("mode", "order", "expected"),
    [
        (5, [0, 1, 3, 2], [[0, 1, 3], [1, 2, 3]]),
        (6, [0, 1, 2, 3], [[0, 1, 2], [0, 2, 3]]),
        (4, [0, 1, 2, 0, 2, 3], [[0, 1, 2], [0, 2, 3]]),
    ],
)
@pytest.mark.parametrize("indexed", [True, False])
def test_strips_fans_and_lists_with_and_without_indices(mode, order, expected, indexed, tmp_path):
    file = quad()
    primitive(file)["mode"] = mode
    if indexed:
        primitive(file)["indices"] = file.add(order, "u1")
    else:
        del primitive(file)["indices"]
        primitive(file)["attributes"]["POSITION"] = file.add(CORNERS[order])
    found = triangles(read(tmp_path, file.glb()))
    wanted = CORNERS[expected]
    for one, other in zip(found, wanted, strict=True):
        assert any(np.array_equal(one, np.roll(other, turn, axis=0)) for turn in range(3))


def test_interleaved_sparse_and_quantized_values(tmp_path):
    """Position and texture coordinate side by side; one position replaced; bytes by KHR_mesh_quantization."""
    file = quad([{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}])
    view = file.view(np.c_[CORNERS, UV].astype("f4").tobytes(), byteStride=20)
    both = [
        {"bufferView": view, "byteOffset": offset, "componentType": 5126, "count": 4, "type": kind}
        for offset, kind in ((0, "VEC3"), (12, "VEC2"))
    ]
    file.json["accessors"] += both
    position, uv = len(file.json["accessors"]) - 2, len(file.json["accessors"]) - 1
    file.json["accessors"][position]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": file.view(np.array([2], "u2").tobytes()), "componentType": 5123},
        "values": {"bufferView": file.view(np.array([5, 6, 7], "f4").tobytes())},
    }
    primitive(file)["attributes"] = {"POSITION": position, "TEXCOORD_0": uv}
    file.image(RGBA)
    mesh = read(tmp_path, file.glb())
    expected = CORNERS.copy()
    expected[2] = (5, 6, 7)
    assert np.array_equal(mesh.vertices, expected)
    assert np.array_equal(mesh.uv, UV)
    small = quad()
    primitive(small)["attributes"]["POSITION"] = small.add(np.c_[CORNERS * 127, np.zeros(4)][:, :3], "i1")
    assert np.array_equal(read(tmp_path, small.glb()).vertices, CORNERS * 127)
    primitive(small)["attributes"]["POSITION"] = small.add(CORNERS * 127, "i1", normalized=True)
    assert np.array_equal(read(tmp_path, small.glb()).vertices, CORNERS)


def test_a_skin_is_shown_in_the_pose_of_its_joints(tmp_path):
    """Two joints, shifted by 1 and by 3 in z from where they were bound, move vertices by their shares."""
    file = quad(
        nodes=[{"mesh": 0, "skin": 0, "translation": [99, 0, 0]}, {"translation": [0, 0, 1]}, {"scale": [1, 1, 1]}]
    )
    file.json["nodes"][2] = {"translation": [0, 0, 5]}
    file.json["scenes"][0]["nodes"] = [0, 1, 2]
    bind = np.stack([np.eye(4), np.eye(4)])
    bind[1, 2, 3] = -2
    file.json["skins"] = [{"joints": [1, 2], "inverseBindMatrices": file.add(bind.transpose(0, 2, 1).reshape(2, 16))}]
    attributes = primitive(file)["attributes"]
    attributes["JOINTS_0"] = file.add([[0, 1, 0, 0]] * 4, "u1")
    attributes["WEIGHTS_0"] = file.add([[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.75, 0, 0]])
    assert read(tmp_path, file.glb()).vertices[:, 2].tolist() == [1, 3, 2, 2.5]


def test_the_default_shape_of_morph_targets_is_shown(tmp_path):
    file = quad()
    primitive(file)["targets"] = [{"POSITION": file.add(CORNERS)}, {"POSITION": file.add(CORNERS * [0, 0, 1])}]
    file.json["meshes"][0]["weights"] = [0.5, 1.0]
    assert np.array_equal(read(tmp_path, file.glb()).vertices, CORNERS * 1.5)


def test_a_gltf_reads_files_of_its_folder_with_quoted_names(tmp_path):
    file = quad([{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}], TEXCOORD_0=UV)
    file.json["images"] = [{"uri": "textures/a%20b.png"}]
    file.json["textures"] = [{"source": 0}]
    (tmp_path / "textures").mkdir()
    put(tmp_path / "textures", png(RGBA), "a b.png")
    content = file.gltf("data.bin")
    put(tmp_path, bytes(file.buffer), "data.bin")
    assert np.array_equal(read(tmp_path, content, "a.gltf").textures[0].rgba, RGBA)


# ---- OBJ ------------------------------------------------------------------------------------------------------------

OBJ_QUAD = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"


def test_an_obj_with_materials_textures_and_opacity(tmp_path):
    put(tmp_path, png(RGBA), "my texture.png")
    put(tmp_path, "newmtl a\nKd 0.5 0.25 1\nmap_Kd -s 1 1 1 my texture.png\nnewmtl b c\nKd 1 0 0\nd 0.5\n", "a.mtl")
    put(tmp_path, "newmtl e\nKd 0 1 0\nTr 0.25\n", "b.mtl")
    text = "mtllib a.mtl\nmtllib b.mtl\n" + OBJ_QUAD
    text += "usemtl a\nf 1/1 2/2 3/3 4/4\nusemtl b c\nf 1 2 3\nusemtl e\nf 1// \\\n 2// 3//\n"
    mesh = read(tmp_path, text, "a.obj")
    textured, half, quarter = mesh.parts
    assert (textured.base_color, textured.texture, textured.alpha_mode) == ((0.5, 0.25, 1, 1), 0, "OPAQUE")
    assert (half.base_color, half.alpha_mode) == ((1, 0, 0, 0.5), "BLEND")
    assert (quarter.base_color, quarter.alpha_mode) == ((0, 1, 0, 0.75), "BLEND")
    assert [part.num_faces for part in mesh.parts] == [2, 1, 1]
    assert all(part.double_sided for part in mesh.parts)
    assert not mesh.linear
    assert np.array_equal(mesh.uv[:4], UV)  # v upwards in the file
    assert np.array_equal(mesh.textures[0].rgba[..., :3], RGBA[..., :3])
    assert (mesh.textures[0].rgba[..., 3] == 255).all()  # only map_d makes a surface transparent
    assert mesh.notes == ()


def test_negative_indices_count_back_from_where_they_stand(tmp_path):
    """Two triangles, each behind its own vertices; from the end of the file they would be one and the same."""
    text = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf -3 -2 -1\nv 0 0 5\nv 1 0 5\nv 0 1 5\nf -3 -2 -1\n"
    assert triangles(read(tmp_path, text, "a.obj"))[:, :, 2].tolist() == [[0] * 3, [5] * 3]


def test_polygons_are_fans(tmp_path):
    ring = np.c_[np.cos(np.arange(7)), np.sin(np.arange(7)), np.zeros(7)]
    text = "\n".join(f"v {x} {y} {z}" for x, y, z in ring) + "\nf 1 2 3 4 5 6 7\nf 1 2 3 4 5\n"
    assert np.array_equal(read(tmp_path, text, "a.obj").faces[:5], [[0, k, k + 1] for k in range(1, 6)])


def test_vertex_colours_behind_the_position(tmp_path):
    text = "v 0 0 0 1 0 0\nv 1 0 0 0 0.5 0\nv 0 1 0 0 0 1\nf 1 2 3\n"
    mesh = read(tmp_path, text, "a.obj")
    assert mesh.colors.tolist() == [[1, 0, 0, 1], [0, 0.5, 0, 1], [0, 0, 1, 1]]
    assert mesh.parts[0].base_color == (1, 1, 1, 1)
    assert mesh.notes == ()


def test_a_missing_library_or_texture_is_noted(tmp_path):
    mesh = read(tmp_path, "mtllib a.mtl\n" + OBJ_QUAD + "usemtl a\nf 1 2 3\n", "a.obj")
    assert mesh.notes == (
        "a.mtl is missing; surfaces without a colour are grey.",
        "Surfaces without a material are grey.",
    )
    assert mesh.parts[0].base_color == (GREY, GREY, GREY, 1)
    put(tmp_path, "newmtl a\nKd 1 0.5 0\nmap_Kd b.png\n", "a.mtl")
    mesh = read(tmp_path, "mtllib a.mtl\n" + OBJ_QUAD + "usemtl a\nf 1/1 2/2 3/3\n", "a.obj")
    assert mesh.notes == ("b.png is missing; its surfaces have no texture.",)
    assert mesh.parts[0].base_color == (1, 0.5, 0, 1)


def test_the_grey_that_trimesh_writes_beside_a_texture_does_not_darken_it(tmp_path):
    box = trimesh.creation.box()
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(RGBA[..., :3]))
    box.visual = trimesh.visual.TextureVisuals(uv=np.random.default_rng(0).random((8, 2)), material=material)
    box.export(tmp_path / "a.obj")
    assert "Kd 0.4" in (tmp_path / "material.mtl").read_text()
    mesh = read_mesh(tmp_path / "a.obj")
    assert mesh.parts[0].base_color == (1, 1, 1, 1)
    assert np.array_equal(mesh.textures[0].rgba[..., :3], RGBA[..., :3])


def test_opacity_of_a_map(tmp_path):
    put(tmp_path, png(RGBA), "a.png")
    put(tmp_path, "newmtl a\nmap_Kd a.png\nmap_d a.png\n", "a.mtl")
    mesh = read(tmp_path, "mtllib a.mtl\n" + OBJ_QUAD + "usemtl a\nf 1/1 2/2 3/3\n", "a.obj")
    assert np.array_equal(mesh.textures[0].rgba, RGBA)
    assert mesh.parts[0].alpha_mode == "BLEND"


# ---- PLY, OFF -------------------------------------------------------------------------------------------------------


def ply_text(header, rows, faces):
    head = ["ply", "format ascii 1.0", *header[0], f"element vertex {len(rows)}", *(f"property {p}" for p in header[1])]
    head += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    return "\n".join([*head, *rows, *faces]) + "\n"


def test_a_ply_with_quads_and_vertex_colours(tmp_path):
    names = ["float x", "float y", "float z", "uchar red", "uchar green", "uchar blue"]
    rows = [f"{x:g} {y:g} {z:g} {10 * k} 51 255" for k, (x, y, z) in enumerate(CORNERS)]
    mesh = read(tmp_path, ply_text(([], names), rows, ["4 0 1 2 3"]), "a.ply")
    assert len(mesh.faces) == 2
    np.testing.assert_allclose(mesh.colors, [[10 * k / 255, 0.2, 1, 1] for k in range(4)], atol=1e-6)
    assert (mesh.linear, mesh.parts[0].alpha_mode) == (False, "OPAQUE")


def test_a_ply_with_a_texture(tmp_path):
    put(tmp_path, png(RGBA), "b.png")
    rows = [f"{x:g} {y:g} {z:g} {u:g} {1 - v:g}" for (x, y, z), (u, v) in zip(CORNERS, UV, strict=True)]
    header = ["comment TextureFile b.png"], ["float x", "float y", "float z", "float s", "float t"]
    mesh = read(tmp_path, ply_text(header, rows, ["3 0 1 2", "3 0 2 3"]), "a.ply")
    assert np.array_equal(mesh.textures[0].rgba, RGBA)
    assert np.array_equal(mesh.uv, UV)


def test_vertex_colours_of_an_off(tmp_path):
    """Integers up to 255, or numbers up to 1; counts in the line of the name or below it."""
    text = "COFF 3 1 0\n0 0 0 255 0 51 255\n1 0 0 255 0 0 51\n0 1 0 0 0 0 255\n3 0 1 2\n"
    mesh = read(tmp_path, text, "a.off")
    np.testing.assert_allclose(mesh.colors, [[1, 0, 0.2, 1], [1, 0, 0, 0.2], [0, 0, 0, 1]], atol=1e-7)
    assert mesh.parts[0].alpha_mode == "BLEND"
    text = "COFF\n# a comment\n3 1 0\n0 0 0 1.0 0 0.2 1\n1 0 0 1.0 0 0 1\n0 1 0 0 0 0.0 1\n3 0 1 2\n"
    np.testing.assert_allclose(read(tmp_path, text, "a.off").colors[0], [1, 0, 0.2, 1], atol=1e-7)


def test_face_colours_of_an_off(tmp_path):
    text = "OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2 255 0 0\n3 0 2 3 0 0 255\n"
    mesh = read(tmp_path, text, "a.off")
    assert mesh.colors[mesh.faces].tolist() == [[[1, 0, 0, 1]] * 3, [[0, 0, 1, 1]] * 3]
