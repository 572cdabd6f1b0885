"""evaluation.dinov2: against timm's port of the architecture and torchvision's transforms, with random weights."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torchvision import transforms

from evaluation import EvaluationError
from evaluation.dinov2 import Dinov2Tower
from tests.support import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write_dinov2(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="module")
def views():
    return np.random.default_rng(0).integers(0, 256, (3, 60, 80, 3), dtype=np.uint8)


def timm_model(state):
    """The same weights in timm's vision transformer, with positions for 518 pixels interpolated to 224 as published."""
    model = timm.models.VisionTransformer(
        img_size=224,
        patch_size=14,
        embed_dim=48,
        depth=2,
        num_heads=3,
        num_classes=0,
        init_values=1.0,
    )
    renamed = {}
    for name, tensor in state.items():
        for old, new in [
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("encoder.layer.", "blocks."),
            ("attention.output.dense", "attn.proj"),
            ("layer_scale1.lambda1", "ls1.gamma"),
            ("layer_scale2.lambda1", "ls2.gamma"),
            ("layernorm.", "norm."),
        ]:
            name = name.replace(old, new)
        renamed[name] = tensor
    for layer in range(2):
        for kind in ("weight", "bias"):
            parts = [renamed.pop(f"blocks.{layer}.attention.attention.{p}.{kind}") for p in ("query", "key", "value")]
            renamed[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
    renamed.pop("embeddings.mask_token")
    first, grid = renamed["pos_embed"][:, :1], renamed["pos_embed"][:, 1:].reshape(1, 37, 37, 48).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(16, 16), mode="bicubic")
    renamed["pos_embed"] = torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)
    model.load_state_dict(renamed)
    return model.eval()


@torch.no_grad()
def test_features_match_timm_and_torchvision(folder, views):
    """Relative tolerance 1e-5: two implementations of attention, in float32."""
    chain = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.Resize((224, 224), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    model = timm_model(load_file(folder / "model.safetensors"))
    pixels = torch.stack([chain(view) for view in views])
    expected = model(pixels).numpy()
    features = Dinov2Tower.load(folder)(views)
    assert features.shape == (3, 48)
    assert np.ptp(expected, axis=0).max() > 0.1
    assert np.abs(features - expected).max() < 1e-5 * np.abs(expected).max()


def test_features_do_not_depend_on_the_batch(folder, views):
    tower = Dinov2Tower.load(folder)
    np.testing.assert_allclose(tower(views), tower(views, batch_size=2), atol=1e-5)
    assert tower.name == "dinov2"


def test_the_digest_changes_with_one_number_but_ignores_the_mask_token(folder, tmp_path):
    state = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file({n: t for n, t in state.items() if n != "embeddings.mask_token"}, tmp_path / "model.safetensors")
    assert Dinov2Tower.load(tmp_path).weights == Dinov2Tower.load(folder).weights
    save_file({**state, "layernorm.bias": state["layernorm.bias"] + 1e-3}, tmp_path / "model.safetensors")
    assert Dinov2Tower.load(tmp_path).weights != Dinov2Tower.load(folder).weights


def test_another_model_is_refused(folder, tmp_path, capfd):
    with pytest.raises(EvaluationError, match=r"no config\.json in"):
        Dinov2Tower.load(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EvaluationError, match=r"no checkpoint at .*model\.safetensors"):
        Dinov2Tower.load(tmp_path)
    state = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in state.items() if n != "layernorm.bias"}, tmp_path / "model.safetensors")
    capfd.readouterr()
    different = r"1 tensors are missing, unknown or of another size, first layernorm\.bias"
    with pytest.raises(EvaluationError, match=different):
        Dinov2Tower.load(tmp_path)
    save_file({**state, "layernorm.bias": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(EvaluationError, match=different):
        Dinov2Tower.load(tmp_path)
    assert capfd.readouterr() == ("", "")
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    with pytest.raises(EvaluationError, match="holds a vit model; expected dinov2"):
        Dinov2Tower.load(tmp_path)
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(EvaluationError, match="is not a model configuration: fetch it again"):
        Dinov2Tower.load(tmp_path)
