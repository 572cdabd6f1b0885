"""The settings that each method changes in its base recipe, and invalid combinations."""

import pytest

from sctd.recipe import presets as recipes
from sctd.recipe.methods import FEW_ITERATIONS, METHODS, ON_NERF, SMALL_NERF, for_objective
from sctd.recipe.objective import ENTRIES
from sctd.recipe.recipe import Recipe, RecipeError, keys, with_overrides

BASES = {
    "paper": recipes.paper,
    "embedded": recipes.embedded,
    "paper-portrait": recipes.RECIPES["paper-portrait"],
    "embedded-avatar": recipes.RECIPES["embedded-avatar"],
}

SDS = {
    "objective.name": "sds",
    "objective.time_weight": "one_minus_alpha_bar",
    "times.rule": "single",
    "noise.kind": "fresh",
}
ISM = {"objective.name": "ism", "times.rule": "interval"}
CDS = {
    "objective.name": "cds",
    "times.rule": "annealed",
    "times.low": 100,
    "times.high": 700,
    "times.gap": (100, 299),
    "noise.shared": True,
}
GCS = {"objective.name": "gcs", "objective.time_weight": "one", "times.rule": "two_intervals"}
SETTINGS = {
    "sctd": {},
    "sctd-official": {
        "objective.name": "sctd-official",
        "objective.time_weight": "sigma_over_alpha",
        "times.segment_range": (20, 980),
        "times.shift_lower_bound": True,
    },
    "sds": SDS,
    "sds-authors": SDS
    | {"guidance.scale": 101, "times.high": 980, "times.start_high": 980, "noise.offset": 0},
    "ism": ISM,
    "ism-authors": ISM
    | {"objective.time_weight": "sigma_over_alpha", "guidance.scale": 7.5, "noise.kind": "fresh"},
    "cds": CDS,
    "cds-authors": CDS
    | {"objective.time_weight": "one", "objective.clamp": (2, 8), "guidance.scale": 30, "noise.offset": 0},
    "gcs": GCS,
    "gcs-authors": GCS
    | {
        "guidance.scale": 7.5,
        "guidance.perp_neg": True,
        "times.shift_lower_bound": True,
        "brightness.enabled": True,
    },
}  # fmt: skip
"""All settings of a method, independent of the base."""


def flat(recipe: Recipe) -> dict[str, object]:
    def at(key: str) -> object:
        value = recipe.model_dump()
        for step in key.split("."):
            value = value[step]
        return value

    return {key: at(key) for key in keys(recipe)}


def otherwise(base: Recipe) -> Recipe:
    """A base that differs from the settings of every method where possible, so that each setting is visible."""
    other = {
        "guidance.scale": 3, "noise.offset": 0.7, "objective.time_weight": "b_t", "times.start_high": 970,
        "times.gap": (50, 60), "brightness.enabled": False, "guidance.perp_neg": False, "noise.kind": "fixed",
    }  # fmt: skip
    return with_overrides(base, other)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_changes_only_its_own_settings(method: str, base: str) -> None:
    for start in (BASES[base](), otherwise(BASES[base]())):
        before, after = flat(start), flat(for_objective(start, method))
        is_small = method in ON_NERF and start.iterations < FEW_ITERATIONS
        assert after == before | (SMALL_NERF if is_small else {}) | METHODS[method]


def test_settings_of_the_first_methods_are_those_of_their_papers() -> None:
    assert {method: dict(METHODS[method]) for method in SETTINGS} == SETTINGS


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_gives_a_valid_recipe_and_is_idempotent(method: str, base: str) -> None:
    recipe = for_objective(BASES[base](), method)
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert for_objective(recipe, method) == recipe


@pytest.mark.parametrize(
    ("method", "scale"), [("sds-authors", 101), ("ism-authors", 7.5), ("cds-authors", 30), ("gcs-authors", 7.5)]
)
@pytest.mark.parametrize("base", BASES)
def test_guidance_scales_of_the_authors(method: str, scale: float, base: str) -> None:
    assert for_objective(otherwise(BASES[base]()), method).guidance.scale == scale


def test_shared_settings_keep_the_scale_of_the_base() -> None:
    for method in ("sctd", "sctd-official", "sds", "ism", "cds", "gcs"):
        assert for_objective(otherwise(recipes.paper()), method).guidance.scale == 3


def test_every_objective_has_a_method_and_authors_methods_have_their_objective() -> None:
    assert [name for name in METHODS if not name.endswith("-authors")] == [*ENTRIES, *ON_NERF]
    for name in METHODS:
        authors = ON_NERF.get(name, name)
        assert for_objective(recipes.paper(), name).objective.name == authors.removesuffix("-authors")


@pytest.mark.parametrize(
    ("derived", "message"),
    [
        (
            lambda base: with_overrides(for_objective(base, "sds"), {"objective.name": "sctd"}),
            "recipe key 'recipe': objective 'sctd' does not support times.rule 'single'; set times.rule to segments",
        ),
        (
            lambda base: with_overrides(base, {"objective.name": "sctd-official", "times.rule": "annealed"}),
            (
                "recipe key 'recipe': objective 'sctd-official' does not support times.rule 'annealed'; set "
                "times.rule to segments"
            ),
        ),
        (
            lambda base: with_overrides(for_objective(base, "ism"), {"times.rule": "single"}),
            (
                "recipe key 'recipe': objective 'ism' does not support times.rule 'single'; set times.rule to "
                "interval or segments"
            ),
        ),
        (
            lambda base: with_overrides(for_objective(base, "cds"), {"times.rule": "two_intervals"}),
            (
                "recipe key 'recipe': objective 'cds' does not support times.rule 'two_intervals'; set times.rule to "
                "annealed or segments or interval"
            ),
        ),
        (
            lambda base: with_overrides(for_objective(base, "gcs"), {"times.rule": "interval"}),
            (
                "recipe key 'recipe': objective 'gcs' does not support times.rule 'interval'; set times.rule to "
                "two_intervals or segments"
            ),
        ),
        (
            lambda base: for_objective(with_overrides(base, {"guidance.view_text": "none"}), "gcs-authors"),
            "recipe key 'guidance': perp_neg is true but view_text is 'none'; Perp-Neg needs a view-dependent suffix",
        ),
        (
            lambda base: for_objective(with_overrides(base, {"times.low": 10}), "sctd-official"),
            (
                "recipe key 'times': segment_range 20–980 does not contain every t from 10 to 980; widen it, or raise "
                "low or lower start_high"
            ),
        ),
        (
            lambda base: for_objective(with_overrides(base, {"times.start_high": 650}), "cds"),
            "recipe key 'times': low 100, high 700, start_high 650; expected low < high <= start_high",
        ),
        (
            lambda base: with_overrides(for_objective(base, "cds"), {"times.gap": (890, 900)}),
            "recipe key 'times': gap 890 above low 100 exceeds start_high 980; expected low + gap <= start_high",
        ),
        (
            lambda base: for_objective(with_overrides(base, {"times.interval": 10}), "gcs"),
            "recipe key 'times': interval 10 and epsilon 10 leave no valid time s_m; interval must be at least 11",
        ),
        (
            lambda base: for_objective(
                with_overrides(base, {"times.interval": 500, "times.interval_extra": 480}), "gcs"
            ),
            (
                "recipe key 'times': interval 500 and interval_extra 480 exceed start_high 980; "
                "expected interval + interval_extra < start_high"
            ),
        ),
        (
            lambda base: with_overrides(base, {"objective.clamp": (0, 2)}),
            "recipe key 'objective': clamp is (0.0, 2.0); expected two bounds above 0, or 0,0 for no clamp",
        ),
    ],
)
@pytest.mark.parametrize("base", ["paper", "embedded"])
def test_incompatible_settings_are_rejected_in_one_sentence(derived, message: str, base: str) -> None:
    with pytest.raises(RecipeError) as caught:
        derived(BASES[base]())
    assert str(caught.value) == message


def test_checks_apply_only_to_the_rule_that_needs_them() -> None:
    short = {"times.interval": 10}
    assert for_objective(with_overrides(recipes.paper(), short), "sctd").times.interval == 10
    assert for_objective(with_overrides(recipes.paper(), short), "ism").times.interval == 10
    assert for_objective(with_overrides(recipes.paper(), {"times.low": 10}), "sds").times.low == 10
