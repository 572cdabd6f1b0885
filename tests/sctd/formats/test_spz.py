"""sctd.formats.spz: Niantic's format, read equally by our reader and Niantic's code (in GaussForge)."""

import gzip
import struct

import pytest
import torch
import zstandard

from sctd.formats.common import FormatError
from sctd.formats.spz import MAGIC, VERSION, from_spz, num_clamped, to_spz
from sctd.scene.gaussians import Gaussians
from tests.support.splats import degrees_between, read_with_gaussforge, some_splats

# Three components are off by half a step of √½/511 each; the fourth, at least ½, by up to √3 times their norm.
DEGREES = 2 * 57.3 * (3**0.5 + 3) * 0.5 * 0.70711 / 511


def test_the_header_has_the_published_layout():
    header = struct.unpack_from("<IIIBBBB", gzip.decompress(to_spz(some_splats(7, 2))))
    assert header == (0x5053474E, 3, 7, 2, 12, 0, 0)


def test_a_row_has_the_published_layout():
    gaussian = Gaussians(
        means=torch.tensor([[1.0, -1, 0.5]]),
        log_scales=torch.tensor([[-10.0, 0, 9]]),
        quats=torch.tensor([[2.0, 0, 0, -2]]),
        logit_opacities=torch.tensor([0.0]),
        sh=torch.tensor([[[0.0, 1, -9]]]),
    )
    raw = gzip.decompress(to_spz(gaussian))[16:]
    assert raw[:9] == bytes([0, 0x10, 0, 0, 0xF0, 0xFF, 0, 0x08, 0])  # 4096, -4096, 2048
    assert raw[9:16] == bytes([128, 128, 166, 0, 0, 160, 255])
    # z precedes w and is as large: index 2, made positive; so w is -√½, stored as a sign and the largest magnitude.
    assert struct.unpack("<I", raw[16:]) == (2 << 30 | 0 << 20 | 0 << 10 | 1 << 9 | 511,)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("read", [from_spz, lambda data: read_with_gaussforge(data, "spz")], ids=["ours", "niantic"])
def test_round_trip_is_accurate_to_half_a_step(read, degree):
    gaussians = some_splats(degree=degree)
    back = read(to_spz(gaussians))
    assert back.sh.shape == gaussians.sh.shape
    assert float((back.means - gaussians.means).abs().max()) <= 0.5 / 4096 + 1e-7
    assert float((back.log_scales - gaussians.log_scales).abs().max()) <= 0.5 / 16 + 1e-5
    assert float((back.opacities - gaussians.opacities).abs().max()) <= 0.5 / 255 + 1e-6
    assert float((back.sh[:, :1] - gaussians.sh[:, :1]).abs().max()) <= 0.5 / 255 / 0.15 + 1e-5
    assert float((back.sh - gaussians.sh)[:, 1:].abs().amax().item() if degree else 0) <= 0.5 / 128 + 1e-6
    assert float(degrees_between(back, gaussians).max()) < DEGREES


def of_version(version, gaussians):
    """The same Gaussians in another version."""
    header, raw = struct.unpack_from("<IIIBBBB", data := gzip.decompress(to_spz(gaussians))), data[16:]
    num, degree = header[2:4]
    sizes = [9 * num, num, 3 * num, 3 * num, 4 * num, len(raw) - 20 * num]
    ends = [sum(sizes[: number + 1]) for number in range(6)]
    parts = [raw[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    if version == 4:
        streams = [zstandard.compress(part) for part in parts if part]
        lengths = [(len(stream), len(part)) for stream, part in zip(streams, filter(None, parts), strict=True)]
        start = struct.pack("<IIIBBBBI12x", MAGIC, 4, num, degree, 12, 0, len(streams), 32)
        return start + b"".join(struct.pack("<QQ", *pair) for pair in lengths) + b"".join(streams)
    if version < 3:
        xyzw = torch.nn.functional.normalize(gaussians.quats.double(), dim=-1)[:, [1, 2, 3, 0]]
        xyz = xyzw[:, :3] * torch.where(xyzw[:, 3:] < 0, -1, 1)
        parts[4] = ((xyz + 1) * 127.5).round().byte().numpy().tobytes()
    if version == 1:
        parts[0] = gaussians.means.half().numpy().tobytes()
    return gzip.compress(struct.pack("<IIIBBBB", MAGIC, version, num, degree, 12, 0, 0) + b"".join(parts))


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("version", [1, 2])
def test_earlier_versions_are_read_as_by_niantic(version, degree):
    gaussians = some_splats(degree=degree)
    gaussians.quats[0] = torch.tensor([-1.0, 1, 0, 0])
    data = of_version(version, gaussians)
    found, expected = from_spz(data), read_with_gaussforge(data, "spz")
    torch.testing.assert_close(found.means, expected.means, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.log_scales, expected.log_scales, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sh, expected.sh, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.opacities, expected.opacities, rtol=0, atol=2e-3)
    assert degrees_between(found, expected).max() < 1e-3
    assert degrees_between(found, gaussians).median() < 1  # w of a half turn has a large error: 11 degrees


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_version_4_has_the_same_parts(degree):
    gaussians = some_splats(degree=degree)
    found, expected = from_spz(of_version(4, gaussians)), from_spz(to_spz(gaussians))
    assert all(map(torch.equal, found.tensors().values(), expected.tensors().values()))
    assert from_spz(of_version(4, some_splats(0))).num == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:20], r"This is not a \.spz \(it ends within its header of 32 bytes\)"),
        (
            lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:],
            r"The \.spz is truncated: its header announces 42949",
        ),
        (lambda data: data[:8] + b"\x33" + data[9:], r"The \.spz is truncated: its header announces 51 Gaussians"),
        (lambda data: data[:15] + b"\x05" + data[16:], r"The \.spz is truncated: its header announces 50 Gaussians"),
        (lambda data: data[:-30], r"The \.spz (is truncated|is damaged)"),
        (lambda data: data[:140] + bytes(40) + data[180:], r"The \.spz is damaged \(zstd decompress error"),
        (lambda data: data[:12] + b"\x04" + data[13:], r"The \.spz has magic 0x5053474e and SH degree 4; expected"),
    ],
)
def test_damaged_files_of_version_4(change, message):
    with pytest.raises(FormatError, match=f"^{message}"):
        from_spz(change(of_version(4, some_splats(degree=1))))


def test_equal_gaussians_give_equal_bytes_and_no_gaussians_can_be_stored():
    assert to_spz(some_splats(degree=1)) == to_spz(some_splats(degree=1))
    assert from_spz(to_spz(some_splats(0))).num == 0


def test_out_of_range_gaussians_and_other_files_are_refused():
    far = some_splats(3)
    far.means[1, 2] = -4000
    with pytest.raises(
        FormatError, match=r"^A Gaussian has a coordinate of 4000 units; a \.spz stores coordinates below 2048: scale"
    ):
        to_spz(far)
    with pytest.raises(FormatError, match=r"^This is not a \.spz \(.*\); expected gzip over a header\."):
        from_spz(b"ply")
    with pytest.raises(
        FormatError, match=r"^The \.spz has version 5; expected 1 to 4\. Convert it first, for example with splat"
    ):
        from_spz(struct.pack("<IIIBBBB", 0x5053474E, 5, 9, 0, 12, 0, 0) + bytes(64))
    for version in (0, 5, 255):
        with pytest.raises(
            FormatError, match=rf"^The \.spz has version {version}; expected 1 to 4\. Convert it first, for exa"
        ):
            from_spz(gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, version, 0, 0, 12, 0, 0)))
    for magic, degree in ((0x5053474E, 4), (0x1, 0)):
        with pytest.raises(
            FormatError, match=rf"^The \.spz has magic {magic:#x} and SH degree {degree}; expected 0x50"
        ):
            from_spz(gzip.compress(struct.pack("<IIIBBBB", magic, 3, 0, degree, 12, 0, 0)))
    with pytest.raises(FormatError, match=r"^The \.spz is truncated: its header announces 9 Gaussians"):
        from_spz(gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 3, 9, 0, 12, 0, 0)))


def test_what_follows_the_header_is_bounded_by_the_size_of_the_file():
    """Gaussians that no compression could put into so few bytes are not allocated."""
    header = struct.pack("<IIIBBBB", MAGIC, VERSION, 2**32 - 1, 3, 12, 0, 0)
    with pytest.raises(FormatError, match=r"^The \.spz is truncated: its header announces 4294967295 Gaussians"):
        from_spz(gzip.compress(header + b"\0" * 500))
    with pytest.raises(FormatError, match=r"^This is not a \.spz \(it ends within its header of 16 bytes\)"):
        from_spz(gzip.compress(header[:9]))


def test_a_wrong_checksum_is_damage():
    data = bytearray(to_spz(some_splats(2)))
    data[-5] ^= 1
    with pytest.raises(FormatError, match=r"^This is not a \.spz \(CRC check failed"):
        from_spz(bytes(data))


def test_values_outside_the_range_are_counted():
    splats = some_splats(4, 1)
    assert num_clamped(splats) == 0
    splats.log_scales[0, 1], splats.sh[1, 0, 2], splats.sh[2, 3, 1] = 7, 4, -1.1
    assert num_clamped(splats) == 3
