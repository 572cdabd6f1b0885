"""sctd.scene.brightness: the measured brightness by hand, and which numbers dimming changes."""

import pytest
import torch

from sctd.scene.brightness import brightest, dimmed
from sctd.scene.gaussians import Gaussians, sh_to_rgb
from sctd.scene.population import Population
from tests.support.tiny_prior import ball, rows


def images_of(*greys: list[float]) -> torch.Tensor:
    """One row of pixels per view; each grey is the mean of three different channels."""
    tints = torch.tensor([0.9, 1.0, 1.1])[:, None, None]
    return torch.stack([tints * torch.tensor(grey)[None, None] for grey in greys])


def test_brightness_of_one_view_is_the_quantile_of_its_nonzero_pixels():
    """The 0.85 quantile of 0.1 … 0.5 is 0.4 of the way from the fourth to the fifth."""
    found = brightest(images_of([0.0, 0.3, 0.5, 0.0, 0.1, 0.2, 0.4, 0.0]), 0.85)
    assert found == pytest.approx(0.4 + 0.4 * 0.1)


def test_brightness_of_several_views_is_the_quantile_of_their_quantiles():
    """The medians of the views are 0.2, 0.4 and 0.9, so the median of these is 0.4."""
    images = images_of([0.1, 0.2, 0.3], [0.4, 0.4, 0.4], [0.0, 0.8, 1.0])
    assert brightest(images, 0.5) == pytest.approx(0.4)
    # At 0.25 the views have 0.15, 0.4 and 0.85; the result is half way between the first two.
    assert brightest(images, 0.25) == pytest.approx((0.15 + 0.4) / 2)


def test_black_views_are_ignored_and_all_black_is_0():
    dark, bright = [0.0, 0.0], [0.6, 0.6]
    assert brightest(images_of(dark, bright, dark), 0.85) == pytest.approx(0.6)
    assert brightest(images_of(dark, dark), 0.85) == 0


def test_a_pixel_counts_if_any_channel_is_nonzero():
    images = torch.zeros(1, 3, 1, 2)
    images[0, 2, 0, 0] = 0.9
    assert brightest(images, 0.5) == pytest.approx(0.3)


def population() -> Population:
    """SH of degree 1, all coefficients nonzero."""
    gaussians = ball(7)
    four = Gaussians(**{**gaussians.tensors(), "sh": torch.rand(7, 4, 3) + 0.1})
    return Population(four, four.map(torch.ones_like), four.map(torch.ones_like), *[torch.ones(7)] * 3)


def test_dimming_scales_colours_towards_mid_grey_and_resets_their_moments():
    before = population()
    after = dimmed(before, 0.8)
    torch.testing.assert_close(after.gaussians.sh, 0.8 * before.gaussians.sh)
    away = sh_to_rgb(before.gaussians.sh[:, 0]) - 0.5
    torch.testing.assert_close(sh_to_rgb(after.gaussians.sh[:, 0]) - 0.5, 0.8 * away)
    for moment in (after.first_moment, after.second_moment):
        assert not moment.sh.any()


def test_dimming_changes_nothing_else():
    before = population()
    after = dimmed(before, 0.8)
    for part in ("gaussians", "first_moment", "second_moment"):
        old, new = (getattr(population, part).tensors() for population in (before, after))
        assert all(torch.equal(old[name], new[name]) for name in old if name != "sh")
    assert torch.equal(rows(before.gaussians)[:, -12:], before.gaussians.sh.flatten(1))  # the argument is unchanged
    assert torch.equal(before.first_moment.sh, torch.ones(7, 4, 3))
    assert after.gradient_sum is before.gradient_sum
