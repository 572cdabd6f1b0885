import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sctd.formats.axes import transformed
from sctd.scene.enclosing import WIDTHS, circle_centre, upright_ball, visible_points
from sctd.scene.gaussians import Gaussians


def turned(points, degrees):
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def gaussians(num=2000, **changes):
    random = torch.Generator().manual_seed(0)
    made = Gaussians(
        means=torch.randn(num, 3, generator=random),
        log_scales=torch.full((num, 3), -4.0),
        quats=torch.randn(num, 4, generator=random),
        logit_opacities=torch.ones(num),
        sh=torch.zeros(num, 1, 3),
    )
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("points", "centre"),
    [
        ([[0, 0]], [0, 0]),
        ([[0, 0], [2, 0]], [1, 0]),
        ([[0, 0], [4, 0], [1, 1]], [2, 0]),  # obtuse: the longest side is a diameter
        ([[0, 0], [2, 0], [1, 2]], [1, 0.75]),  # acute: the circumcircle
        ([[0, 0], [2, 0], [0, 2], [2, 2], [1, 1]], [1, 1]),
        ([[3, 3], [3, 3], [3, 3], [3, 3], [3, 3]], [3, 3]),
        ([[i, i] for i in range(9)], [4, 4]),  # on a line, without a hull
    ],
)
def test_the_smallest_circle_of_known_points(points, centre):
    assert circle_centre(np.array(points, float)) == pytest.approx(np.array(centre, float), abs=2e-3)


def test_the_ball_of_a_box_is_around_its_middle():
    corners = np.array([[x, y, z] for x in (1, 3) for y in (-1, 1) for z in (5, 8)], float)
    ball = upright_ball(corners)
    assert ball.centre == pytest.approx([2, 0, 6.5], abs=1e-3)
    assert ball.radius == pytest.approx(math.sqrt(1 + 1 + 1.5**2), abs=1e-3)


def test_it_turns_scales_and_moves_with_its_points():
    points = np.random.default_rng(0).normal(size=(500, 3)) * [1, 2, 0.5]
    ball, copy = upright_ball(points), upright_ball(7 * turned(points, 37) + [1, -2, 3])
    assert copy.radius == pytest.approx(7 * ball.radius, rel=1e-6)
    assert copy.centre == pytest.approx(7 * turned(ball.centre, 37) + [1, -2, 3], abs=1e-5)


def test_gaussians_are_visible_up_to_their_width():
    one = gaussians(1, means=torch.tensor([[1.0, 2.0, 3.0]]), log_scales=torch.tensor([[0.5, 1.0, 2.0]]).log())
    one = replace(one, quats=torch.tensor([[math.sqrt(0.5), 0, 0, math.sqrt(0.5)]]))  # x to y
    ends = WIDTHS * np.array([[0, 0.5, 0], [0, -0.5, 0], [-1, 0, 0], [1, 0, 0], [0, 0, 2], [0, 0, -2]]) + [1, 2, 3]
    assert visible_points(one) == pytest.approx(ends, abs=1e-5)


def test_a_few_floaters_and_transparent_gaussians_do_not_count():
    plain, means = gaussians(), gaussians().means.clone()
    means[:5] = 1000
    assert upright_ball(visible_points(gaussians(means=means))).radius < 5
    logits = torch.ones(2000)
    logits[:500], means = -5, plain.means.clone()
    means[:500] *= 50
    assert upright_ball(visible_points(gaussians(means=means, logit_opacities=logits))).radius < 5


def test_visible_points_turn_with_the_gaussians():
    ours = gaussians(means=gaussians().means * torch.tensor([1.0, 3.0, 0.5]))
    cos, sin = math.cos(math.radians(210)), math.sin(math.radians(210))
    copy = transformed(
        ours, torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float64), 2.0, torch.ones(3)
    )
    assert visible_points(copy) == pytest.approx(2 * turned(visible_points(ours), 210) + 1, abs=1e-4)


def test_if_all_are_transparent_all_count():
    assert len(visible_points(gaussians(logit_opacities=torch.full((2000,), -9.0)))) == 6 * 1990
