"""Checks of a prior's files before a model is built from them: names, format and architecture.

A prior is a folder of the Stable Diffusion format, or one `.safetensors` file with the original tensor names, as
fine-tunes are published, plus a folder with the configuration of the checkpoint that was fine-tuned. Pickles are
rejected without opening them, because a pickle can run code.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sctd.damage import damage_of
from sctd.errors import SctdError, one_line, shortened

CLASSES = "UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel"
LATENT_SHIFTS = "shift_factor", "latents_mean", "latents_std"
# Beginnings of the names of diffusers' schedulers for a schedule of β_t, with its variants of each.
SCHEDULERS = (
    *(
        "DDIM",
        "DDPMScheduler",
        "DDPMParallel",
        "PNDM",
        "IPNDM",
        "LMSDiscrete",
        "Euler",
        "Heun",
        "KDPM2",
        "DEIS",
        "UniPC",
    ),
    *("DPMSolver", "SASolver", "LCMScheduler", "TCDScheduler"),
)
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # file names of weights, without suffix
PICKLES = ".bin", ".ckpt", ".pt", ".pth"
PICKLED = b"PK\x03\x04", b"\x80"  # first bytes of torch.save files: a zip archive, before 2020 a bare pickle
CONVERT = (
    "python -c \"import sys, torch, safetensors.torch as s; t = torch.load(sys.argv[1], map_location='cpu', "
    "weights_only=True); s.save_file({k: v.clone().contiguous() for k, v in t.get('state_dict', t).items() "
    "if hasattr(v, 'clone')}, sys.argv[2], {'format': 'pt'})\""
)


def weights_names(stem: str) -> tuple[str, ...]:
    """The names that the weights of a model may have: one file, or the index of several, in float32 or float16."""
    files = f"{stem}.safetensors", f"{stem}.fp16.safetensors"
    return *files, f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json"


def variant(folder: Path, stem: str) -> str | None:
    """The variant of a folder's weights, as diffusers and transformers call it: None, or "fp16"."""
    plain = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    return None if any((folder / name).is_file() for name in plain) else "fp16"


# The possible names of each file.
CONFIG_FILES = (
    *[(f"{part}/config.json",) for part in ("vae", "unet", "text_encoder")],
    ("scheduler/scheduler_config.json",),
    *[("tokenizer/tokenizer.json", f"tokenizer/{name}") for name in ("vocab.json", "merges.txt")],
)
WEIGHTS_FILES = (
    *[weights_names(f"{part}/{DIFFUSERS}") for part in ("vae", "unet")],
    weights_names(f"text_encoder/{TRANSFORMERS}"),
)
PRIOR_FORMAT = (
    "expected a folder of the Stable Diffusion format with vae/, unet/, text_encoder/, tokenizer/ and scheduler/, "
    "weights in safetensors"
)
CONTROLNET_FILES = (("config.json",), weights_names(DIFFUSERS))
CONTROLNET_FORMAT = "expected a folder of diffusers' ControlNet format, weights in safetensors"
CONFIG_FORMAT = (
    "a single file needs the configuration of the checkpoint that was fine-tuned, a folder of the Stable Diffusion "
    "format (its weights are not read)"
)

UNET, VAE, TEXT_ENCODER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
PARTS = {"unet": (UNET, "U-Net"), "vae": (VAE, "VAE"), "text_encoder": (TEXT_ENCODER, "text encoder")}
OPEN_CLIP_NAMES = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.": "embeddings.token_embedding.",
    "ln_final.": "final_layer_norm.",
    "transformer.resblocks.": "encoder.layers.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.": ".self_attn.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


# Of files: RuntimeError is raised for wrong shapes. Of a library that meets a configuration which it does not expect:
_ABOUT_CODE = ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RecursionError, TypeError
_READ_ERRORS = OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError, *_ABOUT_CODE
MOST_PIXELS, MOST_BLOCKS = 2**16, 16  # of a side of a latent, of a VAE


class PriorError(SctdError):
    """Raised for files that are not a valid prior: what is missing or wrong, and what to do."""


class Source(NamedTuple):
    """`folder` has the configuration; the weights are in `single_file` if there is one, else in `folder`."""

    folder: Path
    single_file: Path | None


def locate(path: Path, config: Path | None) -> Source:
    """Locate a prior's weights and configuration. Raises PriorError if a file is missing.

    The configuration of a single file is `config`, a folder of the file's name next to it, or the folder that contains
    it. A folder with a configuration, one single file and no other weights is treated like that file.
    """
    if path.is_dir() and config is None:
        parts = any((path / name).is_file() for names in WEIGHTS_FILES for name in names)
        files = [] if parts else sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            check_files(path, (*CONFIG_FILES, *WEIGHTS_FILES), PRIOR_FORMAT)
            return Source(path, None)
        path = files[0]
    elif config is not None and not path.is_file():
        raise PriorError(f"there is no file {path}; config= needs a single .safetensors file: check the path")
    if not path.is_file():
        raise PriorError(f"there is no folder {path}; {PRIOR_FORMAT}: check the path")
    if path.suffix in PICKLES:
        raise PriorError(pickled(path, path.with_suffix(".safetensors")))
    if path.suffix != ".safetensors":
        raise PriorError(f"{path} is not a .safetensors file; {PRIOR_FORMAT}, or one .safetensors file: check the path")
    places = [config] if config is not None else [path.with_suffix(""), path.parent]
    found = next((place for place in places if (place / "unet" / "config.json").is_file()), None)
    if found is None:
        raise PriorError(
            f"found no {' or '.join(str(place / 'unet' / 'config.json') for place in places)} for {path}; "
            f"{CONFIG_FORMAT}: copy one there"
        )
    check_files(found, CONFIG_FILES, CONFIG_FORMAT)
    return Source(found, path)


def image_size(path: Path) -> int:
    """Height of a prior's images in pixels, from its configuration alone. Raises PriorError if there is none."""
    height, _, factor = _sizes(locate(path, None).folder)
    return height * factor


def _sizes(folder: Path) -> tuple[int, int, int]:
    """Height and width of a latent, and image pixels per latent pixel. Raises PriorError."""
    unet, vae = (folder / part / "config.json" for part in ("unet", "vae"))
    size, blocks = read_json(unet).get("sample_size"), read_json(vae).get("block_out_channels")
    sides: list[Any] = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= MOST_PIXELS for side in sides):
        raise PriorError(
            f"{unet} has sample_size {shortened(repr(size))}; expected the side of the latents in training, 64 for "
            "images of 512 pixels: add it"
        )
    if not isinstance(blocks, list) or not 1 <= len(blocks) <= MOST_BLOCKS:
        raise PriorError(
            f"{vae} has block_out_channels {shortened(repr(blocks))}; expected a list with one number for each "
            "resolution, [128, 256, 512, 512] for Stable Diffusion: add it"
        )
    return sides[0], sides[1], int(2 ** (len(blocks) - 1))


def check_files(folder: Path, files: Iterable[tuple[str, ...]], expected: str) -> None:
    """Raise PriorError unless every file of the format exists under one of its names."""
    if not folder.is_dir():
        raise PriorError(f"there is no folder {folder}; {expected}: check the path")
    for names in files:
        if any((folder / name).is_file() for name in names):
            continue
        directory, expected_file = (folder / names[0]).parent, folder / names[0]
        if expected_file.suffix == ".safetensors" and directory.is_dir():
            for found in sorted(directory.iterdir()):
                if found.suffix in PICKLES:
                    raise PriorError(pickled(found, expected_file))
        raise PriorError(f"{folder} lacks {' or '.join(names[:2])}; {expected}: download the checkpoint again")


def pickled(path: Path, target: Path) -> str:
    """The error for a pickle, with the command that converts it to `target` without running its code."""
    return (
        f"{path} is a pickle, which could run code when opened; expected safetensors: download the checkpoint in that "
        f"format, or convert it with {CONVERT} '{path}' '{target}'"
    )


def check_index(folder: Path, stem: str) -> None:
    """Raise PriorError unless each index of sharded weights in a folder names files beside it."""
    for name in weights_names(stem)[2:]:
        path = folder / name
        if not path.is_file():
            continue
        shards = read_json(path).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
            raise PriorError(
                f"{folder} cannot be read ({name} has no weight_map to files): download the checkpoint again"
            )
        for shard in dict.fromkeys(shards.values()):
            if not re.fullmatch(r"[\w.-]+\.safetensors", shard, re.ASCII) or not (folder / shard).is_file():
                reason = f"{name} names {shortened(shard, 80)!r}, which is not beside it"
                raise PriorError(f"{folder} cannot be read ({reason}): download the checkpoint again")


def read_json(path: Path) -> Mapping[str, Any]:
    found = read(path, lambda path: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(found, dict):
        raise PriorError(f"{path} contains no JSON object: download the checkpoint again")
    return found


def read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """The result of `reader` on the file or folder. Raises PriorError with the reason if it fails."""
    try:
        return reader(path)
    except _READ_ERRORS as error:
        lines = str(error).strip().split("\n")
        text = error if isinstance(error, _ABOUT_CODE) else lines[-1 if isinstance(error, StrictDataclassError) else 0]
        reason = damage_of(path) or one_line(text)
        raise PriorError(f"{path} cannot be read ({reason}): download the checkpoint again") from error


def check_architecture(folder: Path) -> None:
    """Raise PriorError unless the configurations are those of one text-to-image Stable Diffusion checkpoint."""
    unet, vae, text = (read_json(folder / part / "config.json") for part in ("unet", "vae", "text_encoder"))
    classes = unet.get("_class_name"), vae.get("_class_name"), text.get("architectures", [None])
    for part, found, of_part in zip(("unet", "vae", "text_encoder"), classes, CLASSES, strict=True):
        names = found if isinstance(found, list) else [found]
        if not any(name is None or str(name).startswith(of_part) for name in names):
            raise PriorError(
                f"{folder}/{part} is of the class {one_line(', '.join(map(str, names)), 80)}; expected {of_part}: use "
                "Stable Diffusion 1 or 2"
            )
    if shifted := next((key for key in LATENT_SHIFTS if vae.get(key)), None):
        raise PriorError(
            f"{folder}/vae shifts its latents ({shifted}), as later models do; expected a scale alone: use Stable "
            "Diffusion 1 or 2"
        )
    if unet.get("addition_embed_type") or unet.get("class_embed_type") or unet.get("num_class_embeds"):
        raise PriorError(
            f"{folder}/unet is conditioned on more than text and time, as SDXL's or an upscaler's; "
            "expected Stable Diffusion 1 or 2: use such a checkpoint"
        )
    if unet.get("time_cond_proj_dim"):
        raise PriorError(
            f"{folder}/unet takes the guidance scale as an input (time_cond_proj_dim), as a latent consistency model; "
            "expected a model for classifier-free guidance: use the checkpoint that it was distilled from"
        )
    _sizes(folder)
    channels = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels[0] != channels[1]:
        raise PriorError(_channels(f"{folder}/unet", *channels))
    width, expected = text.get("hidden_size"), unet.get("cross_attention_dim")
    if width != expected:
        raise PriorError(
            f"{folder}/text_encoder has embeddings of width {one_line(width, 80)}, but unet/ expects width "
            f"{one_line(expected, 80)}: "
            "use both from the same checkpoint"
        )


def check_diffusion(folder: Path, scheduler: Mapping[str, Any]) -> None:
    """Raise PriorError for the scheduler of a model without the ᾱ_t of Stable Diffusion, such as flow matching."""
    name = str(scheduler.get("_class_name"))
    if "flow" in name.lower() or scheduler.get("use_flow_sigmas"):
        raise PriorError(
            f"{folder}/scheduler/scheduler_config.json is for flow matching ({one_line(name)}); expected a diffusion "
            "model that predicts ε or v: use Stable Diffusion 1 or 2"
        )
    if "_class_name" in scheduler and not name.startswith(SCHEDULERS):
        raise PriorError(
            f"{folder}/scheduler/scheduler_config.json is of the class {one_line(name)}, which is not for the noise "
            "schedule of Stable Diffusion; expected one such as DDIMScheduler: use Stable Diffusion 1 or 2"
        )


def split(path: Path, folder: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a single file by part: U-Net and VAE with original names, text encoder with transformers' names.

    Raises PriorError unless the file has all three parts in the architecture configured by `folder`.
    """
    with open(path, "rb") as file:
        if file.read(4).startswith(PICKLED):
            raise PriorError(pickled(path, path.with_name(f"{path.stem}.converted.safetensors")))
    tensors: dict[str, Tensor] = read(path, load_file)
    if any(name.startswith("conditioner.embedders.") for name in tensors):
        raise PriorError(f"{path} is an SDXL checkpoint; expected Stable Diffusion 1 or 2: use such a checkpoint")
    parts = {}
    for part, (prefix, title) in PARTS.items():
        parts[part] = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if not parts[part]:
            raise PriorError(
                f"{path} has no {title} (no tensor named {prefix}…); expected a full checkpoint of Stable Diffusion "
                "1 or 2 with the original tensor names, not a LoRA or a part: use such a file, or a folder"
            )
    _check_unet(path, parts["unet"], folder)
    parts["text_encoder"] = clip_names(parts["text_encoder"])
    return parts


def clip_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's tensors under transformers' names; Stable Diffusion 1 has these, 2 has open_clip's names.

    open_clip stores the matrices of queries, keys and values as one.
    """
    transformers, open_clip = f"{TEXT_ENCODER}transformer.", f"{TEXT_ENCODER}model."
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(transformers):
            found[name.removeprefix(transformers).removeprefix("text_model.")] = tensor
        elif name.startswith(open_clip):
            name = name.removeprefix(open_clip)
            for theirs, ours in OPEN_CLIP_NAMES.items():
                name = name.replace(theirs, ours)
            layer, joint, kind = name.partition("in_proj_")
            if joint:
                for letter, third in zip("qkv", tensor.chunk(3), strict=False):  # a missing one is reported later
                    found[f"{layer}{letter}_proj.{kind}"] = third
            else:
                found[name] = tensor
    return found


def _check_unet(path: Path, tensors: Mapping[str, Tensor], folder: Path) -> None:
    config = read_json(folder / "unet" / "config.json")
    first = tensors.get(f"{UNET}input_blocks.0.0.weight")
    if first is None or first.ndim != 4:
        raise PriorError(f"{path} has another network than the U-Net of Stable Diffusion 1 or 2: use such a checkpoint")
    if first.shape[1] != config.get("in_channels", 4):
        raise PriorError(_channels(str(path), first.shape[1], config.get("in_channels", 4)))
    for name, tensor in tensors.items():
        if name.endswith(".attn2.to_k.weight") and tensor.shape[-1:] != (config.get("cross_attention_dim"),):
            width, expected = tensor.shape[-1] if tensor.ndim else 0, one_line(config.get("cross_attention_dim"), 80)
            raise PriorError(
                f"{path} expects embeddings of width {width}, the configuration in {folder} {expected} (Stable "
                "Diffusion 1: 768, 2: 1024): use the configuration of the checkpoint that was fine-tuned"
            )


def _channels(where: str, found: Any, expected: Any) -> str:
    kind = ", as for inpainting" if found == 9 else ""
    return (
        f"{where} has a U-Net of {one_line(found, 80)} input channels{kind}; expected {one_line(expected, 80)}, those "
        "of a latent: use a text-to-image checkpoint"
    )
