"""Checks of single models: damaged files, other models and pickles with code are refused with a one-line reason."""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.weights import check as checking
from pipeline.weights.catalogue import ROLES, File, Group
from pipeline.weights.check import CheckStatus, check
from tests.support import tiny_models

MODELS = "prior", "scorer", "reward", "reference"


@pytest.fixture
def weights(tiny_weights, tmp_path):
    """A copy of the tiny weights, to be damaged."""
    return shutil.copytree(tiny_weights, tmp_path / "weights")


def only(results, status):
    """The text of the only result with this status."""
    (found,) = [result for result in results if result.status is status]
    assert "\n" not in found.text
    return found.text


class Dangerous:
    """Unpickling it writes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", MODELS)
def test_intact_models_load(weights, name):
    results = list(check(ROLES[name], weights))
    assert {result.status for result in results} <= {CheckStatus.OK, CheckStatus.NOTE}
    assert results[-1].role == name
    assert any(result.text.startswith(("loads; all tensors", "opens and is unchanged")) for result in results)


@pytest.mark.parametrize("name", ROLES)
def test_a_missing_role_is_reported_with_its_command(tmp_path, name):
    role = ROLES[name]
    text = only(check(role, tmp_path), CheckStatus.MISSING)
    assert text.startswith(f"there is no {tmp_path / role.folder}")
    assert text.endswith(f"; run {role.command}")


FILES = {
    "prior": "prior/unet/diffusion_pytorch_model.safetensors",
    "scorer": "scorer/open_clip_model.safetensors",
    "reward": "reward/model.safetensors",
    "reference": "reference.npz",
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("damage", ["truncated", "noise"])
def test_a_damaged_file_is_refused(weights, name, damage):
    path = weights / FILES[name]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"\xff" * len(content))
    only(check(ROLES[name], weights), CheckStatus.REFUSED)


@pytest.mark.parametrize("name", ["prior", "scorer", "reward"])
def test_a_model_of_another_architecture_is_refused(weights, name):
    path = weights / FILES[name]
    tensors = load_file(path)
    first = max(tensors, key=lambda key: tensors[key].numel())
    save_file(tensors | {first: torch.zeros(3, 5)}, path, {"format": "pt"})
    only(check(ROLES[name], weights), CheckStatus.REFUSED)


@pytest.mark.parametrize("name", ["shape", "upsampler", "inception", "reward"])
def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(tmp_path, weights, name):
    role, witness = ROLES[name], tmp_path / "witness"
    path = role.place(weights, role.files[0])
    path.parent.mkdir(exist_ok=True)
    (path.parent / "model.safetensors").unlink(missing_ok=True)
    torch.save({"weight": Dangerous(witness)}, path)
    only(check(_without_digests(role), weights), CheckStatus.REFUSED)
    path.write_bytes(pickle.dumps(Dangerous(witness)))
    only(check(_without_digests(role), weights), CheckStatus.REFUSED)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["shape", "upsampler", "inception", "reward"])
def test_tensors_of_another_model_are_refused(weights, name):
    role = ROLES[name]
    path = role.place(weights, role.files[0])
    path.parent.mkdir(exist_ok=True)
    (path.parent / "model.safetensors").unlink(missing_ok=True)
    torch.save({"weight": torch.zeros(2, 3)}, path)
    only(check(_without_digests(role), weights), CheckStatus.REFUSED)


def _without_digests(role):
    """The role without digests, so that a file is checked only by loading it."""
    groups = tuple(Group(group.sources, tuple(File(file.path) for file in group.files)) for group in role.groups)
    return replace(role, groups=groups)


def test_a_published_file_with_another_digest_is_refused_without_loading_it(weights, monkeypatch):
    monkeypatch.setitem(checking.LOADERS, "prior", lambda path: pytest.fail("it was opened"))
    text = only(check(ROLES["prior"], weights, is_published=True), CheckStatus.REFUSED)
    assert "is not the published file: " in text
    assert text.endswith("; delete it and run segmentdreamer weights fetch prior")


def test_a_users_model_is_a_note_and_is_loaded(weights):
    results = list(check(ROLES["prior"], weights))
    assert [result.status for result in results].count(CheckStatus.NOTE) == 3
    assert results[-1].status is CheckStatus.OK


def test_the_digest_of_a_file_without_a_published_digest_is_reported(tmp_path):
    role = ROLES["shape"]
    path = role.place(tmp_path, role.files[0])
    path.parent.mkdir()
    path.write_bytes(bytes(2**20 + 1))
    text = only(check(role, tmp_path, is_published=True), CheckStatus.NOTE)
    assert text == (
        "base_40m_textvec.pt: 1,048,577 bytes, "
        "SHA-256 2cb74edba754a81d121c9db6833704a8e7d417e5b13d1a19f4a52f007d644264; "
        "the published digest is not known"
    )


def test_a_dinov2_folder_is_checked_by_the_loader_of_a_run(tmp_path):
    folder = tiny_models.write_dinov2(tmp_path / "dinov2")
    assert {result.status for result in check(ROLES["dinov2"], tmp_path)} == {CheckStatus.OK}
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "vit"}))
    assert only(check(ROLES["dinov2"], tmp_path), CheckStatus.REFUSED).endswith("holds a vit model; expected dinov2")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "dinov2"}))
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    assert "does not match its config.json" in only(check(ROLES["dinov2"], tmp_path), CheckStatus.REFUSED)


@pytest.mark.parametrize("role", ["pickscore", "hps", "aesthetic"])
def test_optional_scorers_are_checked_by_the_loaders_of_a_run(tmp_path, role):
    folder = getattr(tiny_models, f"write_{role}")(tmp_path / role)
    results = list(check(ROLES[role], tmp_path))
    assert results[-1].status is CheckStatus.OK
    assert {result.status for result in results[:-1]} == {CheckStatus.NOTE}, "their digests are not the published ones"
    for file in folder.iterdir():
        if file.suffix in (".safetensors", ".pt", ".pth"):
            file.write_bytes(file.read_bytes()[:500])
    assert "truncated, damaged or not a checkpoint" in only(check(ROLES[role], tmp_path), CheckStatus.REFUSED)
    assert "is not the published file" in only(check(ROLES[role], tmp_path, is_published=True), CheckStatus.REFUSED)


# ---- published outputs --------------------------------------------------------------------------------------------


class Rewards:
    """A model whose rewards follow from the first value of an image."""

    def __init__(self, off: float) -> None:
        self.off = off

    def score(self, views, text):
        assert text == checking.README_PROMPT
        rewards = list(checking.README_REWARDS.values())
        return np.array([rewards[round(float(view[0, 0, 0]) / 50)] + self.off for view in views])


@pytest.fixture
def golden_images(tmp_path):
    from PIL import Image

    folder = tmp_path / "assets" / "images"
    folder.mkdir(parents=True)
    for number, name in enumerate(checking.README_REWARDS):
        Image.new("RGB", (8, 8), (50 * number, 0, 0)).save(folder / name, lossless=True)
    Image.new("RGB", (8, 8)).save(folder / "CLIP.png")
    return tmp_path / "assets"


@pytest.mark.parametrize(("off", "status"), [(0.004, CheckStatus.OK), (0.006, CheckStatus.REFUSED)])
def test_rewards_are_compared_with_those_of_the_readme(tmp_path, golden_images, off, status):
    (tmp_path / "ImageReward.pt").write_bytes(b"")
    ((found, text),) = checking._golden_rewards(Rewards(off), tmp_path, golden_images)
    assert found is status
    assert f"error at most {off:.1e}" in text


def test_rewards_are_skipped_without_the_images(tmp_path):
    (tmp_path / "ImageReward.pt").write_bytes(b"")
    ((status, text),) = checking._golden_rewards(Rewards(0), tmp_path, None)
    assert status is CheckStatus.NOTE
    assert text == (
        "published rewards skipped: give the folder assets/images of a clone of github.com/zai-org/ImageReward with "
        "--golden DIR"
    )


class Clip:
    """Features whose cosines give these probabilities."""

    def __init__(self, probabilities, patch) -> None:
        self.logits = np.log(np.array(probabilities)) / checking.LOGIT_SCALE
        self.model = torch.nn.Module()
        self.model.visual = torch.nn.Module()
        self.model.visual.conv1 = torch.nn.Conv2d(3, 768, patch, bias=False)

    def image_features(self, views):
        return np.array([[1.0]])

    def text_features(self, texts):
        return self.logits[:, None]


def test_probabilities_are_compared_with_those_of_the_readme(tmp_path, golden_images):
    right = list(checking.README_LABELS.values())
    ((status, _),) = checking._golden_labels(Clip(right, 32), tmp_path, golden_images)
    assert status is CheckStatus.OK
    ((status, text),) = checking._golden_labels(Clip(right[::-1], 32), tmp_path, golden_images)
    assert status is CheckStatus.REFUSED
    assert "error at most 9.9e-01" in text


def test_probabilities_are_skipped_for_another_model(tmp_path, golden_images):
    ((status, text),) = checking._golden_labels(Clip([0.5, 0.3, 0.2], 14), tmp_path, golden_images)
    assert (status, text) == (CheckStatus.NOTE, "published probabilities skipped: they apply to ViT-B/32 only")
