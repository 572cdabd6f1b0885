from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.plan.protocol import Protocol
from pipeline.plan.run import Run, token_counter


def test_the_default_folder_is_named_by_all_that_decides_the_numbers(run_of):
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


def test_tokens_are_counted_as_the_prior_counts_them(run_of, tiny_weights):
    from sctd.prior.stable_diffusion import StableDiffusionPrior

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
    with pytest.raises(
        UserError,
        match=r"^There is no shape \(Point-E base, 40M, text vectors\) in \S+; run segmentdreamer weights fetch shape ",
    ):
        run_of(settings=["initialization.kind=point_e"]).check(judged=True)


def test_judges_are_needed_only_to_judge(run_of, tmp_path, tiny_weights):
    (tmp_path / "prior").symlink_to(tiny_weights / "prior")
    run = run_of()
    alone = replace(run, weights=replace(run.weights, folder=tmp_path))
    alone.check(judged=False)
    with pytest.raises(UserError, match=r"^There is no scorer \(.*\), reward \(.*\) and reference \(.*\) in"):
        alone.check(judged=True)


def test_the_space_asked_for_grows_with_the_assets(run_of):
    run = run_of()
    settings = (["initialization.kind=ball", f"initialization.count={count}"] for count in (1000, 100_000))
    small, large = (run_of(settings=its_settings).jobs for its_settings in settings)
    assert run.needed_bytes(small) < run.needed_bytes(large) < 150 * 2**20
    assert run.needed_bytes([]) == 0


def controlled(run: Run, folder: Path) -> Run:
    """The run with weights that hold a ControlNet, too, or what stands for one here."""
    for part in run.weights.folder.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "control").mkdir()
    (folder / "control" / "config.json").write_text("{}")
    return replace(run, weights=replace(run.weights, folder=folder))


def test_a_recipe_with_a_control_needs_its_model(run_of, tmp_path):
    run = run_of(settings=["initialization.kind=ball", "guidance.control=depth"])
    with pytest.raises(UserError, match=r"^There is no control in \S+; put a model of your own into control/"):
        run.check(judged=True)
    controlled(run, tmp_path).check(judged=True)


def test_a_control_changes_the_ids_of_no_other_jobs(run_of, tmp_path):
    """Neither its being there nor its being used by another row of the same board."""
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
            "initialization.path {path}: This is no .ply: it begins with b'no shape', expected",
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
def test_a_file_to_start_from_is_read_before_any_work(run_of, tmp_path, kind, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    run = run_of(objectives=("sctd", "sds"), settings=[f"initialization.kind={kind}", f"initialization.path={path}"])
    with pytest.raises(UserError) as caught:
        run.check(judged=False)
    assert str(caught.value).startswith("No shape to start from: " + message.format(path=path))
    assert str(caught.value)[-2:] not in ("..", ";.")
    assert "\n" not in str(caught.value)


def test_a_file_that_can_be_started_from_is_accepted(run_of, tmp_path):
    path = tmp_path / "triangle.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    run_of(settings=["initialization.kind=mesh", f"initialization.path={path}"]).check(judged=True)
