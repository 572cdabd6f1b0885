"""sctd.formats.splat: antimatter15's layout, read by another program, accurate to half a step of each byte."""

import struct

import pytest
import torch

from sctd.formats.common import FormatError
from sctd.formats.splat import from_splat, to_splat
from sctd.scene.gaussians import Gaussians
from tests.support.splats import degrees_between, read_with_gaussforge, some_splats

HALF_A_STEP = 0.5 / 255 + 1e-6
# Each component is off by at most 1/256, so a quaternion by twice that, and the rotation angle by twice as much again.
DEGREES = 2 * 2 / 256 * 57.3


def test_a_row_has_the_published_layout():
    gaussian = Gaussians(
        means=torch.tensor([[1.0, 2, 3]]),
        log_scales=torch.tensor([[0.5, 0.25, 2.0]]).log(),
        quats=torch.tensor([[0.0, 3, 0, -3]]),
        logit_opacities=torch.tensor([0.0]),
        sh=torch.tensor([[[0.0, 99, -99]]]),
    )
    root = round(128 * 2**-0.5)
    rgba_and_quat = bytes([128, 255, 0, 128, 128, 128 + root, 128, 128 - root])
    assert to_splat(gaussian) == struct.pack("<6f", 1, 2, 3, 0.5, 0.25, 2) + rgba_and_quat


def test_a_byte_of_128_is_0_in_a_rotation():
    """Others read 2 b / 255 - 1, which turns an unrotated Gaussian by 0.78 degrees."""
    row = struct.pack("<6f", 1, 2, 3, 1, 1, 1) + bytes([0, 128, 255, 9]) + bytes([255, 128, 128, 128])
    back = from_splat(row)
    assert back.quats[0, 1:].tolist() == [0, 0, 0]
    assert to_splat(back) == row


@pytest.mark.parametrize(
    "read", [from_splat, lambda data: read_with_gaussforge(data, "splat")], ids=["ours", "gaussforge"]
)
def test_positions_and_scales_are_exact_and_the_rest_is_rounded(read):
    gaussians = some_splats()
    back = read(to_splat(gaussians))
    assert torch.equal(back.means, gaussians.means)
    torch.testing.assert_close(back.log_scales, gaussians.log_scales, atol=1e-5, rtol=0)
    assert float((back.opacities - gaussians.opacities).abs().max()) < HALF_A_STEP
    assert float((back.sh - gaussians.sh).abs().max()) * 0.2820948 < HALF_A_STEP
    assert float(degrees_between(back, gaussians).max()) < DEGREES


def test_higher_sh_coefficients_are_dropped():
    gaussians = some_splats(degree=2)
    assert to_splat(gaussians) == to_splat(Gaussians(**{**gaussians.tensors(), "sh": gaussians.sh[:, :1]}))


def test_incomplete_rows_are_refused():
    with pytest.raises(FormatError, match=r"^The \.splat has 33 bytes; expected a multiple of 32, one row per"):
        from_splat(bytes(33))
    with pytest.raises(FormatError, match=r"^The \.splat has 0 bytes"):
        from_splat(b"")
