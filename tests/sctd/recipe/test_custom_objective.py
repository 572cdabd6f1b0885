"""Custom objectives: identity, recipe, rejected files, and the example."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.plan.jobs import Job, without_machine
from pipeline.prompts.prompt import Prompt
from sctd.diffusion.guidance import cfg
from sctd.diffusion.times import Times
from sctd.experiments.testbed import evaluate, settings
from sctd.objectives import of_recipe
from sctd.recipe import custom_file, custom_objective
from sctd.recipe.custom_file import CustomFileError, reference
from sctd.recipe.methods import METHODS, for_objective
from sctd.recipe.presets import embedded
from sctd.recipe.recipe import Recipe, RecipeError, from_json, with_overrides
from sctd.train import optimize
from tests.support.analytic import mixture
from tests.support.paths import DOCS, EXAMPLES
from tests.support.tiny_prior import TinyPrior, ball, recipe, run, same

EXAMPLE = EXAMPLES / "my_objective.py"
COPY = """
LIKE = "sds"
def copied(z_0, *, denoise, text, noise, times, schedule):
    return denoise(schedule.noised(z_0, noise, times.t), times.t, text) - noise
"""


def written(folder: Path, source: str, name: str = "own.py") -> str:
    (folder / name).write_text(source)
    return str(folder / name)


def test_the_example_computes_its_documented_residual() -> None:
    """Guidance with a scale that falls from 10 to 1: at a quarter of the run it is 7.75."""
    world, times = mixture(5, spread=0.3), Times(t=500, s=500, s_m=500)
    noise, z_0 = torch.randn(2, 3, *world.means.shape[1:], generator=torch.Generator().manual_seed(0)).double()
    text = world.text([0], 3)
    given = {"text": text, "noise": noise, "times": times, "schedule": world.schedule, "unguided": world}
    example, sds = (of_recipe(for_objective(embedded(), name)) for name in (f"{EXAMPLE}:falling_guidance", "sds"))
    for progress, scale in ((0.0, 10.0), (0.25, 7.75), (1.0, 1.0)):
        found = example(z_0, denoise=cfg(world, 10.0, world.null), progress=progress, **given)
        expected = sds(z_0, denoise=cfg(world, scale, world.null), **given)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_it_starts_from_the_recipe_of_like() -> None:
    found, like = for_objective(embedded(), f"{EXAMPLE}:falling_guidance"), for_objective(embedded(), "sds")
    changed = {"guidance.scale": 10, "objective.function": found.objective.function}
    assert found == with_overrides(like, changed) != like
    assert (found.objective.name, found.objective.display_name) == ("sds", "falling_guidance")
    assert for_objective(embedded(), "sds") == like


def test_a_copy_of_an_objective_generates_the_same_asset_bit_for_bit(tmp_path: Path) -> None:
    own = written(tmp_path, COPY)
    short = recipe(iterations=4)
    *_, theirs = run(for_objective(short, "sds"))
    *_, ours = run(for_objective(short, f"{own}:copied"))
    assert same(theirs, ours)


def test_it_runs_in_the_testbed() -> None:
    """−132.5 nats after one iteration, −46.5 after a hundred."""
    one, hundred = (evaluate(settings(f"{EXAMPLE}:falling_guidance", {"iterations": n})) for n in (1, 100))
    assert hundred.log_p > one.log_p + 50


def job(name: str) -> Job:
    return Job(Prompt("a", "a cube", "cube"), for_objective(embedded(), name), seed=0, weights="w")


def test_a_job_id_depends_on_file_content_and_function_but_not_on_the_path(tmp_path: Path) -> None:
    twice = COPY + "another = copied\n"
    one, elsewhere = (written(tmp_path, twice, name) for name in ("a.py", "b.py"))
    ids = [job(f"{one}:copied").id, job(f"{elsewhere}:copied").id]
    assert ids[0] == ids[1]
    ids += [job(f"{one}:another").id, job("sds").id]
    written(tmp_path, twice + "# a comment\n", "b.py")
    ids += [job(f"{elsewhere}:copied").id]
    assert len(set(ids)) == 4
    assert job(f"{one}:copied").objective == "copied"


SPLIT = """
LIKE = "sds"
from .weights import factor
def split(z_0, *, denoise, text, noise, times, schedule):
    from . import shift
    return z_0 * factor + shift.by()
"""


def test_relative_imports_are_part_of_the_job_id_and_work_anywhere_in_the_file(tmp_path: Path) -> None:
    def laid(name: str, factor: str = "2.0", by: str = "1.0") -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        written(tmp_path / name, "from .numbers import factor\nimport torch\n", "weights.py")
        written(tmp_path / name, f"factor = {factor}\n", "numbers.py")
        written(tmp_path / name, f"from . import weights\ndef by(): return {by}\n", "shift.py")
        return f"{written(tmp_path / name, SPLIT)}:split"

    def value(name: str) -> float:
        given = dict.fromkeys(("denoise", "text", "noise", "times", "schedule"))
        return float(custom_objective.load(reference(name)).function(torch.ones(1), **given))

    one, elsewhere = laid("one"), laid("elsewhere")
    first = job(one).id
    assert job(elsewhere).id == first
    assert value(one) == value(elsewhere) == 3.0
    planned = reference(one)
    assert (job(laid("one", by="5.0")).id != first, value(one)) == (True, 7.0)
    assert (job(laid("one", factor="3.0")).id != first, value(one)) == (True, 4.0)
    with pytest.raises(CustomFileError, match=r"own.py, or one of its relative imports, has changed since this"):
        custom_file.module.__wrapped__(planned)
    assert (job(laid("one")).id, value(one)) == (first, 3.0)
    written(tmp_path / "one", "not read", "unused.py")
    assert job(one).id == first


def test_without_relative_imports_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    own = written(tmp_path, COPY)
    assert reference(f"{own}:copied").digest == hashlib.sha256(COPY.encode()).hexdigest()[:16]


def test_a_relative_import_finds_only_what_the_digest_covers(tmp_path: Path) -> None:
    written(tmp_path, "", "hidden.py")
    own = written(tmp_path, COPY + "import importlib\nimportlib.import_module('.hidden', __package__)\n")
    with pytest.raises(CustomFileError, match=r"own.py cannot be run \(ModuleNotFoundError: No module named 'custom"):
        for_objective(embedded(), f"{own}:copied")
    (tmp_path / "sub").mkdir()
    for line in ("from .absent import x", "from .sub.below import x", "from .broken import x"):
        written(tmp_path, "def f(:", "broken.py")
        with pytest.raises(CustomFileError, match=r"own.py cannot be run \((ModuleNotFoundError|SyntaxError): .*\)"):
            for_objective(embedded(), f"{written(tmp_path, COPY + line)}:copied")


def test_job_ids_without_a_custom_objective_are_unchanged() -> None:
    assert "function" not in without_machine(embedded())["objective"]
    plain = for_objective(embedded(), "sds")
    assert replace(job("sds"), recipe=with_overrides(plain, {"objective.function": ""})).id == job("sds").id


def test_reading_a_recipe_runs_nothing_and_needs_no_file(tmp_path: Path) -> None:
    own = written(tmp_path, COPY)
    text = for_objective(embedded(), f"{own}:copied").model_dump_json()
    Path(own).unlink()
    assert from_json(text, embedded()).objective.display_name == "copied"
    assert Recipe.model_validate_json(text).objective.display_name == "copied"


def test_a_file_changed_since_planning_is_not_run(tmp_path: Path) -> None:
    own = written(tmp_path, COPY)
    planned = reference(f"{own}:copied")
    written(tmp_path, "raise SystemExit('run')")
    with pytest.raises(CustomFileError, match=r"own.py has changed since this run was planned; restore it, or"):
        custom_objective.load(planned)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"own.py cannot be read \(No such file or directory\); expected the path of a Python file"),
        ("def f(:", r"own.py cannot be run \(SyntaxError: .*\); correct the file"),
        ("import nowhere_to_be_found", r"cannot be run \(ModuleNotFoundError: No module named 'nowhere_to_be_found'\)"),
        (COPY, "own.py has no function 'f'; define it, or name another"),
        (
            "LIKE = 'sds'\ndef f(z_0, denoise, text): return z_0",
            r"f of .*own.py does not accept noise, times, schedule; expected the signature f\(z_0, \*, denoise, ",
        ),
        (
            "def f(z_0, **given): return z_0",
            r"own.py has no LIKE, the objective whose recipe it .*; add, for example, LIKE = 'sds'",
        ),
        ("LIKE = 'sdss'\ndef f(z_0, **given): return z_0", "LIKE is 'sdss'; expected one of sctd, sctd-official, sds"),
        (
            "LIKE = 'sds'\nSETTINGS = 3\ndef f(z_0, **given): return z_0",
            "SETTINGS is 3; expected a dict of recipe keys",
        ),
    ],
)
def test_a_file_without_a_valid_objective_is_rejected_in_one_sentence(source, message, tmp_path: Path) -> None:
    if source is not None:
        written(tmp_path, source)
    with pytest.raises(CustomFileError, match=message):
        for_objective(embedded(), f"{tmp_path / 'own.py'}:f")


def test_the_name_of_a_built_in_objective_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CustomFileError, match="has the name of a built-in objective; rename"):
        for_objective(embedded(), f"{written(tmp_path, COPY.replace('copied', 'ism'))}:ism")
    assert "ism" in METHODS


def test_unknown_settings_are_rejected(tmp_path: Path) -> None:
    own = written(tmp_path, COPY + "SETTINGS = {'times.rules': 'single'}\n")
    with pytest.raises(RecipeError, match=r"unknown recipe key 'times.rules'; the nearest is 'times.rule'"):
        for_objective(embedded(), f"{own}:copied")


def test_a_recipe_rejects_a_function_without_digest() -> None:
    with pytest.raises(RecipeError, match=r"function is 'a.py:f'; expected FILE.py:FUNCTION@DIGEST: pass --objective"):
        with_overrides(embedded(), {"objective.function": "a.py:f"})


@pytest.mark.parametrize(
    ("result", "found"), [("z_0.mean()", r"\(\)"), ("z_0[:1]", r"\(1, 4, 2, 2\)"), ("None", "NoneType")]
)
def test_a_residual_of_another_shape_is_rejected_and_not_broadcast(result: str, found: str, tmp_path: Path) -> None:
    own = written(tmp_path, f"LIKE = 'sds'\ndef f(z_0, **given): return {result}")
    function = custom_objective.load(reference(f"{own}:f")).function
    with pytest.raises(CustomFileError, match=rf"f of .*own.py returned {found}; expected a residual of the shape of"):
        function(torch.zeros(3, 4, 2, 2))


def test_arguments_named_like_options_get_the_values_of_the_recipe(tmp_path: Path) -> None:
    own = written(tmp_path, "LIKE = 'sds'\ndef f(z_0, denoise, text, noise, times, schedule, outer_weight, mine=2.0):"
                            "\n    return z_0 * outer_weight * mine")  # fmt: skip
    chosen = with_overrides(for_objective(embedded(), f"{own}:f"), {"objective.outer_weight": 3})
    given = dict.fromkeys(("denoise", "text", "noise", "times", "schedule"))
    found = of_recipe(chosen)(torch.ones(1, 4, 2, 2), **given)
    assert torch.equal(found, torch.full((1, 4, 2, 2), 6.0))


HOW_TO = (DOCS / "howto" / "objective.md").read_text(encoding="utf-8")
SLOW = next(part for part in HOW_TO.split("```python\n")[1:] if "def slow" in part).split("```")[0]


def test_the_objective_with_state_of_the_page_keeps_it_through_checkpoints(tmp_path: Path) -> None:
    chosen = for_objective(recipe(iterations=5), f"{written(tmp_path, SLOW)}:slow")
    whole = run(chosen)
    first, second = (step.objective["noise"] for step in whole[:2])
    assert first.shape == (1, *TinyPrior.latent_shape)
    assert not torch.equal(first, second)
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1] > 0.95
    resumed = list(optimize.optimize(chosen, TinyPrior(), ball(), "a red ball", 0, whole[2].checkpoint()))
    assert same(resumed[-1], whole[-1])
    assert torch.equal(resumed[-1].objective["noise"], whole[-1].objective["noise"])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("def init", "def start", "asks for a state, which the file does not make; add a function init"),
        (
            "init(*, prior",
            "init(*, cameras, prior",
            "init of .* needs 'cameras', which it does not get; expected",
        ),
        ("update(z_0, *, state", "update(z_0, *, times, state", "update of .* needs 'times', which it does not get"),
        ("schedule, state", "schedule, state, latents", "slow of .* needs 'latents', which it does not get"),
    ],
)
def test_a_state_that_cannot_be_made_is_refused_before_work(tmp_path: Path, before, after, message) -> None:
    assert before in SLOW
    with pytest.raises(CustomFileError, match=message):
        for_objective(embedded(), f"{written(tmp_path, SLOW.replace(before, after))}:slow")


def test_a_custom_objective_gets_what_it_names(tmp_path: Path) -> None:
    """Surfaces flipped like the image: positions lie within the scene, depth along the cameras' axes."""
    source = """
LIKE = "sds"
SEEN = []
def look(z_0, *, denoise, text, noise, times, schedule, cameras, alpha, depth, positions, unguided, negative, progress):
    SEEN.append((cameras, alpha, depth, positions, negative, progress))
    return unguided(z_0, times.t, text) - noise
"""
    chosen = for_objective(recipe(iterations=2, encoding__flip_share=1.0), f"{written(tmp_path, source)}:look")
    run(chosen)
    seen = custom_objective.load(reference(chosen.objective.function)).function.__wrapped__.__globals__["SEEN"]
    cameras, alpha, depth, positions, negative, progress = seen[0]
    assert (progress, seen[1][-1], negative.shape[0], alpha.shape) == (0.5, 1.0, 1, (2, 16, 16))
    assert positions.shape == (2, 3, 16, 16)
    covered = alpha > 0.5
    assert covered.any()
    assert positions.norm(dim=1)[covered].max() < 1
    turn, shift = cameras.world_to_camera[:, :3, :3], cameras.world_to_camera[:, :3, 3]
    z = torch.einsum("vj,vjhw->vhw", turn[:, 2], positions) + shift[:, 2, None, None]
    torch.testing.assert_close(z[covered], depth[covered], rtol=1e-4, atol=1e-4)
    pixels = torch.einsum("vij,vjhw->vihw", cameras.intrinsics, torch.einsum("vij,vjhw->vihw", turn, positions)
                          + shift[..., None, None])  # fmt: skip
    columns = (pixels[:, 0] / pixels[:, 2]).flip(-1)
    torch.testing.assert_close(
        columns[covered.flip(-1)], (torch.arange(16.0) + 0.5).expand(2, 16, 16)[covered.flip(-1)]
    )
