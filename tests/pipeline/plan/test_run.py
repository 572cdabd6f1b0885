from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.plan.protocol import Protocol
from pipeline.plan.run import Run
from pipeline.plan.text_limits import token_counter


def test_the_default_folder_name_depends_on_all_settings_that_change_results(run_of):
    name = run_of().name
    assert name.startswith("colours-sctd-")
    assert run_of().name == name
    others = [
        run_of(texts=("a red cube",)),
        run_of(objectives=("sctd", "sds")),
        run_of(seed=1),
        run_of(views=5),
        run_of(settings=["iterations=5", "initialization.kind=ball"]),
    ]
    assert len({name, *(run.name for run in others)}) == 6


def test_token_counts_equal_those_of_the_prior(run_of, tiny_weights):
    from sctd.prior.stable_diffusion import StableDiffusionPrior

    count, most = token_counter(run_of().weights)
    prior = StableDiffusionPrior.load(tiny_weights / "prior")
    for text in ("", "a red cube", "Ein ROTER Würfel, " * 9):
        assert count(text) == prior.count_tokens(text)
    assert most == prior.max_tokens


def test_a_prompt_too_long_for_the_prior_with_view_words_is_an_error(run_of):
    """The tiny prior's tokens are characters. The template, ', overhead view' and two end tokens leave 37 of 64."""
    run_of(texts=("x" * 37,)).check(scored=True)
    with pytest.raises(UserError) as caught:
        run_of(texts=("x" * 38,)).check(scored=True)
    assert str(caught.value) == (
        f"The prompt {'x' * 38!r} has 65 tokens with its view-dependent suffix, but the text encoder accepts "
        f"at most 64; shorten it."
    )


@pytest.mark.parametrize(("views", "given"), [(0, "0"), (-3, "-3"), (1001, "1001")])
def test_a_number_of_views_out_of_range_is_an_error(run_of, views, given):
    with pytest.raises(UserError) as caught:
        replace(run_of(), protocol=Protocol(views)).check(scored=True)
    assert str(caught.value) == f"--views is {given}; expected 1 to 1000 (the paper uses 120)."


def test_a_negative_seed_is_an_error(run_of):
    with pytest.raises(UserError, match=r"^--seed is -1; expected a whole number from 0 to 2\^63 - 1\.$"):
        run_of(seed=-1).check(scored=True)


def test_initialization_by_point_e_needs_its_model(run_of):
    with pytest.raises(
        UserError,
        match=r"^There is no shape \(Point-E base, 40M, text vectors\) in \S+; run segmentdreamer weights fetch shape ",
    ):
        run_of(settings=["initialization.kind=point_e"]).check(scored=True)


def test_scorers_are_needed_only_for_scoring(run_of, tmp_path, tiny_weights):
    (tmp_path / "prior").symlink_to(tiny_weights / "prior")
    run = run_of()
    alone = replace(run, weights=replace(run.weights, folder=tmp_path))
    alone.check(scored=False)
    with pytest.raises(UserError, match=r"^There is no scorer \(.*\), reward \(.*\) and reference \(.*\) in"):
        alone.check(scored=True)


def test_needed_bytes_grow_with_the_assets(run_of):
    run = run_of()
    settings = (["initialization.kind=ball", f"initialization.count={count}"] for count in (1000, 100_000))
    small, large = (run_of(settings=its_settings).jobs for its_settings in settings)
    assert run.needed_bytes(small) < run.needed_bytes(large) < 150 * 2**20
    assert run.needed_bytes([]) == 0


def test_needed_bytes_of_a_field_are_those_of_its_table_not_of_gaussians(run_of):
    run = run_of()
    nerf = ["nerf.levels=4", "nerf.features=1"]
    (small, *_), (large, *_) = (
        run_of(objectives=("dreamfusion",), settings=[*nerf, f"nerf.log2_entries={n}"]).jobs for n in (10, 20)
    )
    assert run.needed_bytes([large]) - run.needed_bytes([small]) == 5 * 4 * 4 * (
        2**20 - 2**10
    )  # copies × bytes × levels


def controlled(run: Run, folder: Path) -> Run:
    """The run with a stand-in for a ControlNet added to its weights."""
    for part in run.weights.folder.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "control").mkdir()
    (folder / "control" / "config.json").write_text("{}")
    return replace(run, weights=replace(run.weights, folder=folder))


def test_a_recipe_with_control_needs_a_controlnet(run_of, tmp_path):
    run = run_of(settings=["initialization.kind=ball", "guidance.control=depth"])
    with pytest.raises(UserError, match=r"^There is no control in \S+; put your own model into control/"):
        run.check(scored=True)
    controlled(run, tmp_path).check(scored=True)


def test_a_controlnet_does_not_change_the_ids_of_other_jobs(run_of, tmp_path):
    """Neither if it is in the weights folder nor if another row of the leaderboard uses it."""
    alone = [job.id for job in run_of().jobs]
    run = controlled(run_of(swept=["guidance.control=none,depth"]), tmp_path)
    plain = [job for job in run.jobs if job.recipe.guidance.control == "none"]
    assert [job.id for job in plain] == alone
    before = [job.id for job in run.jobs if job not in plain]
    (tmp_path / "control" / "config.json").write_text("{ }")
    after = replace(run, weights=replace(run.weights))
    assert [job.id for job in after.jobs if job.recipe.guidance.control == "none"] == alone
    assert not {job.id for job in after.jobs} & set(before)


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        (
            "ply",
            "gone.ply",
            None,
            "cannot read initialization.path {path} (No such file or directory); give a readable .ply",
        ),
        (
            "ply",
            "text.ply",
            b"no shape",
            "initialization.path {path}: This is not a .ply: it starts with b'no shape', not",
        ),
        (
            "mesh",
            "gone.glb",
            None,
            "cannot read initialization.path {path} (No such file or directory); give a readable mesh",
        ),
        (
            "mesh",
            "empty.obj",
            b"",
            "initialization.path {path}: The file is empty; expected a mesh. Export it again as .obj.",
        ),
        ("mesh", "cut.glb", b"glTF", "initialization.path {path}: The file cannot be read as .glb ("),
    ],
)
def test_initialization_files_are_checked_before_any_work(run_of, tmp_path, kind, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    run = run_of(objectives=("sctd", "sds"), settings=[f"initialization.kind={kind}", f"initialization.path={path}"])
    with pytest.raises(UserError) as caught:
        run.check(scored=False)
    assert str(caught.value).startswith("Initialization failed: " + message.format(path=path))
    assert str(caught.value)[-2:] not in ("..", ";.")
    assert "\n" not in str(caught.value)


def test_a_valid_initialization_file_is_accepted(run_of, tmp_path):
    path = tmp_path / "triangle.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    run_of(settings=["initialization.kind=mesh", f"initialization.path={path}"]).check(scored=True)
