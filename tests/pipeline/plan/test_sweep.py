"""Sweeps: products, labels, errors and files. No model is loaded."""

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.plan import recipes, sweep
from pipeline.plan.jobs import plan
from pipeline.prompts.prompt import Prompt
from sctd.recipe import custom_file
from sctd.recipe.methods import METHODS
from sctd.recipe.presets import embedded
from sctd.recipe.recipe import with_overrides
from tests.support.paths import EXAMPLES


def methods(*options, objectives=("sctd",), settings=(), saved=()):
    sweeps = sweep.combined(list(saved), sweep.from_options(options, embedded()))
    return sweep.methods(embedded(), objectives, recipes.settings(settings), sweeps)


def refused(*options, **others) -> str:
    with pytest.raises(UserError) as caught:
        methods(*options, **others)
    return str(caught.value)


def saved(folder: Path, text: str) -> recipes.Base:
    (folder / "s.yaml").write_text(text)
    return recipes.named(str(folder / "s.yaml"))


def test_a_sweep_is_the_product_of_its_values_for_every_objective():
    found = methods(
        "times.num_segments=1,3,5",
        "guidance.scale = 7.5, 10",
        objectives=("sctd", "sctd-official"),
        settings=["iterations=9"],
    )
    settings = [(n, scale) for n in (1, 3, 5) for scale in (7.5, 10.0)]
    assert [(m.recipe.times.num_segments, m.recipe.guidance.scale) for m in found] == settings * 2
    assert [m.recipe.objective.name for m in found] == ["sctd"] * 6 + ["sctd-official"] * 6
    assert {m.recipe.iterations for m in found} == {9}
    assert found[1].swept == {"times.num_segments": 1, "guidance.scale": 10.0}
    assert found[0].label == "sctd num_segments=1 scale=7.5"
    assert found[-1].label == "sctd-official num_segments=5 scale=10"
    prompts = [Prompt(name, name, name) for name in ("a cube", "a ball")]
    jobs = plan(prompts, found, seed=0, weights=lambda _: "w")
    assert len({job.id for job in jobs}) == len(jobs) == 2 * 12
    assert [job.method for job in jobs] == [m.label for m in found] * 2


def test_a_cell_has_the_same_job_id_as_its_settings_without_a_sweep():
    prompt = [Prompt("a", "a", "a")]
    cell = plan(prompt, methods("guidance.scale=10,20"), 0, lambda _: "w")[0]
    alone = plan(prompt, methods(settings=["guidance.scale=10"]), 0, lambda _: "w")[0]
    assert cell.id == alone.id
    assert (cell.method, alone.method) == ("sctd scale=10", "sctd")


def test_a_custom_objective_is_a_method_labelled_by_its_function(tmp_path):
    own = f"{EXAMPLES / 'my_objective.py'}:falling_guidance"
    assert recipes.objectives(f"sds, {own}") == ["sds", own]
    found = methods("guidance.scale=5,10", objectives=("sds", own))
    labels = [f"{name} scale={scale}" for name in ("sds", "falling_guidance") for scale in (5, 10)]
    assert [m.label for m in found] == labels
    assert found[2].recipe.objective.function.startswith(f"{own}@")
    (tmp_path / "empty.py").write_text("")
    message = refused(objectives=(f"{tmp_path}/empty.py:f",))
    assert message == f"--objective: {tmp_path}/empty.py has no function 'f'; define it, or name another."
    with pytest.raises(UserError, match=r"^--objective a.py names a file without a function; write a.py:FUNCTION\.$"):
        recipes.objectives("sds,a.py")


def test_without_a_sweep_the_label_is_the_name_as_chosen():
    assert [(m.label, dict(m.swept)) for m in methods(objectives=("sctd", "sds"))] == [("sctd", {}), ("sds", {})]
    distinct = [name for name in METHODS if name != "vsd-authors"]  # on this base its settings are those of vsd
    assert [m.label for m in methods(objectives=distinct)] == distinct
    (mine,) = sweep.methods(methods(objectives=["sds"])[0].recipe, ["sctd"], {})
    assert mine.label == "sds", "the objective of the recipe file, not the default of --objective"


def test_labels_use_the_shortest_unique_suffix_of_each_key():
    assert sweep.short_names(["times.num_segments", "times.segments", "iterations"]) == {
        "times.num_segments": "num_segments", "times.segments": "segments", "iterations": "iterations",
    }  # fmt: skip
    swept = ["guidance.scale", "bounds.scale", "optimizer.means.start", "optimizer.quats.start"]
    assert list(sweep.short_names(swept).values()) == ["guidance.scale", "bounds.scale", "means.start", "quats.start"]


def test_values_that_contain_commas_are_separated_by_semicolons():
    found = methods("cameras.radius=2.8,3.5;2.60,3.2", "guidance.negative_prompt=;ugly, bad")
    assert [m.recipe.cameras.radius for m in found[::2]] == [(2.8, 3.5), (2.6, 3.2)]
    assert [m.recipe.guidance.negative_prompt for m in found[:2]] == ["", "ugly, bad"]
    assert found[3].label == "sctd radius=2.6,3.2 negative_prompt='ugly, bad'"
    assert found[0].label == "sctd radius=2.8,3.5 negative_prompt=''"
    (one,) = methods("cameras.radius=2.8,3.5;")
    assert one.recipe.cameras.radius == (2.8, 3.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["times.num_segments"],
            ("--sweep 'times.num_segments' has no values; write --sweep key=value,value, as in --sweep "
            "times.num_segments=1,3,5."),
        ),
        (
            ["times.num_segment=1,3"],
            "--sweep: unknown recipe key 'times.num_segment'; the nearest is 'times.num_segments'.",
        ),
        (
            ["iterations=1", "iterations=2"],
            "--sweep iterations was passed twice; pass it once, with all its values.",
        ),
        (
            ["cameras.radius=2.8,3.5"],
            ("Values of cameras.radius are pairs; separate them with ';' and quote the argument, as in --sweep "
            "'cameras.radius=1,2;3,4', or 'cameras.radius=1,2;' for one pair."),
        ),
        (
            ["objective.name=sctd,sds"],
            ("--sweep: objective.name cannot be swept, because objectives change other keys, too; use --objective, as "
            "in --objective sctd,sds."),
        ),
        (
            ["times.segments=equal,increasing", "times.num_segments=1,3"],
            ("The sweep cell 'sctd segments=increasing num_segments=1' is invalid: recipe key 'times': expected "
            "at least 2 increasing segments, found 1: use equal segments."),
        ),
        (
            ["times.segments=increasing", "times.num_segments=3,10", "times.threshold=150"],
            ("The sweep cell 'sctd segments=increasing num_segments=10 threshold=150' is invalid: recipe key 'times': "
            "10 increasing segments, the first of 150 steps, do not fit in 1000 steps: use at most 6 segments or a "
            "first segment of at most 100 steps."),
        ),
        (
            ["iterations=5,"],
            ("The sweep cell \"sctd iterations=''\" is invalid: recipe key 'iterations' is '': it should be a valid "
            "integer, unable to parse string as an integer."),
        ),
        (
            ["guidance.scale=7.5,10,7.50"],
            "'sctd scale=7.5' and 'sctd scale=7.5' would generate the same assets; remove one of them.",
        ),
        (
            ["name=one,two"],
            "'sctd name=one' and 'sctd name=two' would generate the same assets; remove one of them.",
        ),
    ],
)  # fmt: skip
def test_an_invalid_sweep_is_an_error(options, message):
    assert refused(*options) == message


READ_BY_SDS = "times.rule, times.low, times.high, times.start_high, times.warmup_share, times.shift_lower_bound"


@pytest.mark.parametrize(
    ("options", "others", "start"),
    [
        (
            ["times.interval=80,90"], {},
            "The sweep cell 'sctd interval=80' is invalid: times.interval has no effect on sctd (times.rule is segm",
        ),
        (
            ["times.num_segments=1,3,5"], {"objectives": ("sctd", "sds")},
            ("The sweep cell 'sds num_segments=1' is invalid: times.num_segments has no effect on sds (times.rule is "
            f"single); keys read there: {READ_BY_SDS}."),
        ),
        (
            ["times.rule=interval,segments", "times.interval=90"], {"objectives": ("ism",)},
            ("The sweep cell 'ism rule=segments interval=90' is invalid: times.interval has no effect on ism "
            "(times.rule is segments)"),
        ),
        (
            [], {"settings": ["densify.interval=100"]},
            "--set: densify.interval has no effect on sctd (densify.enabled is false); keys read there: densify.e",
        ),
        (
            ["guidance.scale=5,9"], {"settings": ["seed_shape.radius=0.5"]},
            ("The sweep cell 'sctd scale=5' is invalid: initialization.radius has no effect on sctd ("
            "initialization.kind is point_e)"),
        ),
        (
            [], {"saved": [{"objective.inversion_step": [100, 200]}]},
            ("The sweep cell 'sctd inversion_step=100' is invalid: objective.inversion_step has no effect on sctd; "
            "keys read there: objective.name, "),
        ),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_refused_in_each_cell(options, others, start):
    assert refused(*options, **others).startswith(start)


def test_a_key_may_be_enabled_by_another_of_its_cell():
    found = methods("times.rule=interval", "times.interval=80,90", objectives=("ism",))
    assert [m.label for m in found] == ["ism rule=interval interval=80", "ism rule=interval interval=90"]
    (one,) = methods(settings=["densify.enabled=true", "densify.interval=50"])
    assert one.recipe.densify.interval == 50


def test_a_recipe_file_may_contain_keys_without_effect(tmp_path):
    own = saved(tmp_path, "times: {interval: 90}\ndensify.interval: 7\n")
    (method,) = sweep.methods(own.recipe, ["sctd"], {}, own.sweeps or [{}])
    assert (method.recipe.times.interval, method.recipe.densify.interval) == (90, 7)


def test_a_changed_file_of_a_custom_objective_is_an_error_of_set(tmp_path):
    (tmp_path / "own.py").write_text("LIKE = 'sds'\ndef f(z_0, **given): return z_0")
    base = methods(objectives=(f"{tmp_path}/own.py:f",))[0].recipe
    (tmp_path / "own.py").write_text("LIKE = 'sds'\ndef f(z_0, **given): return 2 * z_0")
    custom_file.module.cache_clear()
    with pytest.raises(UserError, match=r"^--set: .*own.py has changed since this run was planned; restore it, or"):
        sweep.methods(base, ["sctd"], {"objective.outer_weight": 3})


def test_a_key_cannot_be_both_set_and_swept():
    assert refused("iterations=1,2", settings=["iterations=3"]) == (
        "--set iterations is also swept; remove one of them."
    )
    assert refused("iterations=1,2", settings=["iteration=3"]) == (
        "--set: unknown recipe key 'iteration'; the nearest is 'iterations'."
    )
    assert refused("iterations=1,2", saved=[{"iterations": [3]}]) == (
        "--sweep iterations is also swept in the recipe file; remove one of them."
    )


def test_two_methods_with_the_same_label_are_an_error():
    message = refused(objectives=("sctd", "sds"), settings=["objective.name=sds"])
    assert message == (
        "Two methods have the same label 'sds'; use --objective instead of --set objective.name, and give custom "
        "objectives different function names."
    )


def test_an_objective_incompatible_with_the_recipe_is_an_error():
    base = with_overrides(embedded(), {"times.start_high": 650})
    with pytest.raises(
        UserError, match=r"^--objective cds is incompatible with the recipe: .*expected low < high <= start"
    ):
        sweep.methods(base, ["cds"], {})


def test_settings_are_checked_in_each_cell():
    """Five segments of at least 300 steps do not fit, but the two and three of the cells do."""
    found = methods("times.num_segments=2,3", settings=["times.segments=increasing", "times.threshold=300"])
    assert [m.recipe.times.edges()[:2] for m in found] == [(0, 300), (0, 300)]


def test_a_file_can_hold_one_product_or_several(tmp_path):
    one = saved(tmp_path, "iterations: 7\nsweep:\n  times: {num_segments: [1, 5]}\n  guidance.scale: 10\n")
    assert one.recipe.iterations == 7
    assert one.sweeps == [{"times.num_segments": [1, 5], "guidance.scale": [10]}]
    several = saved(
        tmp_path, "sweep:\n- cameras.radius: [[2.8, 3.5], '2.6,3.2']\n- {noise.kind: fresh, initialization.count: 9}\n"
    )
    labels = [m.label for m in methods("iterations=1,2", saved=several.sweeps)]
    assert labels == [
        "sctd radius=2.8,3.5 iterations=1", "sctd radius=2.8,3.5 iterations=2",
        "sctd radius=2.6,3.2 iterations=1", "sctd radius=2.6,3.2 iterations=2",
        "sctd kind=fresh count=9 iterations=1", "sctd kind=fresh count=9 iterations=2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sweep: [1, 3]",
            ("sweep is 1; expected keys with lists of values, as in 'times.num_segments: [1, 3, 5]', or a list of such "
            "mappings."),
        ),
        (
            "sweep: []",
            ("sweep is []; expected keys with lists of values, as in 'times.num_segments: [1, 3, 5]', or a list of "
            "such mappings."),
        ),
        ("sweep: {iterations: []}", "sweep iterations is []; expected a list of values of the recipe key's type."),
        (
            "sweep: {cameras.radius: [2.8, 3.5]}",
            "sweep cameras.radius is [2.8, 3.5]; expected a list of values of the recipe key's type.",
        ),
        ("sweep: {iteration: [1]}", "unknown recipe key 'iteration'; the nearest is 'iterations'."),
        (
            "sweep: {objective.name: [sctd, sds]}",
            ("objective.name cannot be swept, because objectives change other keys, too; use --objective, as in "
            "--objective sctd,sds."),
        ),
    ],
)  # fmt: skip
def test_an_invalid_sweep_in_a_file_is_an_error_that_names_the_file(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        saved(tmp_path, text)
    assert str(caught.value) == f"{tmp_path}/s.yaml: {message}"


def test_figure_6_has_every_valid_cell():
    base, sweeps = recipes.named(str(EXAMPLES / "figure6.yaml"))
    found = sweep.methods(base, ["sctd"], recipes.settings(["iterations=12"]), sweeps)
    cells = {(m.recipe.times.segments, m.recipe.times.num_segments, m.recipe.times.threshold) for m in found}
    assert cells == {
        *(("equal", n, threshold) for n in (1, 3, 5, 10) for threshold in (100, 150)),
        *(("increasing", n, threshold) for n in (3, 5) for threshold in (100, 150)),
    }
    assert len(found) == len(cells) == 12
    assert found[0].label == "sctd segments=equal num_segments=1 threshold=100"
    assert {m.recipe.iterations for m in found} == {12}


def test_figure_7_compares_with_and_without_the_approximation():
    base, sweeps = recipes.named(str(EXAMPLES / "figure7.yaml"))
    found = sweep.methods(base, ["sctd"], recipes.settings(["iterations=12"]), sweeps)
    assert [m.label for m in found] == ["sctd approximation=true", "sctd approximation=false"]
    assert [m.recipe.objective.approximation for m in found] == [True, False]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_saved_sweep_can_be_run_with_its_documented_command(path):
    (command,) = (line for line in path.read_text().splitlines() if line.startswith("#   segmentdreamer bench "))
    assert f"--recipe examples/{path.name} " in command
    base, sweeps = recipes.named(str(path))
    assert base.name == path.stem
    assert len(sweep.methods(base, ["sctd"], {}, sweeps)) > 1
