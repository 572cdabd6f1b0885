"""A NeRF in the trainer: it converges, resumes to the same bytes, and undoes NaN, as Gaussians do."""

import io
import math
from dataclasses import replace

import pytest
import torch

from sctd.recipe.methods import ON_NERF, for_objective
from sctd.recipe.presets import RECIPES
from sctd.recipe.recipe import Recipe, with_overrides
from sctd.render import nerf_file
from sctd.scene.cameras import orbit
from sctd.scene.gaussians import rgb_to_sh
from sctd.train import optimize, representations
from sctd.train.checkpoint import CheckpointError
from sctd.train.gradient import LoopOptions
from sctd.train.nerf_distillation import NerfScene
from tests.support.tiny_prior import TinyPrior, ball
from tests.support.tiny_prior import recipe as with_gaussians

CAMERAS = orbit(4, 10.0, 3.5, 0.55, 16)


def recipe(objective: str = "sds", **overrides: object) -> Recipe:
    """The recipe of the bundled prior, shortened, with a tiny field."""
    small = {
        "iterations": 12, "cameras.views": 2, "guidance.scale": 2, "nerf.levels": 3, "nerf.finest": 32,
        "nerf.log2_entries": 10, "nerf.hidden": 8, "nerf.steps": 32, "nerf.cells": 16, "nerf.occupancy_interval": 3,
        "nerf.albedo_share": 0.2,
    }  # fmt: skip
    changes = small | {key.replace("__", "."): value for key, value in overrides.items()}
    base = "embedded" if objective in ON_NERF else "embedded-nerf"
    return with_overrides(for_objective(RECIPES[base](), objective), changes)


def steps(chosen: Recipe, prior: TinyPrior | None = None, resume: bytes | None = None) -> list[optimize.Step]:
    return list(optimize.optimize(chosen, prior or TinyPrior(), ball(), "a red ball", 0, resume=resume))


def tensors(scene: NerfScene) -> list[torch.Tensor]:
    parts = scene.nerf, scene.first_moment, scene.second_moment
    return [*(tensor for part in parts for tensor in part.tensors().values()), scene.densities]


def same(left: optimize.Step, right: optimize.Step) -> bool:
    return (left.iteration, left.loss, left.skipped) == (right.iteration, right.loss, right.skipped) and all(
        torch.equal(a, b) for a, b in zip(tensors(left.scene), tensors(right.scene), strict=True)
    )


def test_a_field_takes_the_colour_of_the_prompt() -> None:
    chosen = recipe(iterations=60, nerf__albedo_share=1)
    last = steps(chosen)[-1]
    shown = representations.of_recipe(chosen).shown(last.scene)(CAMERAS)
    red, green, _ = shown[:, :, 8, 8].mean(0)
    assert red - green > 0.5
    assert shown[:, :, 0, 0].min() > 0.9, "the corners stay empty"


@pytest.mark.parametrize("objective", ["sctd", "cfd", *ON_NERF])
def test_a_resumed_run_is_undisturbed(objective: str) -> None:
    chosen = recipe(objective)
    whole = steps(chosen)
    for at in (1, 5, 8):
        resumed = steps(chosen, resume=whole[at - 1].checkpoint())
        assert all(same(a, b) for a, b in zip(whole[at:], resumed, strict=True)), at


def test_all_kinds_of_shading_are_drawn() -> None:
    chosen = recipe(iterations=60)
    kind, scene = representations.of_recipe(chosen), steps(recipe(iterations=1))[-1].scene
    generator = torch.Generator().manual_seed(0)
    drawn = [kind.drawn(scene.nerf, scene, at, generator).light.shading for at in range(1, 61)]
    assert set(drawn[:12]) == {"albedo"}, "in the first fifth"
    assert set(drawn[12:]) == {"albedo", "lambertian", "textureless"}


def test_an_iteration_with_nan_is_undone() -> None:
    prior = TinyPrior()
    prior.corrupt = lambda call: call in (3, 4)
    found = steps(recipe(), prior)
    assert found[-1].skipped > 0
    (undone,) = [at for at in range(1, 12) if found[at].skipped > found[at - 1].skipped][:1]
    assert all(map(torch.equal, tensors(found[undone].scene), tensors(found[undone - 1].scene)))
    assert all(tensor.isfinite().all() for tensor in tensors(found[-1].scene))


def test_fewer_views_at_once_give_the_same_gradients() -> None:
    for progress in (0, 1):  # without and with shading
        chosen = recipe(nerf__albedo_share=1 - progress, nerf__shaded_share=1)
        whole, split = (
            next(optimize.optimize(chosen, TinyPrior(), ball(), "red", 0, loop=LoopOptions(views_at_once=views)))
            for views in (2, 1)
        )
        for name, left in split.scene.first_moment.tensors().items():
            right = whole.scene.first_moment.tensors()[name]
            torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4 * float(right.abs().max()))  # order of sums


def test_the_finished_file_shows_the_same_field() -> None:
    chosen = recipe()
    last = steps(chosen)[-1]
    kind = representations.of_recipe(chosen)
    assert kind.file == "asset.safetensors"
    read = nerf_file.from_bytes(kind.to_bytes(last.scene))
    from sctd.render.nerf import render_on_white

    assert torch.equal(render_on_white(read, CAMERAS), kind.shown(last.scene)(CAMERAS))
    assert kind.counts(last.scene)["occupied cells"] > 0
    assert last.num_gaussians is None


def test_a_checkpoint_of_another_field_is_refused() -> None:
    first = steps(recipe(iterations=1))[0]
    bytes_ = first.checkpoint()
    tree = torch.load(io.BytesIO(bytes_), weights_only=True)
    for damage in (
        lambda scene: scene.pop("densities"),
        lambda scene: scene.update(densities=torch.zeros(2, 2, 2)),
        lambda scene: scene["nerf"].update(table=torch.zeros(3, 2)),
        lambda scene: scene["nerf"].pop("first"),
    ):
        damaged = {**tree, "state": {**tree["state"], "population": dict(tree["state"]["population"])}}
        damaged["state"]["population"]["nerf"] = dict(tree["state"]["population"]["nerf"])
        damage(damaged["state"]["population"])
        file = io.BytesIO()
        torch.save(damaged, file)
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            steps(recipe(iterations=1), resume=file.getvalue())


def test_gaussians_store_no_key_of_a_field() -> None:
    assert not {"representation", "nerf"} & with_gaussians().stored().keys()
    chosen = recipe()
    assert Recipe.model_validate(chosen.stored()) == chosen
    assert chosen.digest() != replace_kind(chosen).digest()


def replace_kind(chosen: Recipe) -> Recipe:
    return with_overrides(chosen, {"representation.kind": "gaussians"})


def test_a_field_starts_from_a_point_cloud() -> None:
    """A red and a green ball: what is near the points is opaque and has their colours, all else is empty."""
    generator = torch.Generator().manual_seed(0)
    places = 0.2 * torch.nn.functional.normalize(torch.randn(400, 3, generator=generator), dim=-1)
    places = places * torch.rand(400, 1, generator=generator) ** (1 / 3)
    middles = torch.tensor([[0.0, -0.5, 0], [0.0, 0.5, 0]])
    means, green = torch.cat([places + middle for middle in middles]), (torch.arange(800) >= 400).float()
    rgb = torch.stack([1 - green, green, torch.zeros(800)], dim=1)
    cloud = replace(ball(800), means=means, sh=rgb_to_sh(rgb)[:, None], log_scales=torch.full((800, 3), 0.03).log())
    chosen = recipe(initialization__kind="point_e", nerf__log2_entries=14, nerf__cells=32)
    scene = representations.of_recipe(chosen).start(cloud, generator)
    density, albedo = scene.nerf(middles)
    assert bool((density > 10).all())
    assert torch.allclose(albedo, torch.tensor([[1.0, 0, 0], [0, 1, 0]]), atol=0.1)
    far = 2 * torch.rand(2000, 3, generator=generator) - 1
    far = far[(far[:, None] - middles).norm(dim=-1).amin(dim=1) > 0.35]
    assert float((scene.nerf(far)[0] < 0.5).float().mean()) > 0.97
    is_full = (scene.densities > chosen.nerf.empty_density).float().mean()
    assert 0.5 * (2 * 4 / 3 * math.pi * 0.2**3 / 8) < is_full < 0.2


def test_the_live_view_gets_gaussians_or_nothing() -> None:
    chosen = recipe()
    kind, scene = representations.of_recipe(chosen), steps(chosen)[-1].scene
    shown = kind.gaussians(scene)
    assert shown is not None
    assert shown.num > 100
    assert float(shown.means.abs().max()) <= chosen.nerf.box
    assert kind.gaussians(replace(scene, densities=torch.zeros_like(scene.densities))) is None


def test_small_renders_are_enlarged() -> None:
    chosen = recipe(nerf__resolution=8)
    kind, scene = representations.of_recipe(chosen), steps(recipe(iterations=1))[-1].scene
    drawn = kind.drawn(scene.nerf, scene, 1, torch.Generator().manual_seed(0))
    small = kind.render(drawn, CAMERAS.resized(8, 8), torch.ones(4, 3))
    large = kind.render(drawn, CAMERAS, torch.ones(4, 3))
    assert large.rgb.shape == (4, 3, 16, 16)
    assert large.depth.shape == (4, 16, 16)
    averaged = torch.nn.functional.avg_pool2d(large.rgb, 2)  # linear interpolation keeps sums, but at the border
    torch.testing.assert_close(averaged.mean(), small.rgb.mean(), rtol=0.01, atol=0)


def test_a_field_learns_its_background() -> None:
    chosen = recipe(nerf__sky_hidden=8, nerf__sky_share=0.5)
    kind = representations.of_recipe(chosen)
    first, last = steps(chosen)[0].scene, steps(chosen)[-1].scene
    assert not torch.equal(first.nerf.sky_second, last.nerf.sky_second)
    generator = torch.Generator().manual_seed(0)
    drawn = [kind.drawn(last.nerf, last, at, generator) for at in range(1, 21)]
    skies = [each.light.has_sky for each in drawn]
    assert 0 < sum(skies) < 20
    plain, own = (drawn[skies.index(has_sky)] for has_sky in (False, True))
    black = [kind.render(each, CAMERAS, torch.zeros(4, 3)).rgb[:, :, 0, 0] for each in (plain, own)]
    assert float(black[0].abs().max()) == 0
    assert float(black[1].min()) > 0
    shown = kind.shown(last)(CAMERAS)
    assert shown[:, :, 0, 0].min() > 0.9, "a finished asset is shown on white"
    assert torch.equal(nerf_file.from_bytes(kind.to_bytes(last)).nerf.sky_first, last.nerf.sky_first)
    whole = steps(chosen)
    assert all(same(a, b) for a, b in zip(whole[5:], steps(chosen, resume=whole[4].checkpoint()), strict=True))


def test_all_scenes_have_the_fields_of_the_seam() -> None:
    for chosen in (recipe(iterations=1), with_gaussians(iterations=1)):
        scene = next(iter(optimize.optimize(chosen, TinyPrior(), ball(), "red", 0))).scene
        stepped = scene.stepped(scene.asset, scene.second_moment, scene.first_moment)
        assert type(stepped) is type(scene)
        assert stepped.first_moment is scene.second_moment
        assert replace(stepped.asset, **scene.asset.tensors()).tensors().keys() == scene.asset.tensors().keys()
