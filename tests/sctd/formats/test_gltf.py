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
from sctd.formats.ply import from_ply
from sctd.scene.gaussians import sh_to_rgb
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


def changed(change) -> bytes:
    """The file of two Gaussians after a change of its JSON."""
    data = to_glb(some_splats(2))
    length = int.from_bytes(data[12:16], "little")
    tree = json.loads(data[20 : 20 + length])
    change(tree)
    content = json.dumps(tree).encode()
    return data[:12] + len(content).to_bytes(4, "little") + b"JSON" + content + data[20 + length :]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tree: tree.update(meshes=[]), "The .glb has meshes with these numbers of primitives: none"),
        (lambda tree: tree.update(accessors={}), "The JSON of the .glb is invalid (accessors: Input should be"),
        (lambda tree: tree["accessors"].clear(), "The .glb has no POSITION; expected KHR_gaussian_splatting"),
        (
            lambda tree: tree["accessors"][0].update(count=2**31),
            "The .glb is truncated: it announces 2147483648",
        ),
        (
            lambda tree: tree["accessors"][0].update(count=1),
            "The .glb has attributes of different numbers of Gaussians",
        ),
        (lambda tree: tree["accessors"][0].update(type="VEC4"), "POSITION is not stored as contiguous float32"),
        (
            lambda tree: tree["meshes"][0]["primitives"][0]["attributes"].popitem(),
            "The .glb has 0 spherical harmonics; expected all of degree 0, 1, 2 or 3.",
        ),
        (lambda tree: tree["nodes"][0].update(rotation=[1, 0, 0, 0]), "The .glb has nodes with a rotation; expected"),
        (
            lambda tree: tree["nodes"].append({"children": [0], "translation": [0, 1, 0], "scale": [2, 2, 2]}),
            "nodes with a scale and a translation; expected Gaussians in their final place. Apply the transforms, then",
        ),
        (lambda tree: tree["nodes"][0].update(matrix=[1, 0, 0, 0] * 4), "The .glb has nodes with a matrix; expected"),
    ],
)
def test_wrong_contents_are_named(change, sentence):
    with pytest.raises(FormatError, match=re.escape(sentence)):
        from_glb(changed(change))


def test_nodes_that_move_nothing_are_read():
    identity = {"rotation": [0, 0, 0, 1], "translation": [0, 0, 0], "scale": [1, 1, 1], "name": "splat"}
    data = changed(lambda tree: tree["nodes"][0].update(identity))
    assert torch.equal(from_glb(data).means, some_splats(2).means)


def test_a_key_with_a_line_break_is_named_in_one_line():
    data = changed(lambda tree: tree["meshes"][0]["primitives"][0]["attributes"].update({"a\nb": "c"}))
    with pytest.raises(
        FormatError, match=r"^The JSON of the \.glb is invalid \(meshes\.0\.primitives\.0\.attributes\.a b: "
    ):
        from_glb(data)
