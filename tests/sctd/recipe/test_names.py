"""Former names of recipe keys: accepted in options, files and run folders, and kept in digests."""

import json

import pytest

from sctd.recipe import names
from sctd.recipe.presets import embedded, paper
from sctd.recipe.recipe import Recipe, RecipeError, from_json, keys, with_overrides

FORMER = {**names.KEYS, "seed_shape.kind": "initialization.kind", "seed_shape.mesh_up": "initialization.mesh_up"}


@pytest.mark.parametrize(("former", "key"), FORMER.items())
def test_a_former_name_sets_the_key(former, key):
    value = {"compute.fast": False, "seed_shape.kind": "ball", "seed_shape.mesh_up": "z"}.get(former)
    if value is None:
        value = {"use_cloud_colours": False, "cloud_prompt_template": "a {prompt}", "radius_least": (3.0, 4.0)}.get(
            former.rpartition(".")[2], 1
        )
    changed = with_overrides(embedded(), {former: value})
    assert changed != embedded()
    assert changed == with_overrides(embedded(), {key: value})
    assert key in keys(embedded())
    assert former not in keys(embedded())


def test_former_names_are_read_from_nested_json_and_by_the_model():
    tree = {"seed_shape": {"kind": "ball", "cloud_steps": 7}, "give_up_after": 3, "compute": {"fast": False}}
    read = from_json(json.dumps(tree), embedded())
    assert (read.initialization.kind, read.initialization.point_e_steps) == ("ball", 7)
    assert (read.max_skipped_iterations, read.compute.cuda_graphs) == (3, False)
    assert Recipe.model_validate(read.stored()) == read


@pytest.mark.parametrize("recipe", [paper(), embedded()], ids=lambda recipe: recipe.name)
def test_the_stored_form_has_the_former_names_and_reads_back(recipe):
    stored = recipe.stored()
    assert "seed_shape" in stored
    assert "initialization" not in stored
    assert stored["seed_shape"]["cloud_steps"] == recipe.initialization.point_e_steps
    assert stored["compute"]["fast"] is True
    unstored = {"objective": recipe.objective.unstored, "compute": {"cpu_engine"}}  # at its default
    unstored |= {"representation": True, "nerf": True}  # of Gaussians
    assert names.current_tree(stored) == recipe.model_dump(mode="json", exclude=unstored)
    assert Recipe.model_validate(stored) == recipe


def test_stored_and_current_names_are_inverse():
    for key in keys(embedded()):
        assert names.current(names.stored(key)) == names.current(key) == key


def test_two_names_of_one_key_are_rejected():
    with pytest.raises(RecipeError) as caught:
        with_overrides(embedded(), {"seed_shape.count": 5, "initialization.count": 6})
    assert str(caught.value) == (
        "recipe key 'seed_shape.count' is the former name of 'initialization.count'; set only one"
    )


def test_digests_are_those_of_the_first_release():
    """Pinned at fba357d: a checkpoint's identity holds the digest, a job's id the stored form."""
    assert embedded().digest()[:16] == "d89b3c0efe779986"
    assert paper().digest()[:16] == "33ee9dce6b7783c1"
