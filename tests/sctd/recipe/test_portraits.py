"""Portraits and avatars: the settings that they change, and runs of both with the bundled models."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from evaluation.clip_score import ClipScorer
from pipeline.embedded import weights_folder
from sctd.point_e import PointE
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.recipe import presets as recipes
from sctd.recipe.portraits import avatar, portrait
from sctd.recipe.recipe import Recipe, keys, with_overrides
from sctd.scene.cameras import Cameras
from sctd.train import draws, optimize
from sctd.train.initialization import initial_gaussians
from tests.support.paths import DOCS

BASES = {"paper": recipes.paper, "embedded": recipes.embedded}


@pytest.fixture(scope="module")
def prior() -> StableDiffusionPrior:
    return StableDiffusionPrior.load(weights_folder() / "prior")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Cameras]:
    """The cameras drawn in every iteration."""
    cameras, views = [], draws.views

    def spy(*arguments: object) -> Cameras:
        cameras.append(views(*arguments))
        return cameras[-1]

    monkeypatch.setattr(draws, "views", spy)
    return cameras


def azimuths(seen: list[Cameras]) -> torch.Tensor:
    """All azimuths, in [-180, 180)."""
    return (torch.cat([cameras.azimuth_degrees for cameras in seen]) + 180) % 360 - 180


def changed(base: Recipe, recipe: Recipe) -> dict[str, object]:
    def at(tree: dict, key: str) -> object:
        for step in key.split("."):
            tree = tree[step]
        return tree

    before, after = base.model_dump(), recipe.model_dump()
    return {key: at(after, key) for key in keys(base) if at(before, key) != at(after, key)}


@pytest.mark.parametrize("base", BASES)
def test_portraits_have_cameras_in_the_front_half_and_avatars_all_around(base):
    common = {
        "guidance.perp_neg": True,
        "cameras.elevation_degrees": (-10.0, 30.0),
        "initialization.mesh_radius": 0.8,
        **({"noise.offset": 0.05} if base == "paper" else {"cameras.overhead_share": 0.0}),
    }
    head, body = portrait(BASES[base]()), avatar(BASES[base]())
    assert changed(BASES[base](), head) == {
        "name": f"{base}-portrait",
        "cameras.azimuth_degrees": (-90.0, 90.0),
        **common,
    }
    assert changed(BASES[base](), body) == {"name": f"{base}-avatar", "cameras.fov_low_min": 0.23, **common}


@pytest.mark.parametrize("name", ["paper-portrait", "paper-avatar", "embedded-portrait", "embedded-avatar"])
def test_presets_are_named_and_accept_a_template(name):
    recipe = recipes.RECIPES[name]()
    assert recipe.name == name
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    templated = with_overrides(recipe, {"initialization.kind": "mesh", "initialization.path": "me.glb"})
    assert (templated.initialization.path, templated.cameras) == ("me.glb", recipe.cameras)


@pytest.mark.parametrize("page", ["portrait.md", "initialization.md"])
def test_commands_in_the_docs_use_existing_recipes_and_settings(page):
    text = (DOCS / page).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^segmentdreamer generate .*$", text, re.MULTILINE)]
    assert len(commands) == {"portrait.md": 7, "initialization.md": 1}[page]
    for words in commands:
        options = list(zip(words[3::2], words[4::2], strict=True))
        settings = dict(value.split("=", 1) for option, value in options if option == "--set")
        with_overrides(recipes.RECIPES[dict(options)["--recipe"]](), settings)
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(example, {})


def steps(recipe: Recipe, prior: StableDiffusionPrior, initial, prompt: str) -> Iterator[optimize.Step]:
    return optimize.optimize(recipe, prior, initial, prompt, seed=0)


def is_finite(step: optimize.Step) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in step.gaussians.tensors().values())


def test_the_bundled_models_generate_a_head_with_frontal_cameras(prior, seen):
    few = {"iterations": 3, "initialization.count": 128, "initialization.point_e_steps": 3}
    recipe = with_overrides(portrait(recipes.embedded()), few)
    scorer = ClipScorer.load(weights_folder() / "scorer", "cpu", "embedded")
    models = PointE.load(weights_folder() / "shape", scorer.text_features)
    initial = initial_gaussians(recipe.initialization, "a robot head", torch.Generator().manual_seed(0), models)
    generated = list(steps(recipe, prior, initial, "a green robot head"))
    assert len(generated) == 3
    assert all(is_finite(step) and step.skipped == 0 for step in generated)
    assert bool((azimuths(seen).abs() <= 90.001).all())
    assert not generated[-1].gaussians.means.equal(initial.means)


def robot(path: Path) -> tuple[str, trimesh.Trimesh]:
    """A robot of boxes, one metre high and y-up, as a .glb, whose format determines the axes."""
    parts = [
        ((0.3, 0.35, 0.2), (0, 0.45, 0)),
        ((0.2, 0.2, 0.2), (0, 0.8, 0)),
        *(((0.08, 0.35, 0.1), (side * 0.22, 0.45, 0)) for side in (1, -1)),
        *(((0.1, 0.3, 0.12), (side * 0.09, 0.14, 0)) for side in (1, -1)),
    ]
    mesh = trimesh.util.concatenate(
        [trimesh.creation.box(extents=extents).apply_translation(middle) for extents, middle in parts]
    )
    mesh.visual = trimesh.visual.ColorVisuals(vertex_colors=np.tile(np.uint8([190, 190, 195, 255]), (48, 1)))
    mesh.export(str(path))
    return str(path), mesh


def test_the_bundled_models_generate_a_body_from_a_template(prior, seen, tmp_path):
    path, template = robot(tmp_path / "robot.glb")
    few = {"iterations": 3, "initialization.count": 150, "initialization.kind": "mesh", "initialization.path": path}
    recipe = with_overrides(avatar(recipes.embedded()), few)
    initial = initial_gaussians(recipe.initialization, "a robot", torch.Generator().manual_seed(0))
    assert initial.num == 150 * recipe.initialization.replicas
    # On the template: its y is our z, its z our x; centred at the origin, with the farthest corner at 0.8.
    corners = template.vertices - template.bounds.mean(0)
    turned = trimesh.Trimesh(corners[:, [2, 0, 1]] * 0.8 / np.linalg.norm(corners, axis=1).max(), template.faces)
    _, away, _ = trimesh.proximity.closest_point_naive(turned, initial.means.double().numpy())
    assert away.max() <= recipe.initialization.replica_radius + 1e-6
    extent = initial.means.amax(0) - initial.means.amin(0)
    assert extent.argmax() == 2
    generated = list(steps(recipe, prior, initial, "a silver robot"))
    assert all(is_finite(step) and step.skipped == 0 for step in generated)
    assert float(azimuths(seen).abs().max()) > 90
    assert float((generated[-1].gaussians.means - initial.means).norm(dim=1).max()) < 0.1
