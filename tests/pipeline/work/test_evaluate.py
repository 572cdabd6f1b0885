import dataclasses
import io
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from evaluation import EvaluationError
from evaluation.clip_score import ClipScorer
from evaluation.image_reward import ImageReward
from evaluation.references import from_bytes, to_bytes
from pipeline.assets import images
from pipeline.plan.protocol import Protocol
from pipeline.store.records import GeneratedAsset, Snapshot
from pipeline.store.run_folder import Store
from pipeline.weights import models
from pipeline.work.evaluate import Evaluator
from sctd.formats import ply
from tests.support import runs, tiny_models

TEXTS = ["a red cube", "a blue ball", "a green cube"]
EVALUATION = "0123456789abcdef"


@pytest.fixture(scope="module")
def splats():
    """Thirty coloured Gaussians."""
    import torch

    from sctd.scene.gaussians import Gaussians

    random = torch.Generator().manual_seed(0)
    return Gaussians(
        means=0.4 * torch.randn(30, 3, generator=random),
        log_scales=torch.full((30, 3), -2.0),
        quats=torch.randn(30, 4, generator=random),
        logit_opacities=torch.ones(30),
        sh=torch.randn(30, 1, 3, generator=random),
    )


@pytest.fixture(scope="module")
def scored(tiny_weights, splats, tmp_path_factory):
    """A scored asset: its store, progress events and result."""
    store = Store(tmp_path_factory.mktemp("evaluate"))
    store.write(store.item("job") / "asset.ply", ply.to_ply(splats))
    evaluator = Evaluator(store, models.resolve(str(tiny_weights)), Protocol(6), TEXTS, EVALUATION)
    work, seen = evaluator(GeneratedAsset("job", "a blue ball", runs.facts(image_size=16))), []
    while True:
        try:
            seen.append(next(work))
        except StopIteration as stop:
            return store, seen, stop.value


def test_scores_are_those_of_the_scorers_on_the_rendered_views(scored, splats, tiny_weights):
    _, _, result = scored
    views = images.on_white(splats, Protocol(6).cameras(16))
    clip = ClipScorer.load(tiny_weights / "scorer").score(views, "a blue ball")
    reward = ImageReward.load(tiny_weights / "reward").score(views, "a blue ball")
    assert result.scores["clip"]["mean"] == pytest.approx(clip.mean(), abs=1e-4)
    assert result.scores["clip"]["p10"] == pytest.approx(np.quantile(clip, 0.1), abs=1e-4)
    assert result.scores["ir"]["mean"] == pytest.approx(reward.mean(), abs=1e-5)
    assert result.scores["ir"]["sd"] == pytest.approx(reward.std(), abs=1e-5)
    assert 0 <= result.scores["clip_rprec"]["mean"] <= 1


def test_evaluation_npz_has_the_scores_and_features_of_every_view(scored):
    store, seen, _ = scored
    assert [(step.done, step.total) for step in seen] == [(number, 5) for number in range(1, 6)]
    arrays = np.load(io.BytesIO((store.item("job") / "evaluation.npz").read_bytes()))
    assert {name: arrays[name].shape for name in arrays.files} == {
        "clip": (6,), "clip_faces": (6,), "clip_rprec": (6,), "ir": (6,), "image_features": (6, 8), "features": (6, 8),
        "text_feature": (8,), "views_sha256": (),
    }  # fmt: skip
    lengths = np.linalg.norm(arrays["image_features"], axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_snapshots_are_scored_like_assets_and_a_missing_one_has_a_reason(scored, splats, tiny_weights, tmp_path):
    store, weights = Store(tmp_path), models.resolve(str(tiny_weights))
    facts = runs.facts(image_size=16, snapshots=[Snapshot(iteration=n, seconds=1.0) for n in (1, 2, 3)])
    asset = GeneratedAsset("job", "a blue ball", facts)
    for name in ("asset.ply", "asset-2.ply"):
        store.write(store.item("job") / name, ply.to_ply(splats))
    store.write(store.item("job") / "asset-3.ply", b"ply\n")
    work, seen = Evaluator(store, weights, Protocol(6), TEXTS, EVALUATION)(asset), []
    result = None
    while result is None:
        try:
            seen.append(next(work))
        except StopIteration as stop:
            result = stop.value
    assert result.scores == scored[2].scores
    missing, same, damaged = result.snapshots
    assert (missing.iteration, missing.error, missing.scores) == (1, "asset-1.ply is missing", {})
    assert (same.iteration, same.error, same.scores) == (2, None, result.scores)
    assert damaged.error.startswith("asset-3.ply is damaged: ")
    assert seen[-1].done == seen[-1].total
    assert sorted(path.name for path in store.item("job").iterdir()) == [
        "asset-2.ply", "asset-3.ply", "asset.ply", "evaluation.npz",
    ]  # fmt: skip


def test_unpickling_a_result_loads_no_model_library(scored):
    """The driver unpickles results; loading the libraries would block it for 5 to 20 seconds."""
    _, seen, result = scored
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); print(sorted({'torch', 'open_clip'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps([*seen, result]), capture_output=True)
    assert done.stdout == b"[]\n", done.stderr.decode()


def test_a_reference_of_another_network_is_an_error_when_the_worker_starts(tiny_weights, tmp_path):
    folder = shutil.copytree(tiny_weights, tmp_path / "copied")
    weights = models.Weights("copied", folder)
    Evaluator(Store(tmp_path / "run"), weights, Protocol(6), TEXTS, EVALUATION)  # the same network under another name
    reference = from_bytes((folder / "reference.npz").read_bytes())
    other = dataclasses.replace(reference, made_of=reference.made_of | {"weights": "ab" * 32})
    (folder / "reference.npz").write_bytes(to_bytes(other))
    with pytest.raises(EvaluationError, match=r"the reference set holds features of tiny \(abababababab\)"):
        Evaluator(Store(tmp_path / "run"), weights, Protocol(6), TEXTS, EVALUATION)


def test_a_protocol_is_named_by_its_views_and_starts_at_the_front():
    assert Protocol().name == "paper120"
    cameras = Protocol(6).cameras(16)
    assert Protocol(6).name == "paper6"
    assert cameras.azimuth_degrees.tolist() == [0, 60, 120, 180, 240, 300]
    assert set(cameras.elevation_degrees.tolist()) == {0}


def test_a_white_image_is_scored_for_every_prompt_independent_of_its_size(scored, tiny_weights):
    store, _, _ = scored
    blank = store.read_json(store.root / "blank.json")
    assert blank["evaluation"] == EVALUATION
    assert list(blank["scores"]) == TEXTS
    white = np.full((1, 40, 40, 3), 255, np.uint8)
    for text, scores in blank["scores"].items():
        assert scores["clip"] == pytest.approx(ClipScorer.load(tiny_weights / "scorer").score(white, text)[0], abs=1e-4)
        assert scores["ir"] == pytest.approx(ImageReward.load(tiny_weights / "reward").score(white, text)[0], abs=1e-5)


def test_a_white_image_is_scored_once(scored, tiny_weights, monkeypatch):
    store, _, _ = scored
    before = (store.root / "blank.json").read_bytes()
    monkeypatch.setattr(ImageReward, "score", lambda *_: pytest.fail("it was scored again"))
    Evaluator(store, models.resolve(str(tiny_weights)), Protocol(6), TEXTS, EVALUATION)
    assert (store.root / "blank.json").read_bytes() == before
    with pytest.raises(pytest.fail.Exception):
        Evaluator(store, models.resolve(str(tiny_weights)), Protocol(6), TEXTS[:2], "other")


@pytest.mark.filterwarnings("ignore:the aesthetic predictor was trained on OpenAI's:UserWarning")
def test_optional_scorers_are_used_if_the_weights_have_them(tiny_weights, splats, tmp_path):
    from sctd.formats import ply

    folder = shutil.copytree(tiny_weights, tmp_path / "tiny")
    tiny_models.write_pickscore(folder / "pickscore")
    tiny_models.write_hps(folder / "hps")
    tiny_models.write_aesthetic(folder / "aesthetic", width=8)
    tiny_models.write_vlm(folder / "vlm")
    store, weights = Store(tmp_path / "run"), models.resolve(str(folder))
    store.write(store.item("job") / "asset.ply", ply.to_ply(splats))
    evaluator = Evaluator(store, weights, Protocol(24), TEXTS, EVALUATION)
    work, seen = evaluator(GeneratedAsset("job", "a blue ball", runs.facts(image_size=16))), []
    while True:
        try:
            seen.append(next(work))
        except StopIteration as stop:
            result = stop.value
            break
    assert [(step.done, step.total) for step in seen] == [(number, 9) for number in range(1, 10)]
    assert list(result.scores) == ["clip", "ir", "clip_rprec", "clip_faces", "pickscore", "hps", "aesthetic", "vqa"]
    arrays = np.load(io.BytesIO((store.item("job") / "evaluation.npz").read_bytes()))
    assert {name: arrays[name].shape for name in ("pickscore", "hps", "aesthetic", "vqa")} == {
        "pickscore": (24,), "hps": (24,), "aesthetic": (24,), "vqa": (12,),
    }  # fmt: skip
    assert set(store.read_json(store.root / "blank.json")["scores"]["a red cube"]) == {
        "clip", "ir", "clip_faces", "pickscore", "hps", "aesthetic", "vqa",
    }  # fmt: skip
