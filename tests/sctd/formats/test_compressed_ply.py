"""Compressed `.ply`: exact values of known words, and files written by others."""

import math

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from sctd.formats.common import InvalidGaussiansError
from sctd.formats.compressed_ply import SH_LEVELS, morton_order, num_clamped
from sctd.formats.ply import PlyError, from_ply, has_gaussians, is_compressed, to_compressed_ply, to_ply
from sctd.scene.gaussians import Gaussians
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
    assert is_compressed(data)
    assert not is_compressed(to_ply(splats))
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


# ---- writing --------------------------------------------------------------------------------------------------------

# As in test_spz.py, with steps of √2/1023.
DEGREES = 2 * 57.3 * (3**0.5 + 3) * 0.5 * 2**0.5 / 1023
READERS = {"ours": from_ply, "gaussforge": lambda data: read_with_gaussforge(data, "compressed.ply")}


def half_steps(values, bits):
    """Half a step of the range of the chunk of each value."""
    ends = [(rows.amin(0), rows.amax(0)) for rows in values.split(256) for _ in rows]
    return torch.stack([high - low for low, high in ends]) / torch.tensor([2.0**each - 1 for each in bits]) / 2


def assert_within(found, expected, bound):
    assert bool(((found - expected).abs() <= 1.0001 * bound + 1e-6).all())


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("reader", READERS)
def test_written_files_are_accurate_to_half_a_step_of_their_chunk(degree, reader):
    splats = some_splats(700, degree)
    found, expected = READERS[reader](to_compressed_ply(splats)), splats.select(morton_order(splats.means))
    assert_within(found.means, expected.means, half_steps(expected.means, (11, 10, 11)))
    assert_within(found.log_scales, expected.log_scales, half_steps(expected.log_scales, (11, 10, 11)))
    assert_within(found.sh[:, 0], expected.sh[:, 0], half_steps(expected.sh[:, 0], (8, 8, 8)))
    assert_within(found.opacities, expected.opacities, torch.tensor(0.5 / 255))
    assert float(degrees_between(found, expected).max()) < DEGREES
    if reader == "ours":  # GaussForge scrambles these
        assert_within(found.sh[:, 1:], expected.sh[:, 1:], torch.tensor(1 / 64))
    assert found.sh_degree == degree


def test_equal_gaussians_give_equal_bytes_of_a_quarter_of_the_size():
    first, second = (to_compressed_ply(some_splats(1000, 3)) for _ in range(2))
    assert first == second
    assert len(first) < 0.26 * len(to_ply(some_splats(1000, 3)))


def test_neighbours_in_a_file_are_close_together():
    splats = some_splats(2000)
    steps = [splats.means[order].diff(dim=0).norm(dim=1).mean() for order in (slice(None), morton_order(splats.means))]
    assert float(steps[1]) < 0.2 * float(steps[0])


def test_one_gaussian_and_equal_gaussians_can_be_stored():
    for num in (1, 300):
        splats = some_splats(1, 1).map(lambda tensor: tensor.expand(num, *tensor.shape[1:]))  # noqa: B023
        found = from_ply(to_compressed_ply(splats))
        assert torch.equal(found.means, splats.means)
        torch.testing.assert_close(found.sh[:, 0], splats.sh[:, 0], rtol=0, atol=1e-6)


def test_values_outside_the_range_are_clamped_and_counted():
    splats = some_splats(4, 1)
    splats.log_scales[0, 1], splats.log_scales[1, 2], splats.sh[2, 1, 0] = -math.inf, 21, 4.5
    assert num_clamped(splats) == 3
    found, order = from_ply(to_compressed_ply(splats)), morton_order(splats.means)
    expected = splats.select(order)
    assert float(found.log_scales.min()) == -20
    assert float(found.log_scales.max()) == 20
    assert float(found.sh[expected.sh[:, 1, 0] == 4.5, 1, 0]) == 4
    assert num_clamped(found) == 0
    assert num_clamped(some_splats(50, 3)) == 0


def test_the_levels_of_harmonics_are_those_that_are_read(tmp_path):
    codes = list(range(0, 252, 28))
    (found,) = from_ply(file_of(tmp_path, [ROW], harmonics=[codes])).sh[:, 1:]
    assert found.mT.flatten().tolist() == pytest.approx(SH_LEVELS[codes].tolist())


def test_no_and_invalid_gaussians_are_refused():
    with pytest.raises(PlyError, match=r"^There are no Gaussians; a compressed \.ply needs at least one\."):
        to_compressed_ply(some_splats(0))
    bad = Gaussians(**{**some_splats(3).tensors(), "means": torch.full((3, 3), torch.nan)})
    with pytest.raises(InvalidGaussiansError, match=r"^The \.ply has 3 invalid of 3 Gaussians"):
        to_compressed_ply(bad)
