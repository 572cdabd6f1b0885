"""sctd.scene.densify: cloning, splitting, pruning, statistics and opacity resets."""

import math
from dataclasses import replace

import pytest
import torch

from sctd.recipe.scene import BoundsConfig, DensifyConfig
from sctd.scene import densify
from sctd.scene.densify import DensifyError
from sctd.scene.gaussians import Gaussians, rotations
from sctd.scene.population import Population
from tests.support.populations import assert_same_rows, generator, random_population, rows

SETTINGS = DensifyConfig(gradient_threshold_pixels=1.0, extent=1.0, percent_dense=0.1, prune_extent=0.5)
BOUNDS = BoundsConfig()


def with_gradient(start: Population, **gradients: float) -> Population:
    """Row n of `in=…` has that mean gradient, all other rows have 0."""
    total = torch.zeros(start.num)
    for name, gradient in gradients.items():
        total[int(name[1:])] = gradient
    return replace(start, gradient_sum=total, sightings=torch.ones(start.num))


def test_a_clone_has_the_position_of_its_parent_and_no_moments() -> None:
    start = with_gradient(random_population(), i2=1.01, i4=0.99)
    grown = densify.grow(start, SETTINGS, BOUNDS, generator())
    assert grown.num == 7
    assert_same_rows(grown.select(torch.arange(6)), start)
    assert torch.equal(rows(grown.gaussians)[6], rows(start.gaussians)[2])
    assert not rows(grown.first_moment)[6].any()
    assert not rows(grown.second_moment)[6].any()


def test_a_split_replaces_its_parent_by_two_smaller_children() -> None:
    start = with_gradient(random_population(scale=0.2), i2=2.0)
    grown = densify.grow(start, SETTINGS, BOUNDS, generator())
    assert grown.num == 7
    assert_same_rows(grown.select(torch.arange(5)), start.select(torch.tensor([0, 1, 3, 4, 5])))
    children, parent = grown.select(torch.tensor([5, 6])), start.gaussians.select(torch.tensor([2, 2]))
    torch.testing.assert_close(children.gaussians.scales, parent.scales / 1.6)
    for name in ("quats", "logit_opacities", "sh"):
        assert torch.equal(getattr(children.gaussians, name), getattr(parent, name))
    assert not rows(children.first_moment).any()
    assert not torch.equal(children.gaussians.means[0], children.gaussians.means[1])


def test_children_have_the_covariance_of_their_parent() -> None:
    parent = Gaussians(
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.tensor([[0.3, 0.1, 0.02]]).log(),
        torch.tensor([[0.9, 0.1, -0.3, 0.4]]),
        torch.zeros(1),
        torch.zeros(1, 1, 3),
    )
    many = Population.of(parent.select(torch.zeros(20_000, dtype=torch.long)))
    many = replace(many, gradient_sum=torch.full((20_000,), 2.0), sightings=torch.ones(20_000))
    means = densify.grow(many, SETTINGS, BOUNDS, generator()).gaussians.means.double()
    rotation = rotations(parent.quats)[0].double()
    expected = rotation @ torch.diag(parent.scales[0].double() ** 2) @ rotation.T
    # 40,000 draws: the standard error of a covariance is at most √2 · 0.09 / 200
    torch.testing.assert_close(means.T.cov(), expected, atol=4 * 0.09 * math.sqrt(2) / 200, rtol=0)
    torch.testing.assert_close(means.mean(0), parent.means[0].double(), atol=4 * 0.3 / 200, rtol=0)


def test_at_the_cap_the_largest_gradients_grow_first() -> None:
    start = with_gradient(random_population(), i0=2.0, i1=5.0, i3=4.0, i5=3.0)
    grown = densify.grow(start, SETTINGS, BoundsConfig(max_gaussians=8), generator())
    assert grown.num == 8
    assert torch.equal(rows(grown.gaussians)[6:], rows(start.gaussians)[[1, 3]])
    full = densify.grow(start, SETTINGS, BoundsConfig(max_gaussians=6), generator())
    assert_same_rows(full, start)
    over = densify.grow(start, SETTINGS, BoundsConfig(max_gaussians=3), generator())
    assert_same_rows(over, start)


def test_pruning_removes_transparent_and_later_large_gaussians() -> None:
    start = random_population()
    gaussians = start.gaussians
    logits = gaussians.logit_opacities.index_fill(0, torch.tensor([1]), math.log(0.0049 / 0.9951))
    log_scales = gaussians.log_scales.clone()
    log_scales[3, 1] = math.log(0.51)
    radius = torch.tensor([0.0, 0.0, 0.0, 0.0, 21.0, 20.0])
    start = replace(
        start, gaussians=replace(gaussians, logit_opacities=logits, log_scales=log_scales), largest_radius=radius
    )
    early = densify.prune(start, SETTINGS, large_too=False)
    assert_same_rows(early, start.select(torch.tensor([0, 2, 3, 4, 5])))
    late = densify.prune(start, SETTINGS, large_too=True)
    assert_same_rows(late, start.select(torch.tensor([0, 2, 5])))


def test_pruning_every_gaussian_is_refused() -> None:
    with pytest.raises(DensifyError, match=r"all 6 Gaussians \(largest opacity 0.003, densify.prune_opacity 0.005\)"):
        densify.prune(random_population(opacity=0.003), SETTINGS, large_too=False)


def test_densify_resets_the_statistics_and_prunes_large_gaussians_only_later() -> None:
    start = replace(with_gradient(random_population(), i0=3.0), largest_radius=torch.full((6,), 50.0))
    early = densify.densify(start, SETTINGS, BOUNDS, 300, generator())
    assert early.num == 7
    assert not any(tensor.any() for tensor in (early.gradient_sum, early.sightings, early.largest_radius))
    # only the clone has no large radius
    assert densify.densify(start, SETTINGS, BOUNDS, 301, generator()).num == 1


def test_statistics_come_from_every_view_in_which_a_gaussian_is_visible() -> None:
    gradients = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 2.0], [6.0, 8.0]], [[9.0, 9.0], [0.0, 0.5]]])
    radii = torch.tensor([[2, 0], [5, 7], [0, 1]], dtype=torch.int32)
    start = Population.of(random_population(2).gaussians)
    visible = densify.observe(start, gradients, radii)
    torch.testing.assert_close(visible.gradient_sum, torch.tensor([7.0, 10.5]))
    torch.testing.assert_close(visible.sightings, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(visible.largest_radius, torch.tensor([5.0, 7.0]))
    torch.testing.assert_close(visible.mean_gradient, torch.tensor([3.5, 5.25]))
    again = densify.observe(visible, gradients, torch.zeros_like(radii))
    assert torch.equal(again.mean_gradient, visible.mean_gradient)
    assert not start.mean_gradient.any()


def test_opacity_reset_only_lowers_opacities() -> None:
    start = random_population()
    logits = start.gaussians.logit_opacities.index_fill(0, torch.tensor([2]), -9.0)
    start = replace(start, gaussians=replace(start.gaussians, logit_opacities=logits))
    after = densify.reset_opacity(start, 0.01)
    assert float(after.gaussians.logit_opacities[2]) == -9.0
    torch.testing.assert_close(after.gaussians.opacities[[0, 1, 3, 4, 5]], torch.full((5,), 0.01))
    for moment in (after.first_moment, after.second_moment):
        assert not moment.logit_opacities.any()
    assert torch.equal(after.first_moment.means, start.first_moment.means)
    assert torch.equal(after.gaussians.means, start.gaussians.means)


def test_growing_with_the_same_seed_gives_the_same_bits() -> None:
    def once(seed: int) -> torch.Tensor:
        start = with_gradient(random_population(scale=0.2), i1=2)
        return rows(densify.grow(start, SETTINGS, BOUNDS, generator(seed)).gaussians)

    assert torch.equal(once(3), once(3))
    assert not torch.equal(once(3), once(4))
