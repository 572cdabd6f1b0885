from dataclasses import replace

import pytest

from pipeline.errors import UserError
from pipeline.protocol import Protocol
from pipeline.run import token_counter


def test_the_default_folder_is_named_by_all_that_decides_the_numbers(run_of):
    name = run_of().name
    assert name.startswith("colours-sctd-")
    assert run_of().name == name
    others = [
        run_of(texts=("a red cube",)),
        run_of(objectives=("sctd", "sds")),
        run_of(seed=1),
        run_of(views=5),
        run_of(settings=["iterations=5", "seed_shape.kind=ball"]),
    ]
    assert len({name, *(run.name for run in others)}) == 6


def test_tokens_are_counted_as_the_prior_counts_them(run_of, tiny_weights):
    from sctd.prior import StableDiffusionPrior

    count, most = token_counter(run_of().weights)
    prior = StableDiffusionPrior.load(tiny_weights / "prior")
    for text in ("", "a red cube", "Ein ROTER Würfel, " * 9):
        assert count(text) == prior.count_tokens(text)
    assert most == prior.max_tokens


def test_a_prompt_longer_than_the_prior_reads_is_refused_with_its_view_words(run_of):
    """Tiny's tokens are characters: 12 of 'a DSLR photo of', 13 of ', overhead view', and two ends leave 37 of 64."""
    run_of(texts=("x" * 37,)).check(judged=True)
    with pytest.raises(UserError) as caught:
        run_of(texts=("x" * 38,)).check(judged=True)
    assert str(caught.value) == (
        f"The prompt {'x' * 38!r} comes to 65 tokens with its view words, and this prior reads 64: shorten it."
    )


@pytest.mark.parametrize(("views", "given"), [(0, "0"), (-3, "-3"), (1001, "1001")])
def test_a_number_of_views_that_cannot_be_meant(run_of, views, given):
    with pytest.raises(UserError) as caught:
        replace(run_of(), protocol=Protocol(views)).check(judged=True)
    assert str(caught.value) == f"--views is {given}; give 1 to 1000, or 120 to follow the paper."


def test_a_seed_that_cannot_be_meant(run_of):
    with pytest.raises(UserError, match=r"^--seed is -1; give a whole number from 0 to 2\^63 - 1\.$"):
        run_of(seed=-1).check(judged=True)


def test_a_recipe_that_begins_with_a_cloud_needs_the_model_of_clouds(run_of):
    with pytest.raises(UserError, match="lacks shape; expected a folder with"):
        run_of(settings=["seed_shape.kind=point_e"]).check(judged=True)


def test_judges_are_needed_only_to_judge(run_of, tmp_path, tiny_weights):
    (tmp_path / "prior").symlink_to(tiny_weights / "prior")
    run = run_of()
    alone = replace(run, weights=replace(run.weights, folder=tmp_path))
    alone.check(judged=False)
    with pytest.raises(UserError, match=r"lacks scorer, reward, reference\.npz"):
        alone.check(judged=True)


def test_the_space_asked_for_grows_with_the_assets(run_of):
    run = run_of()
    settings = (["seed_shape.kind=ball", f"seed_shape.count={count}"] for count in (1000, 100_000))
    small, large = (run_of(settings=its_settings).jobs for its_settings in settings)
    assert run.needed_bytes(small) < run.needed_bytes(large) < 150 * 2**20
    assert run.needed_bytes([]) == 0
