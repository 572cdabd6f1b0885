import pytest

from pipeline.errors import UserError
from pipeline.plan import recipes, sweep
from sctd.recipe.methods import METHODS
from sctd.recipe.presets import RECIPES, embedded, paper


def test_bundled_recipes_are_found_by_name():
    assert recipes.named("embedded") == (embedded(), [])
    assert recipes.named("paper") == (paper(), [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.yaml", "iterations: 77\nguidance:\n  scale: 10\n"),
        ("mine.json", '{"iterations": 77, "guidance": {"scale": 10}}'),
    ],
)
def test_a_file_changes_only_the_keys_it_contains(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    base = embedded()
    expected = base.model_copy(
        update={"name": "mine", "iterations": 77, "guidance": base.guidance.model_copy(update={"scale": 10.0})}
    )
    assert recipes.named(str(tmp_path / name)) == (expected, [])


def test_a_file_can_name_its_base(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: paper\nname: half\niterations: 2500\n")
    expected = paper().model_copy(update={"name": "half", "iterations": 2500})
    assert recipes.named(str(tmp_path / "mine.yaml")) == (expected, [])


def test_invalid_recipes_are_errors(tmp_path):
    def refused(content: str) -> str:
        (tmp_path / "r.yaml").write_text(content)
        with pytest.raises(UserError) as caught:
            recipes.named(str(tmp_path / "r.yaml"))
        return str(caught.value).replace(f"{tmp_path}/", "")

    assert refused("iterations: [").startswith("r.yaml cannot be read as a recipe (while parsing")
    assert (
        refused("- 1") == "r.yaml contains no keys; write a recipe's keys and values in YAML, as in 'iterations: 300'."
    )
    assert refused("base: papr") == f"r.yaml: unknown base 'papr'; choose from {', '.join(RECIPES)}."
    assert refused("iteration: 3") == "r.yaml: unknown recipe key 'iteration'; the nearest is 'iterations'."
    assert refused("iterations: 0") == (
        "r.yaml: recipe key 'iterations' is 0: it should be greater than or equal to 1."
    )
    with pytest.raises(UserError) as caught:
        recipes.named("embeded")  # codespell:ignore
    assert str(caught.value) == (
        f"Unknown recipe or file 'embeded'; pass a YAML or JSON file, or one of {', '.join(RECIPES)}; "
        "the nearest is 'embedded'."
    )


def test_objectives_are_deduplicated_and_unknown_ones_are_errors():
    assert recipes.objectives("sctd, sds,sctd") == ["sctd", "sds"]
    with pytest.raises(UserError) as caught:
        recipes.objectives("sctd,sdss")
    known = ", ".join(METHODS)
    assert str(caught.value) == f"Unknown objective 'sdss'; choose from {known}; the nearest is 'sds'."


def test_objectives_change_settings_and_set_overrides_them():
    settings = recipes.settings(["iterations=9", "noise.offset = 0.5"])
    ours, theirs = (method.recipe for method in sweep.methods(embedded(), ["sctd", "sds"], settings))
    assert (ours.objective.name, theirs.objective.name) == ("sctd", "sds")
    assert theirs.noise.kind == "fresh"
    assert [recipe.iterations for recipe in (ours, theirs)] == [9, 9]
    assert [recipe.noise.offset for recipe in (ours, theirs)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("iterations", "--set 'iterations' has no value; write --set key=value, as in --set guidance.scale=10."),
        ("guidance.scal=3", "--set: unknown recipe key 'guidance.scal'; the nearest is 'guidance.scale'."),
        ("iterations=0", "--set: recipe key 'iterations' is '0': it should be greater than or equal to 1."),
    ],
)
def test_an_invalid_setting_is_an_error(setting, message):
    with pytest.raises(UserError) as caught:
        sweep.methods(embedded(), ["sctd"], recipes.settings([setting]))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: &a [*a]", "Circular reference detected"),
        ("[" * 3_000, "it is nested too deeply"),
        ("sweep: {2026-01-01: [1]}", "keys must be str"),
        ("name: 2026-01-01", "is not JSON serializable"),
        ("name: 2026-13-45", "month must be in 1..12"),
        (
            "\n".join(["a: &a0 [1]", *(f"b{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]),
            "20,000 keys",
        ),
    ],
)
def test_yaml_that_is_no_tree_of_values_is_refused(tmp_path, content, reason):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        recipes.named(str(tmp_path / "r.yaml"))
    assert str(caught.value).startswith(f"{tmp_path}/r.yaml cannot be read as a recipe (")
    assert reason in str(caught.value)


def test_long_values_are_shortened_in_errors(tmp_path):
    (tmp_path / "r.yaml").write_text(f"iterations: {'x' * 3_000}\n")
    with pytest.raises(UserError) as caught:
        recipes.named(str(tmp_path / "r.yaml"))
    assert len(str(caught.value)) < 500
    (tmp_path / "r.yaml").write_text("base: [embedded]\n")
    with pytest.raises(UserError, match=r"unknown base \['embedded'\]; choose from"):
        recipes.named(str(tmp_path / "r.yaml"))
