"""sctd.formats.axes: a rotated object looks the same from rotated cameras, and rotating back restores it."""

import pytest
import torch

from sctd.formats.axes import AXES, axes, rotated
from tests.support.splats import degrees_between, some_splats


def some_rotation() -> torch.Tensor:
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rotation, _ = torch.linalg.qr(matrix)
    return rotation * torch.linalg.det(rotation)


def covariances(gaussians):
    w, x, y, z = torch.nn.functional.normalize(gaussians.quats, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    factor = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1) * gaussians.scales[:, None]
    return factor @ factor.mT


@pytest.mark.parametrize("up", AXES)
def test_axes_are_right_handed_with_the_named_up_axis(up):
    rotation = axes(up)
    assert torch.linalg.det(rotation) == 1
    assert torch.equal(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    along, sign = rotation @ torch.tensor([0.0, 0, 1]).double(), -1.0 if up.startswith("-") else 1.0
    assert along["xyz".index(up[-1])] == sign


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colours_shapes_and_positions_rotate_together(degree):
    gaussians, rotation = some_splats(20, degree), some_rotation()
    after, turn = rotated(gaussians, rotation), rotation.float()
    cameras = torch.tensor([[3.0, 1, -2], [-1, 4, 2]])
    torch.testing.assert_close(after.means, gaussians.means @ turn.T)
    torch.testing.assert_close(after.colors(cameras @ turn.T), gaussians.colors(cameras), atol=1e-5, rtol=0)
    torch.testing.assert_close(covariances(after), turn @ covariances(gaussians) @ turn.T, atol=1e-6, rtol=0)


@pytest.mark.parametrize("up", AXES)
def test_rotating_back_restores_the_gaussians(up):
    gaussians = some_splats(20, 3)
    back = rotated(rotated(gaussians, axes(up)), axes(up).T)
    assert torch.equal(back.means, gaussians.means)
    assert float(degrees_between(back, gaussians).max()) < 1e-4
    torch.testing.assert_close(back.sh, gaussians.sh, atol=1e-6, rtol=0)
