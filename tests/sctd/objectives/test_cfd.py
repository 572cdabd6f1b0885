import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sctd.diffusion.guidance import cfg
from sctd.diffusion.times import Times
from sctd.experiments.testbed import evaluate, settings
from sctd.objectives.cfd import CELLS, cells_of, cfd, init, seen, update
from sctd.recipe.methods import for_objective
from sctd.render.rasterize import render
from sctd.scene.cameras import on_sphere
from sctd.scene.gaussians import Gaussians
from sctd.train import optimize
from sctd.train.gradient import LoopOptions
from tests.support.analytic import Mixture, mixture
from tests.support.tiny_prior import TinyPrior, ball, recipe, same

AT_560 = Times(560, 560, 560)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=random(seed), dtype=torch.float64)


def arguments(world: Mixture, *, scale: float = 7.5) -> dict[str, Any]:
    """Three views of 4 × 4 pixels in 2 × 2 latent pixels, a few of them without surface."""
    z_0, noise = normal(2, 3, *world.means.shape[1:])
    given = {"z_0": z_0, "denoise": cfg(world, scale, world.null), "text": world.text([0], 3), "noise": noise}
    alpha = torch.rand(3, 4, 4, generator=random()).double()
    surfaces = {"alpha": alpha, "positions": normal(3, 3, 4, 4, seed=1), "state": {"surface": normal(256, 4, seed=2)}}
    return given | {"times": AT_560, "schedule": world.schedule} | surfaces


def consistent_noise(W: Tensor, positions: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """The formula, pixel by pixel: ε̃(p) = |Ω_p|^(−1/2) Σ_{i∈Ω_p} W_i."""
    views, channels, _, width = background.shape
    size = alpha.shape[-1] // width
    found = background.clone()
    for view in range(views):
        omega: dict[tuple[int, int], set[int]] = {}
        taken: set[int] = set()
        for y, x in ((y, x) for y in range(alpha.shape[1]) for x in range(alpha.shape[2])):
            if alpha[view, y, x] <= 0.1:
                continue
            i, j, k = (math.floor(width * float(each)) for each in positions[view, :, y, x])
            cell = (i * 73856093 + j * 19349663 + k * 83492791) % len(W)
            if cell not in taken:
                omega.setdefault((y // size, x // size), set()).add(cell)
            taken.add(cell)
        for (y, x), cells in omega.items():
            for channel in range(channels):
                found[view, channel, y, x] = sum(float(W[i, channel]) for i in cells) / math.sqrt(len(cells))
    return found


def test_it_is_sds_with_the_noise_of_the_surface() -> None:
    given = arguments(mixture(5, spread=0.3))
    eps = consistent_noise(given["state"]["surface"], given["positions"], given["alpha"], given["noise"])
    assert not torch.equal(eps, given["noise"])
    z_t = given["schedule"].alpha[560] * given["z_0"] + given["schedule"].sigma[560] * eps
    torch.testing.assert_close(cfd(**given), given["denoise"](z_t, 560, given["text"]) - eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("surfaces", [{"alpha": None, "positions": None}, {"alpha": torch.full((3, 4, 4), 0.1)}])
def test_without_surfaces_it_is_sds_with_the_noise_of_the_run(surfaces: dict[str, Any]) -> None:
    given = arguments(mixture(5, spread=0.3)) | surfaces
    z_t = given["schedule"].noised(given["z_0"], given["noise"], 560)
    assert torch.equal(cfd(**given), given["denoise"](z_t, 560, given["text"]) - given["noise"])


def test_for_data_at_one_point_it_points_there_with_any_noise() -> None:
    """(z_0 − point)/k_t, as SDS."""
    world = mixture(1, spread=0.0)
    given = arguments(world)
    expected = (given["z_0"] - world.means[0]) / world.schedule.k[560]
    torch.testing.assert_close(cfd(**given), expected, rtol=1e-9, atol=1e-9)


def test_number_of_unet_evaluations() -> None:
    world = mixture(5, spread=0.3)
    cfd(**arguments(world))
    assert (world.calls, world.samples) == (1, 3 * 2)


@pytest.mark.parametrize("spread", [0.05, 0.4, 5.0])
@pytest.mark.parametrize("cells", [7, 64, 4096])
def test_the_noise_is_the_formula(spread: float, cells: int) -> None:
    """Few and many pixels in a cell, few and many cells with one vector."""
    W, background = normal(cells, 3), normal(2, 3, 4, 4, seed=1)
    positions, alpha = spread * normal(2, 3, 16, 16, seed=2), torch.rand(2, 16, 16, generator=random(3))
    found = seen(W, cells_of(positions, 4, cells), alpha > 0.1, background)
    torch.testing.assert_close(found, consistent_noise(W, positions, alpha, background), rtol=1e-8, atol=1e-8)


def everywhere(cells: Tensor) -> Tensor:
    return torch.ones(cells.shape, dtype=torch.bool)


def test_one_cell_in_a_pixel_gives_its_vector_and_k_cells_their_sum_over_the_root_of_k() -> None:
    W, background = normal(64, 4), normal(1, 4, 2, 2, seed=1)
    one = torch.tensor([[[5, 5, 6, 6], [5, 5, 6, 6], [7, 7, 8, 8], [7, 7, 8, 8]]])
    assert torch.equal(seen(W, one, everywhere(one), background)[0].flatten(1).T, W[5:9])
    three = torch.tensor([[[5, 9, 6, 6], [5, 10, 6, 6], [7, 7, 8, 8], [7, 7, 8, 8]]])
    found = seen(W, three, everywhere(three), background)[0, :, 0, 0]
    torch.testing.assert_close(found, (W[5] + W[9] + W[10]) / 3**0.5)


def test_a_cell_belongs_to_the_first_of_the_pixels_that_see_it() -> None:
    W, background = normal(64, 4), normal(1, 4, 1, 2, seed=1)
    cells = torch.tensor([[[5, 6, 6, 6], [5, 6, 6, 6]]])
    found = seen(W, cells, everywhere(cells), background)[0, :, 0]
    torch.testing.assert_close(found[:, 0], (W[5] + W[6]) / 2**0.5)
    assert torch.equal(found[:, 1], background[0, :, 0, 1])  # no cell is left


def test_pixels_of_a_view_are_independent_standard_normals() -> None:
    """The covariance over 40,000 channels is the identity, for a surface whose cells lie across pixels."""
    positions = torch.cumsum(0.1 * torch.rand(1, 3, 16, 16, generator=random()), dim=-1)
    W, background = torch.randn(256, 40_000, generator=random(1)), torch.randn(1, 40_000, 4, 4, generator=random(2))
    cells = cells_of(positions, 4, len(W))
    rows, columns = (cells[:, 3:-1:4] == cells[:, 4::4]), (cells[..., 3:-1:4] == cells[..., 4::4])
    assert rows.any() or columns.any()
    eps = seen(W, cells, everywhere(cells), background)[0].flatten(1)
    torch.testing.assert_close(eps.T @ eps / len(eps), torch.eye(16), rtol=0, atol=0.03)


def test_views_of_the_same_points_see_the_same_noise() -> None:
    """Moved by a pixel, mirrored, and in another batch."""
    W, background = normal(4096, 4), normal(1, 4, 4, 6, seed=1)
    y, x = torch.meshgrid(torch.arange(16), torch.arange(24), indexing="ij")
    points = torch.stack([x / 24 + 1e-6, y / 24 + 1e-6, 0 * x])[None]  # 4 × 4 cells of width 1/24 in each pixel
    moved, mirrored = points.roll(4, -1), points.flip(-1)

    def noise(*views: Tensor) -> Tensor:
        cells = cells_of(torch.cat(views), 24, len(W))
        return seen(W, cells, everywhere(cells), background.expand(len(views), -1, -1, -1))

    eps = noise(points)
    for other, expected in (moved, eps.roll(1, -1)), (mirrored, eps.flip(-1)):
        torch.testing.assert_close(noise(other), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(noise(moved, points)[1:], eps)


def solid_ball() -> Gaussians:
    """2,000 opaque Gaussians on a sphere of radius 0.5."""
    means = 0.5 * torch.nn.functional.normalize(torch.randn(2000, 3, generator=random()), dim=-1)
    scales = torch.full((2000, 3), 0.03).log()
    quats = torch.tensor([1.0, 0, 0, 0]).expand(2000, 4)
    return Gaussians(means, scales, quats, torch.full((2000,), 3.0), torch.zeros(2000, 1, 3))


def test_on_a_rendered_ball_the_noise_stays_on_the_surface() -> None:
    """The correlation at points of the surface falls with the angle between views; over pixels of a view it is 0."""
    angles = torch.tensor([0.0, 2, 5, 10, 20])
    cameras = on_sphere(angles, 20.0, 3.1, 0.55, 64)
    rendering = render(solid_ball(), cameras, torch.ones(3))
    positions = cameras.unprojected(rendering.depth / rendering.alpha.clamp(min=1e-6))
    surface, channels = rendering.alpha > 0.1, 64
    W, background = torch.randn(CELLS * 256, channels, generator=random(1)), torch.zeros(5, channels, 16, 16)
    eps = seen(W, cells_of(positions, 16, len(W)), surface, background)

    from_surface = surface[0].view(16, 4, 16, 4).all(3).all(1)
    beside = from_surface[:, 1:] & from_surface[:, :-1]
    assert float(eps[0][:, from_surface].square().mean()) == pytest.approx(1, abs=0.05)
    assert abs(float((eps[0][..., 1:] * eps[0][..., :-1]).mean(0)[beside].mean())) < 0.04

    centres = positions[0][:, 2::4, 2::4][:, from_surface]
    found = []
    for world_to_camera, intrinsics, noise in zip(cameras.world_to_camera, cameras.intrinsics, eps, strict=True):
        u, v, w = intrinsics @ (world_to_camera[:3, :3] @ centres + world_to_camera[:3, 3:])
        column, row = (u / w / 4).long(), (v / w / 4).long()
        found.append(float((eps[0][:, from_surface] * noise[:, row, column]).mean()))
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(1, abs=0.05)
    assert found[1] > 0.6
    assert found[4] > 0.25


@pytest.mark.parametrize("gamma", [0.0, 1e-4, 0.3, 1.0])
def test_an_update_mixes_fresh_noise_in(gamma: float) -> None:
    z_0, W = torch.zeros(2, 4, 16, 16), torch.randn(CELLS * 256, 4, generator=random(1))
    found = update(z_0, state={"surface": W}, generator=random(), noise_injection=gamma)["surface"]
    xi = torch.randn(W.shape, generator=random())
    torch.testing.assert_close(found, math.sqrt(1 - gamma) * W + math.sqrt(gamma) * xi)
    assert float(found.square().mean()) == pytest.approx(1, abs=0.03)
    assert torch.equal(found, W) == (gamma == 0)
    assert torch.equal(found, xi) == (gamma == 1)


def test_the_noise_starts_with_a_vector_for_every_cell() -> None:
    W = init(prior=TinyPrior(), generator=random())["surface"]
    assert W.shape == (CELLS * 4 * 4, 4)
    assert float(W.square().mean()) == pytest.approx(1, abs=0.05)


def steps(resume: bytes | None = None, loop: LoopOptions | None = None, **overrides: object) -> list[optimize.Step]:
    given = {} if loop is None else {"loop": loop}
    chosen = for_objective(recipe(**overrides), "cfd")
    return list(optimize.optimize(chosen, TinyPrior(), ball(), "a red ball", 0, resume, **given))


@pytest.mark.parametrize("gamma", [0.0, 0.01])
def test_a_resumed_run_is_undisturbed_with_its_noise(gamma: float) -> None:
    whole = steps(objective__noise_injection=gamma)
    assert torch.equal(whole[0].objective["surface"], whole[-1].objective["surface"]) == (gamma == 0)
    for stop in (0, 4, 10):
        resumed = steps(whole[stop].checkpoint(), objective__noise_injection=gamma)
        assert same(resumed[-1], whole[-1])
        assert torch.equal(resumed[-1].objective["surface"], whole[-1].objective["surface"])
        assert resumed[-1].checkpoint() == whole[-1].checkpoint()


def test_views_in_parts_see_the_same_noise() -> None:
    """What a view sees depends on no other view."""
    whole, parts = (steps(loop=LoopOptions(views_at_once=number))[-1] for number in (2, 1))
    assert torch.equal(parts.objective["surface"], whole.objective["surface"])
    torch.testing.assert_close(parts.gaussians.means, whole.gaussians.means, rtol=1e-4, atol=1e-5)


def test_in_a_run_the_noise_changes_the_result() -> None:
    """The ball is seen, so that the noise of the surface is used, not that of the background alone."""
    slow, fast = (steps(objective__noise_injection=gamma)[-1] for gamma in (0.0, 1.0))
    assert not torch.allclose(slow.gaussians.means, fast.gaussians.means)


def test_on_exact_scores_particles_are_samples_rather_than_centres() -> None:
    """Samples of p(x | y) have −12.6 nats and a norm of 1.06, as the ends of a flow from one noise each; SDS 3.2."""
    found = evaluate(settings("cfd", {"noise.shared": False}))
    assert -16 < found.log_p < -8
    assert 1.0 < found.norm_ratio < 1.2
