import shutil
import sys

import pytest

from pipeline.embedded import weights_folder
from pipeline.errors import UserError
from pipeline.plan.metrics import PER_VIEW, measured
from pipeline.plan.protocol import Protocol
from pipeline.plan.run import evaluation_digest
from pipeline.weights import models
from pipeline.weights.catalogue import SCORER
from pipeline.weights.networks import SCORER_PARTS


def test_embedded_resolves_to_the_bundled_models():
    assert models.resolve("embedded") == models.Weights("embedded", weights_folder())


def test_the_name_follows_from_the_folder(tmp_path):
    (tmp_path / "SD 2.1").mkdir()
    assert models.resolve(str(tmp_path / "SD 2.1")).name == "sd-2-1"


def test_a_missing_folder_is_an_error():
    with pytest.raises(UserError) as caught:
        models.resolve("nowhere")
    assert str(caught.value) == (
        "There is no weights folder 'nowhere'; pass one with prior/, scorer/, reward/ and reference.npz, or omit "
        "--weights for the bundled models."
    )


def test_missing_parts_are_an_error_with_the_commands_to_get_them(tmp_path):
    (tmp_path / "scorer").mkdir()
    (tmp_path / "scorer" / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError) as caught:
        models.resolve(str(tmp_path)).require(["prior", *models.EVALUATION])
    assert str(caught.value) == (
        "There is no prior (Stable Diffusion 2.1-base), reward (ImageReward-v1.0) and reference (moments of the "
        f"prior's images) in {tmp_path}; run segmentdreamer weights fetch prior reward --weights {tmp_path}, "
        f"then run segmentdreamer reference --weights {tmp_path}, or give a complete folder with --weights DIR."
    )


def test_a_part_without_files_or_with_partial_downloads_only_is_missing(tmp_path):
    (tmp_path / "prior" / "unet").mkdir(parents=True)
    (tmp_path / "prior" / "unet" / ".model.safetensors.part").write_bytes(b"half")
    with pytest.raises(UserError, match="There is no prior"):
        models.resolve(str(tmp_path)).require(["prior"])


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The folder of fetched weights, empty."""
    monkeypatch.setenv("SEGMENTDREAMER_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_fetch_command_omits_the_default_folder(published):
    with pytest.raises(UserError) as caught:
        models.resolve("published").require(["prior"])
    assert str(caught.value) == (
        f"There is no prior (Stable Diffusion 2.1-base) in {published}; run segmentdreamer weights fetch prior, or "
        "give a complete folder with --weights DIR."
    )


def test_a_published_part_is_missing_until_all_its_files_exist(published):
    for file in SCORER.files[:1]:
        SCORER.place(published, file).parent.mkdir(parents=True)
        SCORER.place(published, file).write_text("{}")
    with pytest.raises(UserError, match="There is no scorer"):
        models.resolve("published").require(["scorer"])
    SCORER.place(published, SCORER.files[1]).write_bytes(b"weights")
    models.resolve("published").require(["scorer"])


def test_a_part_that_cannot_be_fetched_must_be_provided(tmp_path):
    with pytest.raises(UserError, match=r"There is no control in \S+; put your own model into control/, or give"):
        models.resolve(str(tmp_path)).require(["control"])


def test_the_folder_of_fetched_weights_is_always_named_published(published):
    published.mkdir()
    assert models.resolve(str(published)) == models.resolve("published") == models.Weights("published", published)


def test_fetched_weights_are_in_the_platforms_cache_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = models.published_folder({})
    assert folder.parts[-2:] == ("segmentdreamer", "weights")
    if sys.platform == "linux":
        assert folder == tmp_path / "segmentdreamer" / "weights"


def test_digests_depend_on_names_and_contents_but_not_on_the_folder(tmp_path, tiny_weights):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_weights, copy)
    (copy / "prior" / ".hidden").write_text("a file manager's")
    before = models.resolve(str(tiny_weights)).digests
    assert models.resolve(str(copy)).digests == before
    config = copy / "scorer" / "open_clip_config.json"
    config.write_text(config.read_text() + " ")
    after = models.resolve(str(copy)).digests
    assert {part for part in before if before[part] != after[part]} == {"scorer"}


def test_scorers_do_not_change_the_generation_digest(tmp_path, tiny_weights):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_weights, copy)
    (copy / "reference.npz").write_bytes(b"another")
    before, after = models.resolve(str(tiny_weights)), models.resolve(str(copy))
    assert before.generation_digest(with_shape=False) == after.generation_digest(with_shape=False)
    assert before.evaluation_digest() != after.evaluation_digest()


def test_a_controlnet_changes_only_digests_of_recipes_that_use_it(tmp_path, tiny_weights):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_weights, copy)
    (copy / "control").mkdir()
    (copy / "control" / "config.json").write_text("{}")
    without, with_it = models.resolve(str(tiny_weights)), models.resolve(str(copy))
    plain = without.generation_digest(with_shape=False)
    assert with_it.generation_digest(with_shape=False) == plain
    first = with_it.generation_digest(with_shape=False, with_control=True)
    assert first != plain
    (copy / "control" / "config.json").write_text("{ }")
    assert models.resolve(str(copy)).generation_digest(with_shape=False, with_control=True) not in (plain, first)


def with_parts(folder, *parts):
    for part in parts:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_bytes(b"something")
    return models.resolve(str(folder))


FID = "inception/weights.pth", "reference-inception.npz"


def test_a_distance_is_measured_if_both_of_its_parts_exist(tmp_path, tiny_weights):
    assert [distance.metric for distance in models.resolve("embedded").distances] == ["fd"]
    copy = tmp_path / "copy"
    shutil.copytree(tiny_weights, copy)
    without = models.resolve(str(copy))
    assert without.scorers == list(models.EVALUATION)
    before = without.evaluation_digest(), without.digests
    for part in FID:
        alone = models.resolve(str(copy))
        assert (alone.evaluation_digest(), alone.digests) == before
        weights = with_parts(copy, part)
    assert [distance.metric for distance in weights.distances] == ["fd", "fid"]
    assert weights.scorers == [*models.EVALUATION, "inception", "reference-inception.npz"]
    assert weights.evaluation_digest() != before[0]
    assert weights.evaluation_digest(required_only=True) == before[0]
    assert weights.digests.keys() - before[1].keys() == {"inception", "reference-inception.npz"}
    assert weights.generation_digest(with_shape=False) == without.generation_digest(with_shape=False)
    for part in FID:
        with_parts(copy, part)
        (copy / part).write_bytes(b"another")
        assert models.resolve(str(copy)).evaluation_digest() != weights.evaluation_digest()


@pytest.mark.parametrize("part", SCORER_PARTS)
def test_an_optional_scorer_is_measured_if_its_part_exists(tmp_path, tiny_weights, part):
    copy = shutil.copytree(tiny_weights, tmp_path / "copy")
    before = models.resolve(str(copy))
    assert [metric.id for metric in measured(before)] == [metric.id for metric in PER_VIEW if not metric.part]
    digests = [evaluation_digest(before, Protocol(3), ["a"], required_only=only) for only in (False, True)]
    weights = with_parts(copy, f"{part}/model.safetensors")
    assert [metric.part for metric in measured(weights) if metric.part] == [part]
    assert weights.scorers == [*models.EVALUATION, part]
    assert part in weights.digests
    after = [evaluation_digest(weights, Protocol(3), ["a"], required_only=only) for only in (False, True)]
    assert after[0] != digests[0], "assets are scored again"
    assert after[1] == digests[1], "a run finds its assets"


def test_every_part_of_an_optional_scorer_has_one_metric():
    assert [metric.part for metric in PER_VIEW if metric.part] == list(SCORER_PARTS)


MADE, FETCHED = "run segmentdreamer reference --weights", "run segmentdreamer weights fetch dinov2 --weights"


@pytest.mark.parametrize(
    ("part", "sentences"),
    [
        (
            "inception/weights.pth",
            [
                f"fid is not measured: {{0}} has inception but no reference-inception.npz; {MADE} {{0}}.",
                f"fid_tf is not measured: {{0}} has inception but no reference-inception_tf.npz; {MADE} {{0}}.",
            ],
        ),
        (
            "reference-dinov2.npz",
            [f"fd_dinov2 is not measured: {{0}} has reference-dinov2.npz but no dinov2; {FETCHED} {{0}}."],
        ),
    ],
)
def test_a_distance_with_only_one_part_is_reported(tmp_path, part, sentences):
    weights = with_parts(tmp_path, part)
    assert [distance.metric for distance in weights.distances] == ["fd"]
    assert weights.left_out() == [sentence.format(tmp_path) for sentence in sentences]


def test_the_command_for_a_distance_omits_the_default_folder(published):
    weights = with_parts(published, "reference-inception.npz")
    (sentence,) = weights.left_out()
    assert sentence.endswith(
        "has reference-inception.npz but no inception; run segmentdreamer weights fetch inception."
    )
    with_parts(published, "inception/weights-inception-2015-12-05-6726825d.pth")
    assert [distance.metric for distance in models.resolve("published").distances] == ["fd", "fid"]
    (sentence,) = models.resolve("published").left_out()
    assert sentence.endswith("no reference-inception_tf.npz; run segmentdreamer reference --weights published.")
