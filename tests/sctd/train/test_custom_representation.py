"""A representation in a file: the example distils, resumes to the same bytes, undoes NaN; wrong files are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline.plan.jobs import Job
from pipeline.prompts.prompt import Prompt
from sctd.recipe.custom_file import CustomFileError
from sctd.recipe.methods import for_objective, on_representation
from sctd.recipe.presets import RECIPES
from sctd.recipe.recipe import Recipe, RecipeError, with_overrides
from sctd.scene.cameras import orbit
from sctd.train import optimize, representations
from sctd.train.checkpoint import CheckpointError
from tests.support.paths import EXAMPLES
from tests.support.tiny_prior import TinyPrior, ball
from tests.support.tiny_prior import recipe as with_gaussians

EXAMPLE = f"{EXAMPLES / 'my_representation.py'}:Voxels"
CAMERAS = orbit(4, 10.0, 3.5, 0.55, 16)
PLANE = """
import torch
from sctd.render.contract import Rendering


class Plane:
    rates = {"colour": 0.1}

    def start(self, initial, generator):
        return {"colour": torch.zeros(3)}

    def render(self, tensors, cameras, background):
        shape = cameras.num, cameras.height, cameras.width
        rgb = tensors["colour"].sigmoid()[:, None, None].expand(shape[0], 3, *shape[1:])
        return Rendering(rgb, torch.ones(shape), torch.ones(shape))
"""


def on(name: str, objective: str = "sds", **overrides: object) -> Recipe:
    small = {"iterations": 12, "cameras.views": 2, "guidance.scale": 2}
    changes = small | {key.replace("__", "."): value for key, value in overrides.items()}
    return with_overrides(for_objective(on_representation(RECIPES["embedded"](), name), objective), changes)


def written(folder: Path, source: str) -> str:
    (folder / "own.py").write_text(source)
    return f"{folder / 'own.py'}:Plane"


def steps(chosen: Recipe, prior: TinyPrior | None = None, resume: bytes | None = None) -> list[optimize.Step]:
    return list(optimize.optimize(chosen, prior or TinyPrior(), ball(), "a red ball", 0, resume=resume))


def same(left: optimize.Step, right: optimize.Step) -> bool:
    def parts(step: optimize.Step) -> list[torch.Tensor]:
        scene = step.scene
        return [
            tensor
            for part in (scene.asset, scene.first_moment, scene.second_moment)
            for tensor in part.tensors().values()
        ]

    return left.loss == right.loss and all(map(torch.equal, parts(left), parts(right)))


def test_the_example_takes_the_colour_of_the_prompt() -> None:
    chosen = on(EXAMPLE, iterations=80)
    last = steps(chosen)[-1]
    shown = representations.of_recipe(chosen).shown(last.scene)(CAMERAS)
    red, green, _ = shown[:, :, 8, 8].mean(0)
    assert red - green > 0.3
    assert shown[:, :, 0, 0].min() > 0.9, "the corners stay empty"


def test_the_example_renders_a_homogeneous_box() -> None:
    """A box of density σ, 2 thick, seen from the front: α = 1 - exp(-2 σ), depth ∫ (near + s) σ exp(-σ s) ds."""
    sigma = torch.tensor(0.7)
    chosen = on(EXAMPLE)
    kind = representations.of_recipe(chosen)
    scene = kind.start(ball(), torch.Generator())
    box = scene.asset.with_tensors({"density": torch.full_like(scene.asset.named["density"], sigma.expm1().log())})
    front = orbit(1, 0.0, 3.5, 0.55, 17)
    rendering = kind.render(box, front, torch.zeros(1, 3))
    torch.testing.assert_close(rendering.alpha[0, 8, 8], 1 - (-2 * sigma).exp(), rtol=0, atol=0.02)  # ± half a step
    through = (-2 * sigma).exp()
    expected = (3.5 - 1) * (1 - through) + (1 - through * (1 + 2 * sigma)) / sigma
    torch.testing.assert_close(rendering.depth[0, 8, 8], expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("objective", ["sctd", "vsd"])
def test_a_resumed_run_is_undisturbed(objective: str) -> None:
    chosen = on(EXAMPLE, objective)
    whole = steps(chosen)
    for at in (1, 7):
        resumed = steps(chosen, resume=whole[at - 1].checkpoint())
        assert all(same(a, b) for a, b in zip(whole[at:], resumed, strict=True)), at


def test_an_iteration_with_nan_is_undone() -> None:
    prior = TinyPrior()
    prior.corrupt = lambda call: call == 3
    found = steps(on(EXAMPLE), prior)
    assert found[-1].skipped > 0
    assert all(tensor.isfinite().all() for tensor in found[-1].scene.asset.named.values())


def test_rates_fall_from_the_first_number_to_the_second() -> None:
    chosen = on(EXAMPLE)
    kind = representations.of_recipe(chosen)
    asset = kind.start(ball(), torch.Generator()).asset
    assert kind.rates(asset, 0.0) == pytest.approx({"density": 0.5, "colour": 0.1})
    assert kind.rates(asset, 0.5) == pytest.approx({"density": 0.3, "colour": 0.06})


def test_penalty_and_bounds_of_the_class_are_used(tmp_path: Path) -> None:
    more = """
    def penalty(self, tensors, rendering, progress):
        return 1000 * tensors["colour"].sum()

    def bounded(self, tensors):
        return {"colour": tensors["colour"].clamp(min=-0.25)}
"""
    last = steps(on(written(tmp_path, PLANE + more)))[-1]
    assert last.scene.asset.named["colour"].tolist() == [-0.25] * 3


def test_the_finished_file_has_the_tensors() -> None:
    chosen = on(EXAMPLE)
    kind, last = representations.of_recipe(chosen), steps(chosen)[-1]
    read = safetensors.torch.load(kind.to_bytes(last.scene))
    assert all(torch.equal(read[name], tensor) for name, tensor in last.scene.asset.named.items())
    assert kind.counts(last.scene) == {"numbers": 4 * 48**3}


def test_the_job_id_depends_on_content_and_class_but_not_on_the_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    def job_id(name: str) -> str:
        return Job(Prompt("x", "a cube", "a cube"), on(name), 0, "weights").id

    first = job_id(written(tmp_path / "a", PLANE))
    assert job_id(written(tmp_path / "b", PLANE)) == first
    assert job_id(written(tmp_path / "b", PLANE + "# changed\n")) != first
    assert job_id(EXAMPLE) != first
    assert Recipe.model_validate(on(EXAMPLE).stored()) == on(EXAMPLE)
    assert on("gaussians") == on("gaussians", representation__kind="gaussians")


def test_a_checkpoint_of_another_representation_is_refused() -> None:
    checkpoint = steps(with_gaussians(iterations=1))[0].checkpoint()
    with pytest.raises(CheckpointError):
        steps(on(EXAMPLE, iterations=1), resume=checkpoint)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("class Plane", "class Other", "own.py has no class 'Plane'; define it, or name another"),
        ("class Plane:", "def Plane():\n  pass\nclass A:", "own.py has no class 'Plane'; define it, or name another"),
        ("def start(", "def begin(", r"has no method start; define start\(self, initial, generator\)"),
        ("cameras, background)", "cameras)", r"render of Plane in .*own.py takes other arguments; expected render\("),
        (
            'rates = {"colour": 0.1}',
            "rates = {}",
            "Plane of .*own.py has no learning rates; expected rates, a dict from",
        ),
        (
            '{"colour": 0.1}',
            '{"colour": (1, 2, 3)}',
            r"has the learning rate 'colour': \(1, 2, 3\); expected a name and",
        ),
        ('{"colour": 0.1}', "{0: 0.1}", "has the learning rate 0: 0.1; expected a name and a positive number"),
        (
            "rates =",
            'SETTINGS = {"representation.kind": "nerf"}\n    rates =',
            "SETTINGS has 'representation.kind', which",
        ),
        (
            "    rates =",
            "    def __init__(self, n):\n        pass\n    rates =",
            "Plane of .*own.py is made without arguments",
        ),
        (
            '{"colour": 0.1}',
            '{"colour": -1}',
            "has the learning rate 'colour': -1; expected a name and a positive number",
        ),
        ('{"colour": 0.1}', '{"colour": 0.1}\n    SETTINGS = 3', "SETTINGS is 3; expected a dict of recipe keys"),
        ("import torch", "import no_such_module", "own.py cannot be run .ModuleNotFoundError"),
    ],
)
def test_a_file_without_a_valid_representation_is_rejected_in_one_sentence(tmp_path, before, after, message) -> None:
    with pytest.raises(CustomFileError, match=message):
        on(written(tmp_path, PLANE.replace(before, after)))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('return {"colour"', 'return {"color"', "start of Plane of .*py returned color; expected a dict of"),
        ("return {\"colour\": torch.zeros(3)}", "return 3", "start of Plane of .* returned int; expected a dict"),
        ("torch.zeros(3)}", "torch.zeros(3).long()}", r"returned colour as torch.int64 of shape \(3,\); exp"),
        ("torch.zeros(3)}", "[0, 0, 0]}", "start of Plane of .* returned colour as list; expected a"),
        ("torch.zeros(3)}", "torch.zeros(3) / 0}", "start of Plane of .* returned colour with values that are"),
        ("shape = cameras.num,", "shape = 1 / 0, cameras.num,", "render of .*, line 13: ZeroDivisionError: division"),
        ("shape = cameras.num,", "raise SystemExit(3)\n        shape =", "render of .*own.py, line 13: SystemExit: 3"),
        ("Rendering(rgb,", "Rendering(rgb[0],", r"returned rgb as \(3, 16, 16\); expected a Rendering with"),
        ("return Rendering(", "return (", "render of Plane of .*own.py returned rgb as NoneType; expected a Rendering"),
    ],
)  # fmt: skip
def test_what_a_class_returns_is_checked(tmp_path: Path, before: str, after: str, message: str) -> None:
    chosen = on(written(tmp_path, PLANE.replace(before, after)))
    kind = representations.of_recipe(chosen)
    with pytest.raises(CustomFileError, match=message):
        kind.shown(kind.start(ball(), torch.Generator()))(CAMERAS)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "def bounded(self, tensors):\n        return {'colour': tensors['colour'][:2]}",
            r"of shape \(2,\); expected",
        ),
        (
            "def penalty(self, tensors, rendering, progress):\n        return 'x'",
            "penalty of .* returned str",
        ),
        (
            "def penalty(self, tensors, rendering, progress):\n        return tensors['colour']",
            r"returned shape \(3,\)",
        ),
    ],
)
def test_what_a_class_returns_in_training_is_checked(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(CustomFileError, match=message):
        steps(on(written(tmp_path, f"{PLANE}\n    {more}\n")))


def test_a_render_without_gradient_is_refused(tmp_path: Path) -> None:
    source = PLANE.replace('tensors["colour"].sigmoid()', 'tensors["colour"].detach().sigmoid()')
    with pytest.raises(
        CustomFileError, match=r"render of Plane of .*own\.py returned rgb without a gradient; expected"
    ):
        steps(on(written(tmp_path, source)))


def test_a_render_may_change_its_dict(tmp_path: Path) -> None:
    source = PLANE.replace("        shape =", '        tensors["more"] = torch.ones(1)\n        shape =')
    assert len(steps(on(written(tmp_path, source)))) == 12


def test_a_method_on_a_nerf_cannot_be_given_another_representation() -> None:
    with pytest.raises(RecipeError, match=r"kind is 'nerf' and function is '.*my_representation.py:Voxels@"):
        on(EXAMPLE, "dreamfusion")


def test_a_recipe_needs_the_digest_of_the_file() -> None:
    for function in ("own.py:Plane", "Plane"):
        with pytest.raises(RecipeError, match=r"expected FILE\.py:CLASS@DIGEST: pass --representation FILE\.py:CLASS"):
            with_overrides(on("gaussians"), {"representation.kind": "custom", "representation.function": function})
    with pytest.raises(RecipeError, match="the kind 'custom', and no other, has a function"):
        with_overrides(on("gaussians"), {"representation.kind": "custom"})


def test_gaussians_and_nerf_have_names() -> None:
    nerf = on("nerf")
    assert (nerf.representation.kind, nerf.nerf.levels, nerf.initialization.kind) == ("nerf", 8, "ball")
    large = on_representation(RECIPES["paper"](), "nerf")
    assert replace_name(large) == replace_name(RECIPES["paper-nerf"]())
    assert on_representation(nerf, "nerf") == nerf


def replace_name(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"name": ""})


def test_the_example_is_a_plain_class() -> None:
    chosen = on(EXAMPLE)
    assert chosen.initialization.kind == "ball"
    scene = representations.of_recipe(chosen).start(ball(), torch.Generator())
    assert replace(scene, asset=scene.first_moment).asset.named.keys() == {"density", "colour"}
