import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline.plan.jobs import without_machine
from sctd.objectives import WEIGHTS
from sctd.recipe import methods, objective
from sctd.recipe import presets as recipes
from sctd.recipe.fields import Config, RateConfig
from sctd.recipe.gradient import TimesConfig
from sctd.recipe.objective import ENTRIES, ObjectiveConfig
from sctd.recipe.recipe import Recipe, RecipeError, from_json, keys, with_overrides
from sctd.recipe.scene import CamerasConfig


def parts(part: Config, prefix: str = "") -> Iterator[tuple[str, type[Config]]]:
    yield prefix, type(part)
    for name, value in part:
        if isinstance(value, Config):
            yield from parts(value, f"{prefix}{name}.")


def test_every_field_has_a_unit_and_a_source() -> None:
    for prefix, part in parts(Recipe()):
        for name, about in part.model_fields.items():
            assert about.description, prefix + name
            is_group = isinstance(about.default, Config) and not isinstance(about.default, RateConfig)
            if not is_group:
                assert about.json_schema_extra["unit"], prefix + name
                assert about.json_schema_extra["source"], prefix + name


@pytest.mark.parametrize(
    "recipe", [recipes.paper(), recipes.embedded(), methods.for_objective(recipes.embedded(), "sds")]
)
def test_a_recipe_round_trips_through_json(recipe: Recipe) -> None:
    text = recipe.model_dump_json()
    again = from_json(text, base=recipes.paper())
    assert again == recipe
    assert again.digest() == recipe.digest()
    assert Recipe.model_validate(json.loads(text)) == recipe


def test_the_digest_changes_with_every_field() -> None:
    base = recipes.paper()
    changed = {
        bool: lambda value: not value,
        int: lambda value: value + 1,
        float: lambda value: value * 0.97 + 0.0013,
        tuple: lambda value: (
            (value[0], value[1] - 1) if isinstance(value[1], int) else (value[0] + 0.001, value[1] + 0.002)
        ),
        str: lambda value: None,  # names and texts are changed below
    }
    digests, as_nerf = {base.digest()}, recipes.RECIPES["paper-nerf"]()
    changes = 0
    for key in keys(base):
        value = base
        for step in key.split("."):
            value = getattr(value, step)
        other = -1 if key == "objective.self_sign" else changed[type(value)](value)
        if other is not None:
            own = as_nerf if key.startswith("nerf.") else base
            digests.add(with_overrides(own, {key: other}).digest())
            changes += 1
    digests.add(as_nerf.digest())
    changes += 1
    for key, text in {"name": "x", "guidance.negative_prompt": "x", "noise.kind": "fresh"}.items():
        digests.add(with_overrides(base, {key: text}).digest())
        changes += 1
    assert changes > 90
    assert len(digests) == changes + 1


def test_text_is_parsed_as_the_type_of_the_field() -> None:
    texts = {
        "guidance.scale": "10",
        "iterations": "12",
        "densify.enabled": "false",
        "cameras.radius": "3.5,4",
        "cameras.fov_y_radians": "(0.4, 0.5)",
        "guidance.prompt_template": "1, {prompt}",
        "optimizer.means.end": "1e-3",
    }
    recipe = with_overrides(recipes.embedded(), texts)
    assert recipe.guidance.scale == 10.0
    assert recipe.iterations == 12
    assert recipe.densify.enabled is False
    assert recipe.cameras.radius == (3.5, 4.0)
    assert recipe.cameras.fov_y_radians == (0.4, 0.5)
    assert recipe.guidance.prompt_template == "1, {prompt}"
    assert recipe.optimizer.means == RateConfig(start=0.004, end=0.001, decay="linear")
    untouched = set(keys(recipe)) - set(texts)
    assert all(_at(recipe, key) == _at(recipes.embedded(), key) for key in untouched)


def _at(recipe: Recipe, key: str) -> object:
    value: object = recipe
    for step in key.split("."):
        value = getattr(value, step)
    return value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("guidance.scal", "7", "unknown recipe key 'guidance.scal'; the nearest is 'guidance.scale'"),
        ("num_segments", "7", "unknown recipe key 'num_segments'; the nearest is 'times.num_segments'"),
        ("times.num_segment", "7", "unknown recipe key 'times.num_segment'; the nearest is 'times.num_segments'"),
        ("noise", "1", "recipe key 'noise' is a group; set one of its keys: noise.kind, noise.shared, noise.offset"),
        ("guidance.scale", "loud", "recipe key 'guidance.scale' is 'loud': it should be a valid number"),
        ("guidance.scale", "-1", "recipe key 'guidance.scale' is '-1': it should be greater than or equal to 0"),
        ("guidance.scale", "inf", "recipe key 'guidance.scale' is 'inf': it should be a finite number"),
        ("objective.name", "dreams", "recipe key 'objective.name' is 'dreams': it should be 'sctd', 'sctd-official'"),
        ("cameras.radius", "4,3", "recipe key 'cameras': radius is 4,3; expected the smaller number first"),
        ("cameras.radius", "4", "recipe key 'cameras.radius' is ['4']"),
        ("times.low", "600", "low 600, high 500, start_high 980; expected low < high <= start_high"),
        ("times.epsilon", "40", "minimum_interval must be at least 81"),
        ("times.num_segments", "13", "the last of 13 segments must be longer than minimum_interval 80; use fewer"),
        ("times.rule", "single", "objective 'sctd' does not support times.rule 'single'; set times.rule to segments"),
        (
            "times.rule",
            "interval",
            "objective 'sctd' does not support times.rule 'interval'; set times.rule to segments",
        ),
        ("times.segment_range", "50,1000", "segment_range 50–1000 does not contain every t from 20 to 980; widen it"),
        ("times.gap", "0,10", "gap is (0, 10); expected two numbers of at least 1, the smaller first"),
        ("objective.clamp", "0,8", "clamp is (0.0, 8.0); expected two bounds above 0, or 0,0 for no clamp"),
        ("objective.self_sign", "0", "recipe key 'objective.self_sign' is '0': it should be 1 or -1"),
        ("guidance.control", "edges", "recipe key 'guidance.control' is 'edges': it should be 'none' or 'depth'"),
        ("guidance.prompt_template", "a photo", "it must contain {prompt} exactly once"),
        ("initialization.kind", "ply", "kinds 'ply' (points or Gaussians) and 'mesh' need a path"),
        ("background.black_share", "0.9", "white 0.2 + black 0.9 + grey 0.4 exceed 1; lower one of them"),
    ],
)
def test_invalid_settings_are_rejected_in_one_sentence(key: str, value: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        with_overrides(recipes.embedded(), {key: value})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_increasing_segments_that_would_shrink_are_rejected() -> None:
    wrong = {"times.segments": "increasing", "times.num_segments": "10"}
    with pytest.raises(RecipeError, match="10 increasing segments, the first of 150 steps, do not fit in 1000 steps"):
        with_overrides(recipes.paper(), wrong)
    assert TimesConfig(segments="increasing", num_segments=5).edges() == (0, 150, 325, 525, 750, 1000)


def test_json_may_omit_keys_but_not_misspell_them() -> None:
    recipe = from_json('{"guidance": {"scale": 3}}', base=recipes.embedded())
    assert recipe == with_overrides(recipes.embedded(), {"guidance.scale": 3})
    with pytest.raises(RecipeError, match=r"unknown recipe key 'guidance.scales'; the nearest is 'guidance.scale'"):
        from_json('{"guidance": {"scales": 3}}', base=recipes.embedded())
    with pytest.raises(RecipeError, match="the recipe is not JSON"):
        from_json("{", base=recipes.embedded())
    with pytest.raises(RecipeError, match="expected an object of keys"):
        from_json("[1]", base=recipes.embedded())
    with pytest.raises(RecipeError, match="recipe key 'guidance'"):
        from_json('{"guidance": 3}', base=recipes.embedded())


def test_names_of_time_weights_match_the_registry() -> None:
    assert set(ObjectiveConfig.model_fields["time_weight"].annotation.__args__) == set(WEIGHTS)


def test_an_unknown_objective_is_rejected_with_all_names_and_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        with_overrides(recipes.embedded(), {"objective.name": "sctd-oficial"})
    *rest, last = map(repr, ENTRIES)
    assert str(caught.value) == (
        f"recipe key 'objective.name' is 'sctd-oficial': it should be {', '.join(rest)} or {last}; "
        "the nearest is 'sctd-official'"
    )


def test_an_option_of_a_later_objective_changes_no_stored_recipe_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `inversion_step`, of ISM, had come after the first release."""
    monkeypatch.setattr(objective, "_ALWAYS_STORED", objective._ALWAYS_STORED - {"inversion_step"})
    ism = methods.for_objective(recipes.embedded(), "ism")
    for recipe in (recipes.embedded(), ism, with_overrides(recipes.embedded(), {"objective.inversion_step": 100})):
        is_stored = "inversion_step" in recipe.stored()["objective"]
        assert is_stored == (recipe != recipes.embedded())
        assert Recipe.model_validate(recipe.stored()) == recipe
        assert is_stored == ("inversion_step" in without_machine(recipe)["objective"])


def test_recipes_do_not_import_torch() -> None:
    code = "import sys; from sctd.recipe import presets; presets.embedded().digest(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_learning_rates_match_their_closed_forms() -> None:
    linear, log = RateConfig(start=0.004, end=0.0002), RateConfig(start=1e-2, end=1e-4, decay="log")
    assert [linear.at(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.004, 0.0021, 0.0002])
    assert [log.at(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1e-2, 10**-2.5, 1e-3, 1e-4])
    with pytest.raises(ValueError, match="has decay 'log'; both must be above 0"):
        RateConfig(start=1, end=0, decay="log")


def test_camera_ranges_change_every_500_iterations_up_to_their_limits() -> None:
    cameras = CamerasConfig()
    assert cameras.ranges_at(499).radius == (5.2, 5.5)
    first = cameras.ranges_at(500)
    assert first.radius == pytest.approx((5.2 * 0.95, 5.5 * 0.95))
    assert first.fov_y_radians == pytest.approx((0.24, 0.6))
    assert cameras.ranges_at(999) == first
    late = cameras.ranges_at(5000)
    assert late.radius == pytest.approx((3.5, 5.0))
    assert late.fov_y_radians == pytest.approx((0.16, 0.6))
    still = recipes.embedded().cameras
    assert still.ranges_at(10**6) == still.ranges_at(1)
