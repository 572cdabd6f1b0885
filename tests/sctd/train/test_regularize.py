"""sctd.train.regularize: every term in closed form, finite gradients, and the disparity of a view."""

import math

import pytest
import torch

from sctd.recipe.scene import RegularizersConfig
from sctd.render.contract import Rendering
from sctd.scene.cameras import orbit
from sctd.scene.gaussians import Gaussians
from sctd.train import regularize


def gaussians(*, opacity: float = 0.5, scale: float = 0.1) -> Gaussians:
    num = 3
    return Gaussians(
        torch.zeros(num, 3),
        torch.full((num, 3), scale).log(),
        torch.ones(num, 4),
        torch.full((num,), opacity).logit(),
        torch.zeros(num, 1, 3),
    )


def rendering(alpha: torch.Tensor, depth: torch.Tensor | None = None, rgb: torch.Tensor | None = None) -> Rendering:
    views, height, width = alpha.shape
    return Rendering(
        torch.zeros(views, 3, height, width) if rgb is None else rgb,
        alpha,
        alpha.clone() if depth is None else depth,
        torch.zeros(views, 3, 2),
        torch.zeros(views, 3, dtype=torch.int32),
    )


def test_total_variation_of_a_ramp_and_of_a_checkerboard() -> None:
    ramp = torch.arange(8.0).expand(2, 3, 5, 8)
    assert float(regularize.total_variation(ramp)) == 1.0
    assert float(regularize.total_variation(3 * ramp.mT)) == 9.0
    checkerboard = (torch.arange(6)[:, None] + torch.arange(6)) % 2
    assert float(regularize.total_variation(checkerboard.float().expand(1, 3, 6, 6))) == 2.0
    assert float(regularize.total_variation(torch.full((1, 3, 4, 4), 0.7))) == 0.0


@pytest.mark.parametrize("opacity", [0.01, 0.5, 0.9])
def test_opacity_entropy_is_the_binary_entropy(opacity: float) -> None:
    expected = -opacity * math.log(opacity) - (1 - opacity) * math.log(1 - opacity)
    assert float(regularize.opacity_entropy(gaussians(opacity=opacity))) == pytest.approx(expected, rel=1e-5)


def test_opacity_entropy_and_its_gradient_are_finite_at_0_and_1() -> None:
    logits = torch.tensor([-200.0, 0.0, 200.0], requires_grad=True)
    plain = gaussians()
    end = Gaussians(plain.means, plain.log_scales, plain.quats, logits, plain.sh)
    entropy = regularize.opacity_entropy(end)
    (gradient,) = torch.autograd.grad(entropy, logits)
    assert float(entropy.detach()) == pytest.approx(math.log(2) / 3)
    assert torch.equal(gradient, torch.zeros(3))  # 0 at the maximum in the middle, too


def test_alpha_entropy_and_scales() -> None:
    assert float(regularize.alpha_entropy(torch.full((1, 2, 2), 0.5))) == 1.0
    assert float(regularize.alpha_entropy(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))) == 0.0
    assert float(regularize.alpha_entropy(torch.tensor([[[0.25, 1.0]]]))) == pytest.approx(0.375)
    assert float(regularize.oversize(gaussians(scale=0.2), 0.12)) == pytest.approx(0.08)
    assert float(regularize.oversize(gaussians(scale=0.1), 0.12)) == 0.0


def test_penalty_is_the_weighted_sum_and_0_without_weights() -> None:
    alpha = torch.full((2, 4, 4), 0.5)
    ramp = 0.1 * torch.arange(4.0).expand(2, 3, 4, 4)
    shown, cameras = rendering(alpha, rgb=ramp), orbit(2, 0.0, 3.5, 0.55, 4)
    weights = RegularizersConfig(
        total_variation=10,
        disparity_variation=5,  # no pixel is opaque, so the disparity is constant
        scale=2,
        oversize=3,
        oversize_limit=0.05,
        opacity_entropy=7,
        alpha_entropy=11,
    )
    total = regularize.penalty(weights, gaussians(), shown, cameras)
    expected = 10 * 0.01 + 2 * 0.1 + 3 * 0.05 + 7 * math.log(2) + 11 * 1
    assert float(total) == pytest.approx(expected, rel=1e-5)
    none = RegularizersConfig(total_variation=0, disparity_variation=0, scale=0)
    assert float(regularize.penalty(none, gaussians(), shown, cameras)) == 0.0


def test_disparity_ranges_from_the_farthest_to_the_nearest_opaque_pixel() -> None:
    alpha = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])
    depth = torch.tensor([[[2.0, 4.0, 3.0, 0.0]]])
    shown = regularize.disparity(rendering(alpha, depth), orbit(1, 0.0, 3.5, 0.55, 4))
    near, far = 1 / (2 + 1e-5), 1 / (4 + 1e-5)
    expected = [
        1.0,
        0.0,
        (1 / (3 + 1e-5) - far) / (near - far),
        0.0,
    ]  # empty: f/10, below the farthest
    torch.testing.assert_close(shown[0, 0, 0], torch.tensor(expected))


def test_disparity_of_an_empty_or_constant_view_is_zero_with_a_finite_gradient() -> None:
    alpha = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).requires_grad_()
    shown = regularize.disparity(rendering(alpha, 3 * alpha), orbit(2, 0.0, 3.5, 0.55, 4))
    assert not shown.detach().any()
    (gradient,) = torch.autograd.grad(shown.sum(), alpha)
    assert bool(gradient.isfinite().all())
