"""A folder of weights with tiny random models in the published formats, to run everything quickly."""

import json
from pathlib import Path

import numpy as np
import torch

from evaluation.fid import Moments
from evaluation.references import Reference, to_bytes

MAX_TOKENS, IMAGE_PIXELS = 64, 16
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue green cube ball".split()  # noqa: SIM905
SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


def write(folder: Path) -> Path:
    """Write prior/ (16 px), scorer/, reward/ and reference.npz to `folder`; 1.5 MB, a few seconds."""
    write_prior(folder / "prior")
    _write_scorer(folder / "scorer")
    _write_reward(folder / "reward")
    _write_reference(folder)
    return folder


def write_prior(folder: Path) -> Path:
    """Write vae/, unet/, text_encoder/, tokenizer/ and scheduler/ to `folder`: 16 px images, 8 px latents."""
    torch.manual_seed(0)
    _write_tokenizer(folder / "tokenizer")
    _write_prior(folder)
    return folder


def write_control(folder: Path, prior: Path) -> Path:
    """Write a ControlNet for this prior; layers that are initialized to zero are random, so that it has an effect."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_pretrained(prior / "unet", use_safetensors=True)
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    for name, parameter in control.named_parameters():
        if name.startswith("controlnet_"):
            torch.nn.init.normal_(parameter, std=0.3)
    control.save_pretrained(folder)
    return folder


def write_references(folder: Path, *metrics: str, name: str = "tiny") -> None:
    """Write a reference of random features for each of these distances, whose networks are in `folder`."""
    from pipeline.weights.models import Weights
    from pipeline.weights.networks import DISTANCES

    for metric in metrics:
        distance = DISTANCES[metric]
        network = distance.load(Weights(name, folder), "cpu")
        dim = network(np.zeros((1, IMAGE_PIXELS, IMAGE_PIXELS, 3), np.uint8)).shape[1]
        features = np.random.default_rng(1).normal(0.3, 0.2, (30, dim)).astype(np.float32)
        made_of = {"network": network.name, "weights": network.weights, "images": "none: normal numbers"}
        (folder / distance.reference).write_bytes(to_bytes(Reference(Moments.of(features), features, made_of)))


def write_inception(folder: Path, seed: int = 0) -> Path:
    """Write Inception-v3 at full size (96 MB) and under its published name to `folder`."""
    from evaluation.inception import PUBLISHED

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(inception_state(seed), folder / PUBLISHED)
    return folder


def inception_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights that preserve the scale of activations, plus the published tensors that features do not use."""
    from evaluation.inception import Inception

    random = torch.Generator().manual_seed(seed)
    state = Inception().state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            tensor.normal_(0, (1.5 / tensor[0].numel()) ** 0.5, generator=random)
        elif name.endswith(("bn.bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=random)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=random)
    return {**state, "fc.weight": torch.randn(1008, 2048, generator=random), "fc.bias": torch.zeros(1008)}


def write_dinov2(folder: Path) -> Path:
    """Write DINOv2 with 2 layers of width 48 as a transformers folder."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 518, "patch_size": 14}
    model = Dinov2Model(Dinov2Config(**sizes))
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def write_pickscore(folder: Path) -> Path:
    """Write PickScore's layout with 1 layer: CLIP of transformers, its tokenizer, and its preprocessing."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(2)
    _write_tokenizer(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 514, "max_position_embeddings": 24, "bos_token_id": 512, "eos_token_id": 513}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    model.logit_scale.data.fill_(3.0)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


def write_hps(folder: Path) -> Path:
    """Write HPS v2.1's layout with 1 layer, in float16 as published, and its configuration beside it."""
    from open_clip.model import CLIP

    torch.manual_seed(3)
    vision = {"image_size": 32, "patch_size": 8, "layers": 1, "width": 32, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half() for name, tensor in CLIP(**config).state_dict().items()}
    torch.save({"state_dict": state}, folder / "HPS_v2.1_compressed.pt")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return folder


def write_aesthetic(folder: Path, width: int = 768) -> Path:
    """Write LAION's aesthetic predictor, version 2, with vectors of this width."""
    torch.manual_seed(4)
    folder.mkdir(parents=True, exist_ok=True)
    layers = {"0": (1024, width), "2": (128, 1024), "4": (64, 128), "6": (16, 64), "7": (1, 16)}
    state = {}
    for name, shape in layers.items():
        state |= {
            f"layers.{name}.weight": torch.randn(shape) / shape[1] ** 0.5,
            f"layers.{name}.bias": torch.randn(shape[0]),
        }
    torch.save(state, folder / "sac+logos+ava1-l14-linearMSE.pth")
    return folder


def write_vlm(folder: Path, *, template: bool = True) -> Path:
    """Write a LLaVA with 1 layer each and a tokenizer of words, with or without a chat template."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(5)
    words = [
        "<unk>",
        "<s>",
        "</s>",
        "<image>",
        "yes",
        "Yes",
        "no",
        "USER:",
        "ASSISTANT:",
        "Does",
        "this",
        "figure",
        "show",
    ]
    words += [
        "Please",
        "answer",
        "or",
        "no.",
        *(f'"{article}' for article in ("a", "an")),
        "red",
        "blue",
        'cube"?',
        'ball"?',
    ]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=["<image>"],
        extra_special_tokens={"image_token": "<image>"},
        **special,
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=32, patch_size=8, **sizes),
        text_config=LlamaConfig(vocab_size=len(words), bos_token_id=1, eos_token_id=2, pad_token_id=2, **sizes),
        image_token_index=3,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    chat = (
        "{% for message in messages %}USER: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
        "ASSISTANT:"
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    LlavaProcessor(
        images,
        fast,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=chat if template else None,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    folder.mkdir(parents=True)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = SPECIAL | {"model_max_length": MAX_TOKENS, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _write_prior(folder: Path) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel
    from transformers.utils import logging

    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=IMAGE_PIXELS,
    )
    unet = UNet2DConditionModel(
        sample_size=IMAGE_PIXELS // 2,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    text = CLIPTextConfig(
        vocab_size=514, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS, bos_token_id=512, eos_token_id=513, pad_token_id=513,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1,
        clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    for name, part in {"vae": vae, "unet": unet, "text_encoder": CLIPTextModel(text), "scheduler": scheduler}.items():
        part.save_pretrained(folder / name)
    if shown:
        logging.enable_progress_bar()


def _write_scorer(folder: Path) -> None:
    import shutil

    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from safetensors.torch import save_file

    vision = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 16, "head_width": 8}
    text = {"context_length": MAX_TOKENS, "vocab_size": 514, "width": 16, "heads": 2, "layers": 1}
    shutil.copytree(folder.parent / "prior" / "tokenizer", folder)
    document = {
        "model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text | {"hf_tokenizer_name": "local"}},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    model = CLIP(8, CLIPVisionCfg(**vision), CLIPTextCfg(**text))
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )


def _write_reward(folder: Path) -> None:
    from safetensors.torch import save_file

    from evaluation.image_reward import ImageReward, RewardConfig, load_tokenizer

    folder.mkdir()
    config = RewardConfig(
        image_size=32, patch_size=16, vision_width=16, vision_layers=1, vision_heads=2, vocab_size=len(WORDS),
        text_width=16, text_layers=1, text_heads=2, text_hidden=32, text_positions=40, head_widths=(8, 8, 4, 4),
    )  # fmt: skip
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "config.json").write_text(config.to_json())
    save_file(ImageReward(config, load_tokenizer(folder / "vocab.txt")).state_dict(), folder / "model.safetensors")


def _write_reference(folder: Path) -> None:
    from evaluation.clip_score import ClipScorer
    from evaluation.features import ClipTower
    from pipeline.weights.models import resolve

    tower = ClipTower(ClipScorer.load(folder / "scorer", name=resolve(str(folder)).name))
    images = np.random.default_rng(0).integers(0, 256, (40, IMAGE_PIXELS, IMAGE_PIXELS, 3), dtype=np.uint8)
    features = tower(images)
    made_of = {"network": tower.name, "weights": tower.weights, "images": "uniform noise", "count": 40, "seed": 0}
    (folder / "reference.npz").write_bytes(to_bytes(Reference(Moments.of(features), features, made_of)))
