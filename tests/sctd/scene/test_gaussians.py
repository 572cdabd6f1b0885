"""sctd.scene.gaussians: selection, concatenation and view-dependent colour."""

import math

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y

from sctd.scene.gaussians import SH_C0, Gaussians, rgb_to_sh, rotations, sh_basis, sh_degree, sh_to_rgb


def random_gaussians(num: int, degree: int = 0, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    shapes = (num, 3), (num, 3), (num, 4), (num,), (num, (degree + 1) ** 2, 3)
    return Gaussians(*(torch.randn(shape, generator=generator) for shape in shapes))


def test_select_takes_rows_by_index_with_repeats_and_by_mask():
    gaussians = random_gaussians(4)
    picked = gaussians.select(torch.tensor([2, 2, 0]))
    masked = gaussians.select(torch.tensor([True, False, True, False]))
    for name, tensor in gaussians.tensors().items():
        assert torch.equal(picked.tensors()[name], tensor[[2, 2, 0]])
        assert torch.equal(masked.tensors()[name], tensor[[0, 2]])
    assert (picked.num, masked.num) == (3, 2)


def test_concatenate_keeps_order_and_undoes_a_split():
    gaussians = random_gaussians(5, degree=1)
    parts = [gaussians.select(torch.tensor(index)) for index in ([0, 1], [2], [3, 4])]
    whole = parts[0].concatenate(*parts[1:])
    assert all(torch.equal(whole.tensors()[name], tensor) for name, tensor in gaussians.tensors().items())


def test_concatenate_refuses_mixed_degrees():
    with pytest.raises(ValueError, match=r"SH degrees \[0, 2\] cannot be concatenated"):
        random_gaussians(1).concatenate(random_gaussians(1, degree=2))


def test_sh_degree_follows_from_the_number_of_basis_functions():
    assert [sh_degree(num) for num in (1, 4, 9, 16)] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="5 spherical harmonics per Gaussian; expected 1, 4, 9 or 16"):
        sh_degree(5)


def test_properties_are_scales_and_opacities():
    gaussians = random_gaussians(3)
    assert torch.equal(gaussians.scales, gaussians.log_scales.exp())
    assert torch.equal(gaussians.opacities, gaussians.logit_opacities.sigmoid())


def test_sh_basis_matches_scipy():
    # 3DGS keeps the Condon-Shortley phase: √2 Re Y_l^m for m > 0, √2 Im Y_l^|m| for m < 0, in the order m = -l … l.
    directions = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double())
    x, y, z = directions.numpy().T
    theta, phi = np.arccos(z), np.arctan2(y, x)
    expected = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(order), theta, phi)
            expected.append(value.real if order == 0 else math.sqrt(2) * (value.real if order > 0 else value.imag))
    for degree in range(4):
        basis = sh_basis(directions, degree).numpy()
        np.testing.assert_allclose(basis, np.stack(expected[: (degree + 1) ** 2], axis=1), atol=1e-12)


def test_color_of_degree_0_is_view_independent_and_not_negative():
    gaussians = random_gaussians(6)
    colors = gaussians.colors(torch.randn(3, 3))
    assert torch.equal(colors, (0.5 + SH_C0 * gaussians.sh[:, 0]).clamp_min(0).expand(3, -1, -1))
    assert float(colors.min()) == 0


def test_color_direction_is_from_the_camera_to_the_gaussian():
    # Only the basis function of z: from above the direction is downwards, so the red term is negative.
    sh = torch.zeros(1, 4, 3)
    sh[0, 2, 0] = 0.5
    gaussians = Gaussians(torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(1, 4), torch.zeros(1), sh)
    above, below = gaussians.colors(torch.tensor([[0.0, 0, 2], [0, 0, -3]]))
    term = 0.5 * math.sqrt(3 / (4 * math.pi))
    assert above[0].tolist() == pytest.approx([0.5 - term, 0.5, 0.5])
    assert below[0].tolist() == pytest.approx([0.5 + term, 0.5, 0.5])


def test_rgb_and_constant_sh_coefficient_are_inverse():
    rgb = torch.tensor([0.0, 0.25, 1.0])
    assert sh_to_rgb(rgb_to_sh(rgb)).tolist() == pytest.approx(rgb.tolist(), abs=1e-7)
    assert float(rgb_to_sh(torch.tensor([0.5]))) == 0


def test_rotations_match_their_quaternions():
    quarter_turn_about_z = torch.tensor([[math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]])
    expected = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    torch.testing.assert_close(rotations(3 * quarter_turn_about_z), expected, atol=1e-6, rtol=0)
    random = rotations(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(random @ random.mT, torch.eye(3).expand(50, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(random), torch.ones(50))
