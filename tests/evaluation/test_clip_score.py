"""The CLIP score against torchmetrics, and R-precision from the same features; a tiny open_clip model on disk."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from PIL import Image
from safetensors.torch import save_file
from torchmetrics.multimodal import CLIPScore
from transformers import CLIPTokenizer

from evaluation import EvaluationError
from evaluation.clip_score import ClipScorer, clip_score, is_nearest
from evaluation.features import ClipTower

PROMPTS = ["a red cube", "a blue ball", "a &amp; b"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of two layers with random weights and a letter-by-letter tokenizer, in open_clip's local-dir layout."""
    folder = tmp_path_factory.mktemp("scorer")
    letters = "abcdefghijklmnopqrstuvwxyz&;"
    pieces = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=24)
    tokenizer.save_pretrained(folder)
    vision = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 32}
    text = {
        "context_length": 24,
        "vocab_size": len(pieces),
        "width": 64,
        "heads": 2,
        "layers": 2,
        "hf_tokenizer_name": "local",
    }
    torch.manual_seed(0)
    model = CLIP(48, CLIPVisionCfg(**vision), CLIPTextCfg(**text))
    preprocess = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    document = {"model_cfg": {"embed_dim": 48, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


@pytest.fixture(scope="module")
def scorer(folder):
    return ClipScorer.load(folder)


@pytest.fixture(scope="module")
def views():
    return np.random.default_rng(0).integers(0, 256, (6, 45, 61, 3), dtype=np.uint8)


def test_the_score_is_torchmetrics(scorer, views):
    """Sec. 5.5 no. 5, through torchmetrics' callable hook; 1e-4 points (seen 1e-5: float32 sums in another order)."""

    class Adapter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = scorer.model
            self.config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=24))

        def get_image_features(self, pixels):
            return self.model.encode_image(pixels)

        def get_text_features(self, tokens, _mask):
            return self.model.encode_text(tokens)

    class Processor:
        def __call__(self, text=None, images=None, **_):
            if images is not None:
                pil = [Image.fromarray(image.permute(1, 2, 0).byte().numpy()) for image in images]
                return {"pixel_values": torch.stack([scorer.transform(image) for image in pil])}
            tokens = scorer.tokenizer(text)
            return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    for prompt in PROMPTS:
        metric = CLIPScore(model_name_or_path=lambda: (Adapter(), Processor()))
        images = torch.tensor(views).permute(0, 3, 1, 2)
        metric.update(images, [prompt] * len(views))
        score = scorer.score(views, prompt)
        assert score.shape == (6,)
        assert abs(max(float(score.mean()), 0.0) - float(metric.compute())) < 1e-4  # torchmetrics clamps the mean at 0


def test_features_are_unit_vectors_whatever_the_batch(scorer, views):
    whole, parts = scorer.image_features(views), scorer.image_features(views, batch_size=4)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(whole, parts, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(scorer.text_features(PROMPTS), axis=1), 1, atol=1e-6)


def test_a_negative_similarity_stays_negative():
    """torchmetrics clamps the mean at 0 and Hessel et al. every sample; a clamp would hide how wrong an object is."""
    image, text = np.array([[1, 0], [-0.6, 0.8]], np.float32), np.array([1, 0], np.float32)
    np.testing.assert_allclose(clip_score(image, text), [100, -60])


def test_r_precision_asks_for_the_nearest_prompt_and_a_tie_is_not_right():
    texts = np.eye(3)
    images = np.array([[0.9, 0.1, 0], [0.1, 0.9, 0], [0.5, 0.5, 0]])
    assert is_nearest(images, texts, 0).tolist() == [1, 0, 0]
    assert is_nearest(7 * images, texts, 1).tolist() == [0, 1, 0]
    assert is_nearest(images, texts[:1], 0).tolist() == [1, 1, 1]


def test_tower_features_have_the_length_of_root_width(scorer, views):
    tower = ClipTower(scorer)
    np.testing.assert_allclose(np.linalg.norm(tower(views), axis=1), 48**0.5, rtol=1e-6)
    assert tower.name == "embedded"


def test_the_weights_digest_sees_one_number(folder, scorer):
    other = ClipScorer.load(folder)
    assert other.weights == scorer.weights
    other.model.logit_scale.add_(1e-3)
    assert other.weights != scorer.weights


@pytest.mark.parametrize("missing", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_an_incomplete_folder_is_refused_and_never_scored_with_random_weights(folder, tmp_path, missing):
    for file in folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(EvaluationError, match=f"no {missing} in"):
        ClipScorer.load(tmp_path)


def test_a_name_that_is_neither_folder_nor_published_is_refused():
    with pytest.raises(
        EvaluationError, match=r"expected a folder with open_clip_config\.json, or a published model/tag"
    ):
        ClipScorer.load("ViT-L-14-quickgelu/opnai")
