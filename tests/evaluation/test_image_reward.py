"""evaluation.image_reward: against transformers' BLIP, torchvision's transforms and the published sizes."""

import dataclasses
import os
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import transforms
from transformers import BertTokenizer
from transformers.models.blip.configuration_blip import BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from evaluation import EvaluationError, image_reward
from evaluation.blip import RewardConfig
from evaluation.image_reward import (
    CLIP_MEAN,
    CLIP_STD,
    ImageReward,
    load_tokenizer,
    normalise,
    preprocess,
)

WORDS = """[PAD] [UNK] [CLS] [SEP] [MASK] a red cube on blue cylinder caf ##e , . & 中 ##s the view""".split()  # noqa: SIM905  # codespell:ignore
PROMPTS = [
    "a red cube on a blue cylinder",
    "A RED Café, cubes & 中 cylinders.",
    "",
    "the front view of the back of the cube, " * 8,
    "zebra",
]
SIZES = [(32, 32), (64, 64), (45, 60), (60, 45), (37, 91), (512, 512), (5, 7), (300, 33)]
TINY = RewardConfig(
    image_size=32,
    patch_size=8,
    vision_width=48,
    vision_layers=3,
    vision_heads=4,
    vocab_size=len(WORDS),
    text_width=32,
    text_layers=3,
    text_heads=2,
    text_hidden=128,
    text_positions=40,
    head_widths=(24, 16, 8, 4),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a tiny reward model with large random weights."""
    folder = tmp_path_factory.mktemp("reward")
    folder.joinpath("vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    folder.joinpath("config.json").write_text(TINY.to_json())
    model = ImageReward(TINY, load_tokenizer(folder / "vocab.txt"))
    random = torch.Generator().manual_seed(0)
    state = {name: 0.3 * torch.randn(p.shape, generator=random) for name, p in model.state_dict().items()}
    for name in state:
        state[name] += (
            1.0 if name.endswith(("LayerNorm.weight", "norm1.weight", "norm2.weight", "norm.weight")) else 0.0
        )
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def views():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (1, *size, 3), dtype=np.uint8) for size in SIZES]


def transformers_blip(model):
    """The same weights in transformers' BLIP classes, through evaluation.md's key map (Sec. 2.4)."""
    c = model.config
    vision = BlipVisionModel(
        BlipVisionConfig(
            hidden_size=c.vision_width,
            intermediate_size=4 * c.vision_width,
            num_hidden_layers=c.vision_layers,
            num_attention_heads=c.vision_heads,
            image_size=c.image_size,
            patch_size=c.patch_size,
            hidden_act="gelu",
            layer_norm_eps=1e-6,
        )
    ).eval()
    text = BlipTextModel(
        BlipTextConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.text_width,
            encoder_hidden_size=c.vision_width,
            intermediate_size=c.text_hidden,
            num_hidden_layers=c.text_layers,
            num_attention_heads=c.text_heads,
            max_position_embeddings=c.text_positions,
            is_decoder=True,
            bos_token_id=2,
            sep_token_id=3,
        ),
        add_pooling_layer=False,
    ).eval()
    vision_state, text_state = {}, {}
    for name, tensor in model.state_dict().items():
        if name.startswith("blip.text_encoder."):
            text_state[name.removeprefix("blip.text_encoder.")] = tensor
        elif name.startswith("blip.visual_encoder."):
            key = name.removeprefix("blip.visual_encoder.")
            for old, new in [
                ("cls_token", "embeddings.class_embedding"),
                ("pos_embed", "embeddings.position_embedding"),
                ("patch_embed.proj", "embeddings.patch_embedding"),
                ("blocks.", "encoder.layers."),
                (".norm", ".layer_norm"),
                ("attn.qkv", "self_attn.qkv"),
                ("attn.proj", "self_attn.projection"),
            ]:
                key = key.replace(old, new)
            key = "post_layernorm." + key.removeprefix("norm.") if key.startswith("norm.") else key
            vision_state[key] = tensor
    vision.load_state_dict(vision_state, strict=True)
    text.load_state_dict(text_state, strict=True)
    return vision, text


@torch.no_grad()
def scores_ours_and_blip(model, views):
    """Scores of every view and prompt: ours, and those of the same weights in transformers' BLIP classes."""
    dtype = next(model.parameters()).dtype
    vision, text = (part.to(dtype) for part in transformers_blip(model))
    c, scores, expected = model.config, [], []
    for view in views:
        pixels = preprocess(view[0], c.image_size)[None].to(dtype)
        states = vision(pixels).last_hidden_state
        for prompt in PROMPTS:
            batch = model.tokenizer(
                [prompt], padding="max_length", truncation=True, max_length=c.max_length, return_tensors="pt"
            )
            hidden = text(
                batch.input_ids, attention_mask=batch.attention_mask, encoder_hidden_states=states, is_decoder=False
            ).last_hidden_state
            raw = hidden[:, 0]
            for layer in model.mlp.layers.values():
                raw = layer(raw)
            expected.append(float((raw[0, 0] - c.mean) / c.std))
            scores.append(float(model.score(view, prompt)[0]))
    return np.array(scores), np.array(expected)


def test_scores_match_transformers_blip(folder, views, monkeypatch):
    """Sec. 5.5 no. 1. BLIP pads to 35 tokens, ours to the longest text; the mask makes them equal.

    In float64: the order of sums in float32 depends on the processor, up to 1.5e-5 of the scores.
    """
    monkeypatch.setattr(image_reward, "preprocess", lambda view, size: preprocess(view, size).double())
    scores, expected = scores_ours_and_blip(ImageReward.load(folder).double(), views)
    assert np.ptp(expected) > 0.5
    assert np.abs(scores - expected).max() < 1e-12


@pytest.mark.skipif(not os.environ.get("SEGMENTDREAMER_FULL_SIZE"), reason="a minute, 5 GB: SEGMENTDREAMER_FULL_SIZE=1")
def test_scores_at_the_published_sizes_match_transformers_blip(folder, views):
    """Random weights, larger in the head so that scores span units; 1e-4 after 24 + 12 layers in float32."""
    torch.manual_seed(0)
    model = ImageReward(RewardConfig(), load_tokenizer(folder / "vocab.txt")).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape))
        if name.startswith("mlp.") and name.endswith("weight"):
            parameter.mul_(2)
    scores, expected = scores_ours_and_blip(model, [views[2], views[5]])
    assert np.ptp(expected) > 0.5
    assert np.abs(scores - expected).max() < 1e-4


def test_scores_do_not_depend_on_the_batch(folder):
    """40 views in batches of 30 and 10 score as they do alone; a longer text in the batch only adds masked padding."""
    model = ImageReward.load(folder)
    many = np.random.default_rng(1).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    alone = np.concatenate([model.score(many[i : i + 1], PROMPTS[0]) for i in range(40)])
    assert np.abs(model.score(many, PROMPTS[0]) - alone).max() < 1e-5
    pixels = normalise(torch.tensor(many[:1]).permute(0, 3, 1, 2)).expand(5, -1, -1, -1)
    together = (model(pixels, *model.tokens(PROMPTS)) - TINY.mean) / TINY.std
    single = np.concatenate([model.score(many[:1], prompt) for prompt in PROMPTS])
    assert np.abs(together.numpy() - single).max() < 1e-5


@pytest.mark.parametrize("size", [*SIZES, (50, 45), (45, 50)])
def test_preprocessing_matches_torchvision_on_pil_bit_for_bit(size):
    """Sec. 5.5 no. 3."""
    view = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    chain = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    assert torch.equal(preprocess(view, 32), chain(view))


def test_wordpiece_ids_match_greedy_longest_match(folder):
    """Sec. 5.5 no. 4: accents, CJK, punctuation, truncation at 35 and the empty text; against a second tokenizer."""
    tokenizer = load_tokenizer(folder / "vocab.txt")
    vocabulary = {word: i for i, word in enumerate(WORDS)}

    def pieces(word):
        start, found = 0, []
        while start < len(word):
            fits = [
                end for end in range(len(word), start, -1) if ("##" if start else "") + word[start:end] in vocabulary
            ]
            if not fits:
                return ["[UNK]"]
            found.append(("##" if start else "") + word[start : fits[0]])
            start = fits[0]
        return found

    for prompt in PROMPTS:
        plain = "".join(c for c in unicodedata.normalize("NFD", prompt.lower()) if unicodedata.category(c) != "Mn")
        spaced = "".join(f" {c} " if c in ",.&" or c == "中" else c for c in plain)
        body = [vocabulary[piece] for word in spaced.split() for piece in pieces(word)]
        expected = [vocabulary["[CLS]"], *body[:33], vocabulary["[SEP]"]]
        assert tokenizer(prompt, truncation=True, max_length=35).input_ids == expected


def test_the_published_sizes_match_the_published_checkpoint(folder):
    """625 tensors and 446.67 million parameters, with the five unused tensors (evaluation.md Sec. 2.3)."""
    with torch.device("meta"):
        model = ImageReward(RewardConfig(), BertTokenizer())
    unused = {
        "blip.vision_proj.weight": (256, 1024),
        "blip.vision_proj.bias": (256,),
        "blip.text_proj.weight": (256, 768),
        "blip.text_proj.bias": (256,),
        "blip.text_encoder.embeddings.position_ids": (1, 512),
    }
    state = model.state_dict() | {name: torch.zeros(shape, device="meta") for name, shape in unused.items()}
    assert len(state) == 625
    parameters = sum(tensor.numel() for name, tensor in state.items() if not name.endswith("position_ids"))
    assert round(parameters / 1e6, 2) == 446.67
    for name in ("blip.visual_encoder.blocks.23.attn.qkv.weight", "mlp.layers.7.bias"):
        assert name in state
    assert state["blip.text_encoder.encoder.layer.11.crossattention.self.key.weight"].shape == (768, 1024)


def test_the_published_layout_loads_and_unused_tensors_are_dropped(folder, tmp_path):
    """As in `ImageReward.pt`: a plain torch file, a `module.` prefix, the unused heads and the position buffer."""
    model = ImageReward.load(folder)
    extras = {
        "blip.vision_proj.weight": torch.zeros(256, 48),
        "blip.text_encoder.embeddings.position_ids": torch.arange(40),
    }
    torch.save({f"module.{k}": v for k, v in (model.state_dict() | extras).items()}, tmp_path / "ImageReward.pt")
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    other = ImageReward.load(tmp_path)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mlp.layers.0.bias"), "the checkpoint lacks 1 tensors, first mlp.layers.0.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "the checkpoint has 1 unknown tensors, first extra"),
        (lambda s: s.update({"mlp.layers.7.bias": torch.zeros(2)}), "the checkpoint has 1 tensors of another shape"),
    ],
)
def test_a_checkpoint_that_does_not_match_is_refused(folder, change, message):
    model = ImageReward.load(folder)
    state = model.state_dict()
    change(state)
    with pytest.raises(EvaluationError, match=message):
        model.load_published(state)


@pytest.mark.parametrize("missing", ["model.safetensors", "vocab.txt", "config.json"])
def test_a_missing_file_is_named(folder, tmp_path, missing):
    for name in {"model.safetensors", "vocab.txt", "config.json"} - {missing}:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(EvaluationError, match=missing):
        ImageReward.load(tmp_path)


def test_an_unknown_configuration_key_is_refused():
    assert RewardConfig.from_json(TINY.to_json()) == TINY
    with pytest.raises(EvaluationError, match=r"unknown keys \['heads'\]"):
        RewardConfig.from_json('{"heads": 3}')


def test_standardisation_is_the_affine_map_of_the_configuration(folder, views):
    model = ImageReward.load(folder)
    plain = ImageReward(dataclasses.replace(TINY, mean=0.0, std=1.0), model.tokenizer).eval()
    plain.load_published(model.state_dict())
    expected = (plain.score(views[0], "a cube") - TINY.mean) / TINY.std
    np.testing.assert_allclose(model.score(views[0], "a cube"), expected, rtol=1e-5)


class Trap:
    """An object whose unpickling calls a function."""

    def __reduce__(self):
        return pytest.fail, ("code in a checkpoint ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda state: {name.replace("blip.", "model."): t for name, t in state.items()}, "the checkpoint lacks"),
        (lambda state: {"visual.conv1.weight": torch.zeros(1)}, "the checkpoint lacks"),
        (
            lambda state: {**state, "hook": Trap()},
            "ImageReward.pt holds more than tensors and would run code when opened",
        ),
        (lambda state: {"model": state}, "expected tensors by name, found .* under 'model'"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_sentence(folder, tmp_path, content, message):
    torch.save(content(ImageReward.load(folder).state_dict()), tmp_path / "ImageReward.pt")
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(EvaluationError, match=message) as refused:
        ImageReward.load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["ImageReward.pt", "model.safetensors"])
def test_a_truncated_file_is_refused_in_one_sentence(folder, tmp_path, name):
    torch.save(ImageReward.load(folder).state_dict(), tmp_path / "ImageReward.pt")
    whole = (folder if name == "model.safetensors" else tmp_path) / name
    (tmp_path / name).write_bytes(whole.read_bytes()[:100_000])
    for other in ("config.json", "vocab.txt"):
        (tmp_path / other).write_bytes((folder / other).read_bytes())
    with pytest.raises(EvaluationError, match=f"{name} is truncated, damaged or not a checkpoint .*: fetch it again$"):
        ImageReward.load(tmp_path)


def test_published_rewards_of_the_published_images(shared_file, published):
    """Sec. 5.5 no. 2: ImageReward's README, one prompt, four images; 5e-3 in float32 (published from float16)."""
    model = ImageReward.load(published("reward"))
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    images = [Image.open(shared_file(f"imagereward/{number}.webp")).convert("RGB") for number in (1, 2, 3, 4)]
    scores = [float(model.score(np.asarray(image)[None], prompt)[0]) for image in images]
    np.testing.assert_allclose(scores, [0.5811622739, 0.2745276093, -1.4131819010, -2.0295696259], atol=5e-3)
