"""sctd.scene.relocate: dead Gaussians move next to live ones and share their opacity."""

from dataclasses import replace

import pytest
import torch

from sctd.recipe.scene import RelocateConfig
from sctd.scene.population import Population
from sctd.scene.relocate import relocate
from tests.support.populations import assert_same_rows, generator, random_population, rows


def partly_dead(num: int = 6, dead: tuple[int, ...] = (1, 4)) -> Population:
    start = random_population(num)
    logits = start.gaussians.logit_opacities.index_fill(0, torch.tensor(dead), -6.0)
    return replace(start, gaussians=replace(start.gaussians, logit_opacities=logits))


def test_relocation_changes_only_dead_gaussians_and_their_sources() -> None:
    start = partly_dead()
    moved = relocate(start, RelocateConfig(spread=0), generator())
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


def test_relocated_gaussians_occlude_together_as_much_as_their_source() -> None:
    start = partly_dead(3, dead=(0, 2))  # 1 is the only possible source
    moved = relocate(start, RelocateConfig(spread=0), generator())
    through = (1 - moved.gaussians.opacities).prod()
    torch.testing.assert_close(through, 1 - start.gaussians.opacities[1])


def test_sources_are_drawn_in_proportion_to_opacity_times_size() -> None:
    start = partly_dead(4003, dead=tuple(range(3, 4003)))
    log_scales = start.gaussians.log_scales.clone()
    log_scales[:3] = torch.tensor([0.01, 0.01, 0.03]).log()[:, None]
    logits = start.gaussians.logit_opacities.clone()
    logits[:3] = torch.tensor([0.2, 0.6, 0.4]).logit()  # × size: 2 : 6 : 12
    start = replace(start, gaussians=replace(start.gaussians, log_scales=log_scales, logit_opacities=logits))
    moved = relocate(start, RelocateConfig(spread=0), generator())
    to = torch.cdist(moved.gaussians.means[3:], start.gaussians.means[:3]).argmin(dim=1).bincount(minlength=3) / 4000
    torch.testing.assert_close(to, torch.tensor([0.1, 0.3, 0.6]), atol=0.03, rtol=0)


def test_nothing_moves_if_no_or_all_gaussians_are_dead() -> None:
    for start in (random_population(), random_population(opacity=0.01)):
        assert relocate(start, RelocateConfig(), generator()) is start


def test_relocating_with_the_same_seed_gives_the_same_bits() -> None:
    def once(seed: int) -> torch.Tensor:
        return rows(relocate(partly_dead(), RelocateConfig(), generator(seed)).gaussians)

    assert torch.equal(once(3), once(3))
    assert not torch.equal(once(3), once(4))
