"""Compressed `.ply`: exact values of known words, and files written by others."""

import math

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from sctd.formats.ply import PlyError, from_ply, has_gaussians
from tests.support.splats import compressed, degrees_between, read_with_gaussforge, some_splats

RANGES = {"x": (-1, 1), "y": (0, 2), "z": (5, 5), "scale_x": (-8, -4), "scale_y": (-6, -2), "scale_z": (-7, -7)}
COLORS = {"r": (0, 1), "g": (0.25, 0.75), "b": (-1, 1)}


def file_of(tmp_path, rows, harmonics=None, ranges=RANGES | COLORS, chunks=1, words=None):
    """A file of vertices with these words (position, rotation, scale, color)."""
    names = words or ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
    chunk = np.zeros(chunks, [(f"{end}_{name}", "f4") for end in ("min", "max") for name in ranges])
    for name, (low, high) in ranges.items():
        chunk[f"min_{name}"], chunk[f"max_{name}"] = low, high
    vertices = np.array([row[: len(names)] for row in rows], [(name, "u4") for name in names])
    elements = [PlyElement.describe(chunk, "chunk")] * bool(chunks) + [PlyElement.describe(vertices, "vertex")]
    if harmonics is not None:
        sh = np.array([tuple(row) for row in harmonics], [(f"f_rest_{i}", "u1") for i in range(len(harmonics[0]))])
        elements.append(PlyElement.describe(sh, "sh"))
    PlyData(elements, byte_order="<").write(tmp_path / "a.ply")
    return (tmp_path / "a.ply").read_bytes()


def word(*fields):
    """Fields of (value, bits), the first in the highest bits."""
    found = 0
    for value, bits in fields:
        found = found << bits | value
    return found


def thirds(x, y, z):
    return word((x, 11), (y, 10), (z, 11))


IDENTITY = word((0, 2), (512, 10), (512, 10), (512, 10))
ROW = thirds(0, 0, 0), IDENTITY, thirds(0, 0, 0), word((255, 8), (0, 8), (51, 8), (204, 8))


def test_words_are_fractions_of_the_ranges_of_their_chunk(tmp_path):
    row = thirds(2047, 0, 7), IDENTITY, thirds(0, 1023, 9), ROW[3]
    found = from_ply(file_of(tmp_path, [row]))
    assert found.means.tolist() == [[1, 0, 5]]
    assert found.log_scales.tolist() == [[-8, -2, -7]]
    assert found.opacities[0] == pytest.approx(204 / 255)
    colors = 0.5 + 0.28209479177387814 * found.sh[0, 0]
    assert colors.tolist() == pytest.approx([1, 0.25, 2 * 51 / 255 - 1], abs=1e-6)


def test_files_of_earlier_writers_have_no_ranges_of_colours(tmp_path):
    found = from_ply(file_of(tmp_path, [ROW], ranges=RANGES))
    assert (0.5 + 0.28209479177387814 * found.sh[0, 0]).tolist() == pytest.approx([1, 0, 0.2], abs=1e-6)


@pytest.mark.parametrize("place", range(4))
def test_the_largest_component_of_a_rotation_is_computed(tmp_path, place):
    rotation = word((place, 2), (1023, 10), (512, 10), (0, 10))  # √½, nearly 0, -√½
    (quat,) = from_ply(file_of(tmp_path, [(ROW[0], rotation, *ROW[2:])])).quats.tolist()
    others = [math.sqrt(0.5), math.sqrt(2) * (512 / 1023 - 0.5), -math.sqrt(0.5)]
    assert quat == pytest.approx([*others[:place], 0, *others[place:]], abs=1e-6)


def test_harmonics_are_bytes_from_minus_4_to_4_one_colour_after_the_other(tmp_path):
    found = from_ply(file_of(tmp_path, [ROW], harmonics=[[0, 255, 127, 128, 64, 1, 2, 3, 4]]))
    middles = [(code + 0.5) / 256 for code in (127, 128, 64, 1, 2, 3, 4)]
    expected = torch.tensor([-4, 4, *(8 * (middle - 0.5) for middle in middles)]).reshape(3, 3).T
    torch.testing.assert_close(found.sh[0, 1:], expected, rtol=0, atol=1e-6)


def test_each_256_vertices_have_a_chunk():
    splats = some_splats(700)
    data = compressed(splats)
    found, expected = from_ply(data), read_with_gaussforge(data, "compressed.ply")
    assert has_gaussians(data)
    # The writer sorts. Its own reader is the reference, to the last bits of float32.
    torch.testing.assert_close(found.means, expected.means, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.log_scales, expected.log_scales, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.sh, expected.sh, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.opacities, expected.opacities, rtol=0, atol=2e-3)  # 0 and 255 have finite logits
    assert degrees_between(found, expected).max() < 1e-2
    order = torch.cdist(found.means, splats.means).argmin(dim=1)
    assert len(set(order.tolist())) == 700
    torch.testing.assert_close(found.means, splats.means[order], rtol=0, atol=2 / 1023)
    assert degrees_between(found, splats.select(order)).max() < 0.3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chunks": 0}, "its chunks are fewer than one for 256 vertices"),
        ({"rows": [ROW] * 257}, "its chunks are fewer than one for 256 vertices"),
        ({"ranges": {"x": (0, 1), "y": (0, 1)}}, "its chunks have no min_z"),
        ({"words": ["packed_position", "packed_rotation"]}, "its vertices have no words packed_scale"),
        ({"rows": [ROW] * 2, "harmonics": [[0] * 9]}, "its rows of sh are not one for each vertex"),
    ],
)
def test_incomplete_files(tmp_path, changes, reason):
    with pytest.raises(PlyError) as caught:
        from_ply(file_of(tmp_path, **{"rows": [ROW], **changes}))
    assert str(caught.value) == f"The compressed .ply is damaged ({reason}): export or copy it again."


def test_a_number_of_harmonics_that_no_degree_has(tmp_path):
    with pytest.raises(PlyError, match=r"^The \.ply has 8 f_rest properties; expected 0, 9, 24 or 45"):
        from_ply(file_of(tmp_path, [ROW], harmonics=[[0] * 8]))
