"""sctd.scene.bounds: what is outside the bounds is clamped, what is inside stays."""

import math

import torch

from sctd.recipe.scene import BoundsConfig
from sctd.scene.bounds import clamp_to_bounds
from sctd.scene.gaussians import Gaussians


def test_gaussians_are_clamped_to_the_bounds_and_unchanged_inside() -> None:
    inside = Gaussians(
        torch.tensor([[0.5, 0.5, 0.5], [3.0, 4.0, 0.0]]),
        torch.tensor([[-2.0, -9.0, 2.0], [-2.0, -2.0, -2.0]]),
        torch.ones(2, 4),
        torch.tensor([99.0, -99.0]),
        torch.tensor([[[0.1, 9.0, -9.0]], [[0.0, 0.0, 0.0]]]),
    )
    kept = clamp_to_bounds(inside, BoundsConfig(radius=1, scale=(0.01, 0.5)))
    torch.testing.assert_close(kept.means, torch.tensor([[0.5, 0.5, 0.5], [0.6, 0.8, 0.0]]))
    torch.testing.assert_close(kept.scales[0], torch.tensor([math.exp(-2), 0.01, 0.5]))
    torch.testing.assert_close(0.5 + 0.28209479 * kept.sh[0, 0], torch.tensor([0.5282095, 1.0, 0.0]), atol=1e-6, rtol=0)
    assert torch.equal(kept.means[0], inside.means[0])
    assert torch.equal(kept.quats, inside.quats)
    assert torch.equal(kept.logit_opacities, inside.logit_opacities)
    free = clamp_to_bounds(inside, BoundsConfig(radius=1, scale=(0.01, 0.5), colour=False))
    assert torch.equal(free.sh, inside.sh)
