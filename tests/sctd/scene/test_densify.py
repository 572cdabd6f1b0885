import math
from dataclasses import replace

import pytest
import torch

from sctd.recipe.scene import Bounds, Densify, Relocate
from sctd.scene import densify
from sctd.scene.densify import DensifyError, Population
from sctd.scene.gaussians import Gaussians

SETTINGS = Densify(gradient_threshold_pixels=1.0, extent=1.0, percent_dense=0.1, prune_extent=0.5)
BOUNDS = Bounds()


def population(num: int = 6, *, scale: float = 0.05, opacity: float = 0.5, seed: int = 0) -> Population:
    """Every number differs from every other, moments and statistics included."""
    generator = torch.Generator().manual_seed(seed)

    def gaussians() -> Gaussians:
        return Gaussians(
            torch.randn(num, 3, generator=generator),
            torch.full((num, 3), scale).log() - 0.01 * torch.rand(num, 3, generator=generator),
            torch.randn(num, 4, generator=generator),
            torch.full((num,), opacity).logit() + 0.01 * torch.rand(num, generator=generator),
            torch.randn(num, 1, 3, generator=generator),
        )

    statistics = torch.rand(3, num, generator=generator)
    return Population(gaussians(), gaussians(), gaussians(), 0.1 * statistics[0], statistics[1], statistics[2])


def with_gradient(start: Population, **gradients: float) -> Population:
    """Row i<n> has that mean gradient, all others 0."""
    total = torch.zeros(start.num)
    for name, gradient in gradients.items():
        total[int(name[1:])] = gradient
    return replace(start, gradient_sum=total, sightings=torch.ones(start.num))


def rows(gaussians: Gaussians) -> torch.Tensor:
    return torch.cat([tensor.reshape(gaussians.num, -1) for tensor in gaussians.tensors().values()], dim=1)


def assert_same_rows(left: Population, right: Population) -> None:
    for name in ("gaussians", "first_moment", "second_moment"):
        assert torch.equal(rows(getattr(left, name)), rows(getattr(right, name))), name


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_clone_lies_on_its_parent_and_has_no_moments() -> None:
    start = with_gradient(population(), i2=1.01, i4=0.99)
    grown = densify.grow(start, SETTINGS, BOUNDS, generator())
    assert grown.num == 7
    assert_same_rows(grown.select(torch.arange(6)), start)
    assert torch.equal(rows(grown.gaussians)[6], rows(start.gaussians)[2])
    assert not rows(grown.first_moment)[6].any()
    assert not rows(grown.second_moment)[6].any()


def test_a_split_replaces_its_parent_by_two_smaller_children_drawn_from_it() -> None:
    start = with_gradient(population(scale=0.2), i2=2.0)
    grown = densify.grow(start, SETTINGS, BOUNDS, generator())
    assert grown.num == 7
    assert_same_rows(grown.select(torch.arange(5)), start.select(torch.tensor([0, 1, 3, 4, 5])))
    children, parent = grown.select(torch.tensor([5, 6])), start.gaussians.select(torch.tensor([2, 2]))
    torch.testing.assert_close(children.gaussians.scales, parent.scales / 1.6)
    for name in ("quats", "logit_opacities", "sh"):
        assert torch.equal(getattr(children.gaussians, name), getattr(parent, name))
    assert not rows(children.first_moment).any()
    assert not torch.equal(children.gaussians.means[0], children.gaussians.means[1])


def test_children_follow_the_parents_covariance() -> None:
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
    rotation = densify.rotations(parent.quats)[0].double()
    expected = rotation @ torch.diag(parent.scales[0].double() ** 2) @ rotation.T
    # 40,000 draws: the standard error of a covariance is at most √2 · 0.09 / 200
    torch.testing.assert_close(means.T.cov(), expected, atol=4 * 0.09 * math.sqrt(2) / 200, rtol=0)
    torch.testing.assert_close(means.mean(0), parent.means[0].double(), atol=4 * 0.3 / 200, rtol=0)


def test_rotations_are_those_of_the_quaternion() -> None:
    quarter_turn_about_z = torch.tensor([[math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]])
    expected = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    torch.testing.assert_close(densify.rotations(3 * quarter_turn_about_z), expected, atol=1e-6, rtol=0)
    random = densify.rotations(torch.randn(50, 4, generator=generator()))
    torch.testing.assert_close(random @ random.mT, torch.eye(3).expand(50, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(random), torch.ones(50))


def test_at_the_cap_the_largest_gradients_grow_first() -> None:
    start = with_gradient(population(), i0=2.0, i1=5.0, i3=4.0, i5=3.0)
    grown = densify.grow(start, SETTINGS, Bounds(max_gaussians=8), generator())
    assert grown.num == 8
    assert torch.equal(rows(grown.gaussians)[6:], rows(start.gaussians)[[1, 3]])
    full = densify.grow(start, SETTINGS, Bounds(max_gaussians=6), generator())
    assert_same_rows(full, start)
    over = densify.grow(start, SETTINGS, Bounds(max_gaussians=3), generator())
    assert_same_rows(over, start)


def test_pruning_drops_the_transparent_and_later_the_large() -> None:
    start = population()
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


def test_nothing_left_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DensifyError, match=r"all 6 Gaussians \(largest opacity 0.003, densify.prune_opacity 0.005\)"):
        densify.prune(population(opacity=0.003), SETTINGS, large_too=False)


def test_densify_forgets_the_statistics_and_prunes_the_large_only_when_told() -> None:
    start = replace(with_gradient(population(), i0=3.0), largest_radius=torch.full((6,), 50.0))
    early = densify.densify(start, SETTINGS, BOUNDS, 300, generator())
    assert early.num == 7
    assert not any(tensor.any() for tensor in (early.gradient_sum, early.sightings, early.largest_radius))
    # the clone alone has not been seen large
    assert densify.densify(start, SETTINGS, BOUNDS, 301, generator()).num == 1


def test_statistics_come_from_every_view_that_saw_the_gaussian() -> None:
    gradients = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 2.0], [6.0, 8.0]], [[9.0, 9.0], [0.0, 0.5]]])
    radii = torch.tensor([[2, 0], [5, 7], [0, 1]], dtype=torch.int32)
    start = Population.of(population(2).gaussians)
    seen = densify.observe(start, gradients, radii)
    torch.testing.assert_close(seen.gradient_sum, torch.tensor([7.0, 10.5]))
    torch.testing.assert_close(seen.sightings, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(seen.largest_radius, torch.tensor([5.0, 7.0]))
    torch.testing.assert_close(seen.mean_gradient, torch.tensor([3.5, 5.25]))
    again = densify.observe(seen, gradients, torch.zeros_like(radii))
    assert torch.equal(again.mean_gradient, seen.mean_gradient)
    assert not start.mean_gradient.any()


def test_opacity_reset_lowers_and_never_raises() -> None:
    start = population()
    logits = start.gaussians.logit_opacities.index_fill(0, torch.tensor([2]), -9.0)
    start = replace(start, gaussians=replace(start.gaussians, logit_opacities=logits))
    after = densify.reset_opacity(start, 0.01)
    assert float(after.gaussians.logit_opacities[2]) == -9.0
    torch.testing.assert_close(after.gaussians.opacities[[0, 1, 3, 4, 5]], torch.full((5,), 0.01))
    for moment in (after.first_moment, after.second_moment):
        assert not moment.logit_opacities.any()
    assert torch.equal(after.first_moment.means, start.first_moment.means)
    assert torch.equal(after.gaussians.means, start.gaussians.means)


def dying(num: int = 6, dead: tuple[int, ...] = (1, 4)) -> Population:
    start = population(num)
    logits = start.gaussians.logit_opacities.index_fill(0, torch.tensor(dead), -6.0)
    return replace(start, gaussians=replace(start.gaussians, logit_opacities=logits))


def test_relocation_moves_the_dead_and_touches_only_them_and_their_sources() -> None:
    start = dying()
    moved = densify.relocate(start, Relocate(spread=0), generator())
    assert moved.num == start.num
    changed = (rows(moved.gaussians) != rows(start.gaussians)).any(dim=1)
    assert changed[[1, 4]].all()
    sources = [
        int((start.gaussians.means == moved.gaussians.means[dead]).all(dim=1).nonzero()[0, 0]) for dead in (1, 4)
    ]
    assert not set(sources) & {1, 4}
    untouched = torch.tensor([i for i in range(6) if i not in (1, 4, *sources)])
    assert_same_rows(moved.select(untouched), start.select(untouched))
    for dead, source in zip((1, 4), sources, strict=True):
        together = 1 + sources.count(source)
        share = 1 - (1 - float(start.gaussians.opacities[source])) ** (1 / together)
        assert float(moved.gaussians.opacities[dead]) == pytest.approx(share, rel=1e-5)
        assert float(moved.gaussians.opacities[source]) == pytest.approx(share, rel=1e-5)
        torch.testing.assert_close(moved.gaussians.log_scales[dead], start.gaussians.log_scales[source] - 0.2)
        assert not rows(moved.first_moment)[dead].any()
        assert torch.equal(rows(moved.second_moment)[dead], rows(start.second_moment)[source])
        assert torch.equal(rows(moved.first_moment)[source], rows(start.first_moment)[source])


def test_relocated_gaussians_hide_as_much_together_as_their_source_did() -> None:
    start = dying(3, dead=(0, 2))  # both must go to 1
    moved = densify.relocate(start, Relocate(spread=0), generator())
    through = (1 - moved.gaussians.opacities).prod()
    torch.testing.assert_close(through, 1 - start.gaussians.opacities[1])


def test_sources_are_drawn_by_opacity_times_size() -> None:
    start = dying(4003, dead=tuple(range(3, 4003)))
    log_scales = start.gaussians.log_scales.clone()
    log_scales[:3] = torch.tensor([0.01, 0.01, 0.03]).log()[:, None]
    logits = start.gaussians.logit_opacities.clone()
    logits[:3] = torch.tensor([0.2, 0.6, 0.4]).logit()  # × size: 2 : 6 : 12
    start = replace(start, gaussians=replace(start.gaussians, log_scales=log_scales, logit_opacities=logits))
    moved = densify.relocate(start, Relocate(spread=0), generator())
    to = torch.cdist(moved.gaussians.means[3:], start.gaussians.means[:3]).argmin(dim=1).bincount(minlength=3) / 4000
    torch.testing.assert_close(to, torch.tensor([0.1, 0.3, 0.6]), atol=0.03, rtol=0)


def test_where_none_or_all_are_dead_nothing_moves() -> None:
    for start in (population(), population(opacity=0.01)):
        assert densify.relocate(start, Relocate(), generator()) is start


def test_bounds_hold_and_leave_what_is_inside() -> None:
    inside = Gaussians(
        torch.tensor([[0.5, 0.5, 0.5], [3.0, 4.0, 0.0]]),
        torch.tensor([[-2.0, -9.0, 2.0], [-2.0, -2.0, -2.0]]),
        torch.ones(2, 4),
        torch.tensor([99.0, -99.0]),
        torch.tensor([[[0.1, 9.0, -9.0]], [[0.0, 0.0, 0.0]]]),
    )
    kept = densify.bounded(inside, Bounds(radius=1, scale=(0.01, 0.5)))
    torch.testing.assert_close(kept.means, torch.tensor([[0.5, 0.5, 0.5], [0.6, 0.8, 0.0]]))
    torch.testing.assert_close(kept.scales[0], torch.tensor([math.exp(-2), 0.01, 0.5]))
    torch.testing.assert_close(0.5 + 0.28209479 * kept.sh[0, 0], torch.tensor([0.5282095, 1.0, 0.0]), atol=1e-6, rtol=0)
    assert torch.equal(kept.means[0], inside.means[0])
    assert torch.equal(kept.quats, inside.quats)
    assert torch.equal(kept.logit_opacities, inside.logit_opacities)
    free = densify.bounded(inside, Bounds(radius=1, scale=(0.01, 0.5), colour=False))
    assert torch.equal(free.sh, inside.sh)


@pytest.mark.parametrize("operation", ["grow", "relocate"])
def test_the_same_seed_gives_the_same_bits(operation: str) -> None:
    def once(seed: int) -> torch.Tensor:
        if operation == "relocate":
            return rows(densify.relocate(dying(), Relocate(), generator(seed)).gaussians)
        return rows(
            densify.grow(with_gradient(population(scale=0.2), i1=2), SETTINGS, BOUNDS, generator(seed)).gaussians
        )

    assert torch.equal(once(3), once(3))
    assert not torch.equal(once(3), once(4))
