import shutil

import pytest

from pipeline import models
from pipeline.embedded import weights_folder
from pipeline.errors import UserError


def test_the_packaged_models_are_the_embedded_ones():
    assert models.resolve("embedded") == models.Weights("embedded", weights_folder())


def test_a_folder_gives_its_name_to_the_metrics(tmp_path):
    (tmp_path / "SD 2.1").mkdir()
    assert models.resolve(str(tmp_path / "SD 2.1")).name == "sd-2-1"


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(UserError) as caught:
        models.resolve("nowhere")
    assert str(caught.value) == (
        "There is no folder of weights 'nowhere'; give one with prior/, scorer/, reward/ and reference.npz, or leave "
        "--weights out for the packaged models."
    )


def test_missing_parts_are_named(tmp_path):
    (tmp_path / "scorer").mkdir()
    with pytest.raises(UserError) as caught:
        models.resolve(str(tmp_path)).require(["prior", *models.EVALUATION])
    assert str(caught.value) == (
        f"{tmp_path} lacks prior, reward, reference.npz; expected a folder with prior/, scorer/, reward/ and "
        "reference.npz (shape/ too for recipes that begin with a Point-E cloud, control/ for those with "
        "guidance.control)."
    )


def test_digests_are_of_names_and_contents_not_of_places(tmp_path, tiny_weights):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_weights, copy)
    (copy / "prior" / ".hidden").write_text("a file manager's")
    before = models.resolve(str(tiny_weights)).digests
    assert models.resolve(str(copy)).digests == before
    config = copy / "scorer" / "open_clip_config.json"
    config.write_text(config.read_text() + " ")
    after = models.resolve(str(copy)).digests
    assert {part for part in before if before[part] != after[part]} == {"scorer"}


def test_what_judges_does_not_enter_the_digest_of_what_makes(tmp_path, tiny_weights):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_weights, copy)
    (copy / "reference.npz").write_bytes(b"another")
    before, after = models.resolve(str(tiny_weights)), models.resolve(str(copy))
    assert before.generation_digest(with_shape=False) == after.generation_digest(with_shape=False)
    assert before.evaluation_digest() != after.evaluation_digest()


def test_a_controlnet_counts_only_in_what_is_made_with_it(tmp_path, tiny_weights):
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
