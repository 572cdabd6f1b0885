"""sctd.formats.gltf: KHR_gaussian_splatting with the same attributes as PlayCanvas' splat-transform 2.7.1.

golden/splats.glb is its conversion of golden/splats.ply: splat-transform splats.ply splats.glb. It assumes that a .ply
is rotated by half a turn about z relative to glTF.
"""

import io
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from sctd.formats.axes import rotated
from sctd.formats.common import FormatError
from sctd.formats.gltf import EXTENSION, from_glb, to_glb
from sctd.formats.gltf_file import Gltf, GltfFile, opened
from sctd.formats.ply import from_ply
from sctd.scene.gaussians import Gaussians, sh_to_rgb
from tests.support.splats import degrees_between, some_splats

GOLDEN = Path(__file__).parent / "golden"
HALF_A_TURN = torch.diag(torch.tensor([-1.0, -1, 1], dtype=torch.float64))


def content(data: bytes) -> dict:
    (length,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + length])


def test_attributes_match_those_of_splat_transform():
    theirs_bytes = (GOLDEN / "splats.glb").read_bytes()
    ours_bytes = to_glb(rotated(from_ply((GOLDEN / "splats.ply").read_bytes()), HALF_A_TURN))
    ours, theirs = from_glb(ours_bytes), from_glb(theirs_bytes)
    torch.testing.assert_close(ours.means, theirs.means)
    torch.testing.assert_close(ours.scales, theirs.scales)
    torch.testing.assert_close(ours.opacities, theirs.opacities)
    assert ours.sh.shape == theirs.sh.shape == (5, 16, 3)
    torch.testing.assert_close(ours.sh, theirs.sh, atol=1e-6, rtol=0)
    assert float(degrees_between(ours, theirs).max()) < 1e-3
    of_ours, of_theirs = (content(data)["meshes"][0]["primitives"][0] for data in (ours_bytes, theirs_bytes))
    assert of_ours["attributes"].keys() == of_theirs["attributes"].keys()
    assert of_ours["mode"] == of_theirs["mode"] == 0
    kinds = of_theirs["extensions"][EXTENSION]
    assert of_ours["extensions"][EXTENSION] == {name: kinds[name] for name in ("kernel", "colorSpace")}


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip_keeps_everything_except_quaternion_lengths(degree):
    gaussians = some_splats(degree=degree)
    back = from_glb(to_glb(gaussians))
    assert torch.equal(back.means, gaussians.means)
    assert torch.equal(back.sh, gaussians.sh)
    torch.testing.assert_close(back.log_scales, gaussians.log_scales, atol=1e-6, rtol=0)
    torch.testing.assert_close(back.logit_opacities, gaussians.logit_opacities, atol=1e-5, rtol=0)
    torch.testing.assert_close(back.quats.norm(dim=-1), torch.ones(50))
    assert float(degrees_between(back, gaussians).max()) < 1e-3


def test_viewers_without_the_extension_show_a_coloured_point_cloud():
    gaussians = some_splats(20, 1)
    (cloud,) = trimesh.load_scene(io.BytesIO(to_glb(gaussians)), file_type="glb").dump()
    assert isinstance(cloud, trimesh.PointCloud)
    np.testing.assert_array_equal(cloud.vertices, gaussians.means.numpy())
    stored = np.asarray(cloud.colors)[:, :3] / 255  # linear light, as in glTF
    shown = np.where(stored <= 0.0031308, 12.92 * stored, 1.055 * stored ** (1 / 2.4) - 0.055)
    # Half a step of linear light is 0.025 for the darkest sRGB colours.
    np.testing.assert_allclose(shown, sh_to_rgb(gaussians.sh[:, 0]).clamp(0, 1).numpy(), atol=0.03)


def test_bounds_match_the_positions_and_chunks_are_whole_words():
    data = to_glb(some_splats(7))
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    assert struct.unpack_from("<I", data, 12)[0] % 4 == 0
    accessor = content(data)["accessors"][0]
    assert accessor["min"] == some_splats(7).means.amin(0).tolist()
    assert accessor["max"] == some_splats(7).means.amax(0).tolist()


def test_empty_input_and_other_files_are_refused():
    with pytest.raises(FormatError, match=r"^There are no Gaussians; a \.glb needs at least one\."):
        to_glb(some_splats(0))
    with pytest.raises(FormatError, match=r"^This is not a \.glb \(.*\); export or copy it again\."):
        from_glb(b"ply")
    mesh = trimesh.creation.box().export(file_type="glb")
    with pytest.raises(FormatError, match=r"not a glTF 2\.0 \.glb with KHR_gaussian_splatting; read meshes with"):
        from_glb(mesh)


def packed(tree: dict, buffer: bytes) -> bytes:
    """A .glb of this JSON and buffer."""
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def changed(change, gaussians: Gaussians | None = None) -> bytes:
    """The file of two Gaussians after a change of its JSON."""
    data = to_glb(some_splats(2) if gaussians is None else gaussians)
    length = int.from_bytes(data[12:16], "little")
    tree = json.loads(data[20 : 20 + length])
    change(tree)
    return packed(tree, data[20 + length + 8 :])


def splats_of(tree: dict) -> dict:
    return tree["meshes"][0]["primitives"][0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tree: tree.update(meshes=[]), "The glTF refers to mesh 0 of 0; export it again."),
        (lambda tree: tree["nodes"].clear(), "The glTF refers to node 0 of 0; export it again."),
        (lambda tree: tree["scenes"][0].update(nodes=[]), "The scene of the .glb has no primitive with KHR_gaussian"),
        (lambda tree: splats_of(tree).pop("extensions"), "The scene of the .glb has no primitive with KHR_gaussian"),
        (lambda tree: tree.update(accessors={}), "The JSON of the glTF is invalid (accessors: Input should be"),
        (lambda tree: tree["accessors"].clear(), "The glTF refers to accessor 0 of 0; export it again."),
        (lambda tree: tree["accessors"][0].update(count=2**31), "truncated: it announces 2,147,483,648 Gaussians;"),
        (lambda tree: tree["accessors"][1].update(count=1), None),  # COLOR_0 is not read
        (lambda tree: tree["accessors"][3].update(count=1), "attributes of different numbers of Gaussians"),
        (
            lambda tree: tree["accessors"][0].update(type="VEC4"),
            "Accessor 0 of the glTF has type VEC4; export it again.",
        ),
        (
            lambda tree: tree["accessors"][2].update(type="VEC3"),
            "has 3 numbers for each KHR_gaussian_splatting:ROTATION",
        ),
        (
            lambda tree: tree["accessors"][2].update(byteOffset=8),
            "The glTF announces 2 values of 4 numbers in 32 bytes",
        ),
        (lambda tree: tree["bufferViews"][2].update(byteOffset=10**6), "The glTF is truncated: buffer view 2 ends at"),
        (
            lambda tree: tree["bufferViews"][2].update(byteOffset=-4),
            "is invalid (bufferViews.2.byteOffset: Input should",
        ),
        (
            lambda tree: tree["bufferViews"][2].update(byteStride=0),
            "is invalid (bufferViews.2.byteStride: Input should",
        ),
        (
            lambda tree: splats_of(tree)["attributes"].pop("POSITION"),
            "The .glb has splats without POSITION; expected KHR_gaussian_splatting without compression.",
        ),
        (
            lambda tree: splats_of(tree).update(attributes={}, extensions={EXTENSION: {"extensions": {"KHR_spz": {}}}}),
            "The .glb has splats without POSITION (it has 'KHR_spz' instead); expected",
        ),
        (
            lambda tree: splats_of(tree)["attributes"].popitem(),
            "The .glb has 0 spherical harmonics; expected all of degree 0, 1, 2 or 3.",
        ),
        (lambda tree: splats_of(tree)["extensions"].update({EXTENSION: [3]}), f"The {EXTENSION} of a primitive is"),
        (
            lambda tree: splats_of(tree)["extensions"][EXTENSION].update(kernel="cube"),
            "The .glb has splats with the kernel 'cube'; expected 'ellipse'.",
        ),
        (
            lambda tree: splats_of(tree)["extensions"][EXTENSION].update(colorSpace="lin_rec709_display"),
            "colours in 'lin_rec709_display', which blend differently; expected 'srgb_rec709_display': convert it",
        ),
        (
            lambda tree: tree.update(extensionsRequired=["EXT_meshopt_compression"]),
            "are compressed with meshopt (EXT_meshopt_compression); write a copy without compression",
        ),
        (
            lambda tree: tree.update(extensionsRequired=["X"]),
            "requires the extension 'X', which is not read; export it",
        ),
        (lambda tree: tree["buffers"][0].update(uri="/etc/passwd"), "The .glb keeps its data elsewhere; save it as"),
        (lambda tree: tree["nodes"][0].update(children=[0]), "Node 0 of the glTF has two parents or is in a circle"),
        (lambda tree: tree["nodes"][0].update(scale=[1, 1, 2]), "a node that mirrors or stretches its Gaussians"),
        (lambda tree: tree["nodes"][0].update(scale=[1, 1, -1]), "a node that mirrors or stretches its Gaussians"),
        (lambda tree: tree["nodes"][0].update(matrix=[1, 0, 0, 0] * 4), "a node that mirrors or stretches its"),
        (lambda tree: tree["nodes"][0].update(translation=[1e300, 0, 0]), "2 invalid of 2 Gaussians; the first is"),
        (lambda tree: tree["accessors"][4].update(bufferView=2), "invalid of 2 Gaussians; the first is"),  # opacities
        (
            lambda tree: tree["accessors"][3].update(bufferView=0),  # positions as scales
            "The .glb has negative scales, probably logarithms as in drafts of the extension; expected standard",
        ),
    ],
)
def test_wrong_contents_are_named(change, sentence):
    if sentence is None:
        assert from_glb(changed(change)).num == 2
        return
    with pytest.raises(FormatError, match=re.escape(sentence)):
        from_glb(changed(change))


def test_a_mesh_that_nodes_repeat_without_end_is_refused():
    def repeat(tree):
        tree["nodes"] *= 100
        tree["scenes"][0]["nodes"] = list(range(100))

    many = changed(repeat, some_splats(2000))
    with pytest.raises(FormatError, match=r"announces 200,000 Gaussians"):
        from_glb(many)


def test_nodes_move_what_they_hold():
    gaussians = some_splats(3, 2)
    half = 0.5**0.5

    def place(tree):
        tree["nodes"] = [
            {"children": [1], "translation": [1, 2, 3]},
            {"mesh": 0, "rotation": [0, half, 0, half], "scale": [2, 2, 2]},
            {"mesh": 0, "translation": [9, 9, 9]},  # not in the scene
        ]

    found = from_glb(changed(place, gaussians))
    x, y, z = gaussians.means.T
    torch.testing.assert_close(found.means, torch.stack([1 + 2 * z, 2 + 2 * y, 3 - 2 * x], 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.scales, 2 * gaussians.scales, rtol=1e-5, atol=0)
    quarter = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found.sh, rotated(gaussians, quarter).sh, rtol=0, atol=1e-5)


def test_all_splats_of_a_scene_are_read_and_other_primitives_left_out():
    gaussians = some_splats(4, 1)

    def add(tree):
        flat = json.loads(json.dumps(splats_of(tree)))
        for number in range(3):
            del flat["attributes"][f"{EXTENSION}:SH_DEGREE_1_COEF_{number}"]
        points = {"mode": 0, "attributes": {"POSITION": 0}}
        tree["meshes"] += [{"primitives": [points, flat]}]
        tree["nodes"] += [{"mesh": 1}, {"name": "camera"}]
        tree["scenes"][0]["nodes"] = [0, 1, 2]

    found = from_glb(changed(add, gaussians))
    assert torch.equal(found.means, torch.cat([gaussians.means] * 2))
    assert torch.equal(found.sh[:4], gaussians.sh)
    assert torch.equal(found.sh[4:], gaussians.with_sh_degree(0).with_sh_degree(1).sh)


def quantized(bits: int) -> tuple[bytes, Gaussians]:
    """A file in the smallest types of the extension, or twice as wide, interleaved; and its Gaussians."""
    gaussians = some_splats(6)
    signed, unsigned = (np.dtype(f"<{kind}{bits // 8}") for kind in "iu")
    most, least = np.iinfo(unsigned).max, np.iinfo(signed).max
    quats = torch.nn.functional.normalize(gaussians.quats, dim=-1)[:, [1, 2, 3, 0]].numpy()
    kinds = [("POSITION", "<f4", 3), ("SCALE", unsigned, 3), ("pad", unsigned, 1), ("ROTATION", signed, 4)]
    kinds += [("OPACITY", unsigned, 1), ("pad2", unsigned, 3), ("SH", "<f4", 3)]
    rows = np.zeros(6, kinds)
    rows["POSITION"], rows["SH"] = gaussians.means.numpy(), gaussians.sh[:, 0].numpy()
    rows["SCALE"] = np.rint(most * gaussians.scales.numpy())
    rows["ROTATION"] = np.rint(least * quats)
    rows["OPACITY"] = np.rint(most * gaussians.opacities.numpy())[:, None]
    types = {"<f4": 5126, signed: {8: 5120, 16: 5122}[bits], unsigned: {8: 5121, 16: 5123}[bits]}
    used = [(number, kind) for number, kind in enumerate(kinds) if not kind[0].startswith("pad")]
    accessors = [
        {
            "bufferView": 0,
            "byteOffset": rows.dtype.fields[name][1],
            "componentType": types[kind],
            "normalized": kind != "<f4",
            "count": 6,
            "type": {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[width],
        }
        for _, (name, kind, width) in used
    ]
    names = [EXTENSION + ":SH_DEGREE_0_COEF_0" if n == "SH" else n if n == "POSITION" else f"{EXTENSION}:{n}"
             for _, (n, _, _) in used]  # fmt: skip
    tree = {
        "asset": {"version": "2.0"},
        "extensionsUsed": [EXTENSION, "KHR_mesh_quantization"],
        "extensionsRequired": [EXTENSION, "KHR_mesh_quantization"],
        "meshes": [
            {
                "primitives": [
                    {
                        "mode": 0,
                        "attributes": {name: number for number, name in enumerate(names)},
                        "extensions": {EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
                    }
                ]
            }
        ],
        "nodes": [{"mesh": 0}],
        "accessors": accessors,
        "bufferViews": [
            {"buffer": 0, "byteLength": rows.nbytes, "byteStride": rows.itemsize},
        ],
        "buffers": [{"byteLength": rows.nbytes}],
    }
    return packed(tree, rows.tobytes()), gaussians


@pytest.mark.parametrize("bits", [8, 16])
def test_integers_and_interleaved_attributes_are_read(bits):
    data, gaussians = quantized(bits)
    found = from_glb(data)
    assert torch.equal(found.means, gaussians.means)
    assert torch.equal(found.sh, gaussians.sh)
    step = 1 / (2**bits - 1)
    torch.testing.assert_close(found.scales, gaussians.scales, rtol=0, atol=0.51 * step)
    torch.testing.assert_close(found.opacities, gaussians.opacities, rtol=0, atol=0.51 * step)
    assert float(degrees_between(found, gaussians).max()) < 2 * 57.3 * 2 * step  # of four components, each ± 1/127 / 2


# ---- COLOR_0 --------------------------------------------------------------------------------------------------------


def colors(data: bytes) -> np.ndarray:
    """COLOR_0 of a file, in numbers up to 1."""
    gltf, chunk = opened(Gltf, data, {EXTENSION})
    return GltfFile(gltf, chunk, None, len(data)).values(splats_of(content(data))["attributes"]["COLOR_0"], 4)


def test_colors_are_linear_where_splat_transform_leaves_them_in_srgb():
    data = (GOLDEN / "splats.glb").read_bytes()
    ours = colors(to_glb(rotated(from_ply((GOLDEN / "splats.ply").read_bytes()), HALF_A_TURN)))
    theirs = colors(data)  # in bytes
    srgb = np.where(ours <= 0.0031308, 12.92 * ours, 1.055 * ours ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(srgb[:, :3], theirs[:, :3], atol=1.01 / 255)
    np.testing.assert_allclose(ours[:, 3], theirs[:, 3], atol=1.01 / 255)


@pytest.mark.parametrize("kind", [None, 5121, 5123, 5126])
@pytest.mark.parametrize("width", [3, 4])
def test_colors_of_any_type_or_none_leave_the_splats_as_they_are(kind, width):
    def replace(tree):
        if kind is None:
            del splats_of(tree)["attributes"]["COLOR_0"]
        else:
            tree["accessors"][1].update(componentType=kind, normalized=kind != 5126, type=f"VEC{width}")

    for name, values in from_glb(changed(replace)).tensors().items():
        assert torch.equal(values, from_glb(to_glb(some_splats(2))).tensors()[name]), name


def test_nodes_that_move_nothing_are_read():
    identity = {"rotation": [0, 0, 0, 1], "translation": [0, 0, 0], "scale": [1, 1, 1], "name": "splat"}
    data = changed(lambda tree: tree["nodes"][0].update(identity))
    assert torch.equal(from_glb(data).means, some_splats(2).means)


def test_a_key_with_a_line_break_is_named_in_one_line():
    data = changed(lambda tree: splats_of(tree)["attributes"].update({"a\nb": "c"}))
    with pytest.raises(
        FormatError, match=r"^The JSON of the glTF is invalid \(meshes\.0\.primitives\.0\.attributes\.a b: "
    ):
        from_glb(data)
