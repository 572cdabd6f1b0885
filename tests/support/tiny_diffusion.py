"""Stable Diffusion's published architectures with few channels but all layers, as folders and as single files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging as transformers_logging

MAX_TOKENS = 12
SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
}  # fmt: skip


def write_tokenizer(folder: Path) -> None:
    """A tokenizer in the published format: bytes, bytes at the end of a word, one merge and two special tokens."""
    folder.mkdir(parents=True)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), "at</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na t</w>\n")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "!",
    }
    config = {**special, "model_max_length": MAX_TOKENS, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_models(folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
    """Save the models in their folders, without progress bars."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for part, model in {"vae": vae, "unet": unet, "text_encoder": text_encoder}.items():
        model.save_pretrained(folder / part)
    if shown:
        transformers_logging.enable_progress_bar()


def write_narrow(folder: Path, *, version: int, sample_size: int, prediction: str) -> Path:
    """Stable Diffusion 1 (text 768 wide, projections by convolution) or 2, of four levels, in half precision."""
    torch.manual_seed(version)
    text_width = 768 if version == 1 else 32
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(8, 16, 16, 16),
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        layers_per_block=2,
        norm_num_groups=4,
        cross_attention_dim=text_width,
        attention_head_dim=2 if version == 1 else (1, 2, 2, 2),  # a number of heads for all levels, or per level
        use_linear_projection=version == 2,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=515, hidden_size=text_width, intermediate_size=32, num_hidden_layers=1 if version == 1 else 3,
            num_attention_heads=12 if version == 1 else 2, hidden_act="quick_gelu" if version == 1 else "gelu",
            max_position_embeddings=MAX_TOKENS, bos_token_id=513, eos_token_id=514, pad_token_id=0,
        )
    )  # fmt: skip
    write_models(folder, vae.half(), unet.half(), text_encoder.half())
    DDIMScheduler(**SCHEDULER, prediction_type=prediction).save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer")
    return folder


def single_file(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, *, version: int
) -> dict[str, Tensor]:
    """The tensors under the names of the original checkpoints, with their additional tensors."""
    found = _renamed(unet.state_dict(), "model.diffusion_model.", _unet_name(unet.config["layers_per_block"]))
    levels = len(vae.config["block_out_channels"])
    for name, tensor in vae.state_dict().items():
        attention = "mid_block.attentions" in name and "group_norm" not in name and name.endswith("weight")
        found[f"first_stage_model.{_vae_name(name, levels)}"] = tensor[:, :, None, None] if attention else tensor
    text = {name.removeprefix("text_model."): tensor for name, tensor in text_encoder.state_dict().items()}
    if version == 1:
        found |= _renamed(text, "cond_stage_model.transformer.text_model.", lambda name: name)
        found["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(MAX_TOKENS)[None]
    else:
        found |= _open_clip(text)
    found["model_ema.decay"], found["alphas_cumprod"] = torch.tensor(0.9999), torch.rand(1000)
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}


def _renamed(state: Mapping[str, Tensor], prefix: str, rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {prefix + rename(name): tensor for name, tensor in state.items()}


def _unet_name(layers: int) -> Callable[[str], str]:
    resnet = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    ends = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    }  # fmt: skip

    def rename(name: str) -> str:
        for ours, theirs in ends.items():
            if name.startswith(f"{ours}."):
                return name.replace(ours, theirs)
        block, *rest = name.split(".")
        if block == "mid_block":
            kind, number, *rest = rest
            place = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
        else:
            level, kind, number, *rest = rest
            per_level = layers + 1
            if kind == "downsamplers":
                return f"input_blocks.{per_level * (int(level) + 1)}.0.op.{rest[-1]}"
            if kind == "upsamplers":  # after the attention, which all levels but the first have
                return f"output_blocks.{per_level * int(level) + layers}.{1 if level == '0' else 2}.conv.{rest[-1]}"
            side, first = ("input", 1) if block == "down_blocks" else ("output", 0)
            place = f"{side}_blocks.{first + per_level * int(level) + int(number)}.{int(kind == 'attentions')}"
        if kind == "resnets":
            rest[0] = resnet[rest[0]]
        return ".".join([place, *rest])

    return rename


def _vae_name(name: str, levels: int) -> str:
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    side, _, rest = name.partition(".")
    parts = rest.split(".")
    if parts[0] == "mid_block":
        which = f"block_{int(parts[2]) + 1}" if parts[1] == "resnets" else "attn_1"
        rest = ".".join(["mid", which, *parts[3:]])
        if parts[1] == "attentions":
            for ours, theirs in attention.items():
                rest = rest.replace(f".{ours}.", f".{theirs}.")
    elif parts[0] in ("down_blocks", "up_blocks"):
        up = parts[0] == "up_blocks"
        level = levels - 1 - int(parts[1]) if up else int(parts[1])
        kind = {"resnets": f"block.{parts[3]}", "downsamplers": "downsample", "upsamplers": "upsample"}[parts[2]]
        rest = ".".join(["up" if up else "down", str(level), kind, *parts[4:]])
    return f"{side}.{rest}".replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def _open_clip(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's tensors: joint attention matrices, one unused layer, and the unused projection."""
    found = {}
    for name, tensor in text.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            tensor = torch.cat([text[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"])
        for ours, theirs in {
            "embeddings.position_embedding.weight": "positional_embedding",
            "embeddings.token_embedding": "token_embedding",
            "final_layer_norm": "ln_final",
            "encoder.layers": "transformer.resblocks",
            "layer_norm": "ln_",
            "self_attn": "attn",
            "q_proj.": "in_proj_",
            "fc1": "c_fc",
            "fc2": "c_proj",
        }.items():
            name = name.replace(ours, theirs)
        found[f"cond_stage_model.model.{name}"] = tensor
    last = max(int(name.split(".")[4]) for name in found if ".resblocks." in name)
    for name in [name for name in found if f".resblocks.{last}." in name]:
        found[name.replace(f".{last}.", f".{last + 1}.", 1)] = torch.randn_like(found[name])
    found["cond_stage_model.model.text_projection"] = torch.randn(32, 32)
    found["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
    return found
