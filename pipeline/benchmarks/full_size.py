"""Write a weights folder with every published model at full size, with random weights, in its published format.

    python -m pipeline.benchmarks.full_size FOLDER
    segmentdreamer reference --weights FOLDER --suite dreamfusion40 --count 80
    segmentdreamer bench --suite dreamfusion40 --limit 1 --recipe paper --weights FOLDER --set iterations=100

The assets are noise, but files, tensor shapes and code are those of a run with the real weights. It shows that such a
run works, and measures the time and memory of its stages. Takes 8 GB and a minute on a GPU. Optional scorers are
written if named: `python -m pipeline.benchmarks.full_size FOLDER pickscore hps aesthetic`, 6 GB.
"""

import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from open_clip import get_model_config
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from evaluation.image_reward import ImageReward, RewardConfig, load_tokenizer
from evaluation.inception import PUBLISHED, Inception
from evaluation.preference import AESTHETIC_FILE, HPS_FILE, HPS_MODEL, MLP
from sctd.point_e.load import BASE_PT, UPSAMPLER_PT
from sctd.point_e.model import PointDiffusionTransformer, PointUpsampler

CLIP_MODEL = "ViT-L-14-quickgelu"
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
}
BERT_WORDS = 30522


def write(folder: Path, parts: Sequence[str] = ()) -> None:
    """Write parts of a weights folder, by default all that are not optional.

    `segmentdreamer reference` generates reference.npz. Raises KeyError for an unknown part.
    """
    torch.manual_seed(0)
    for part in parts or DEFAULT:
        (folder / part).mkdir(parents=True, exist_ok=True)
        PARTS[part](folder / part)
        print(f"{part}: {sum(file.stat().st_size for file in (folder / part).rglob('*') if file.is_file()):,} bytes")


def prior(folder: Path) -> None:
    """Stable Diffusion 2.1-base in float16."""
    unet = _initialized(
        lambda: UNet2DConditionModel(
            sample_size=64, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
        )
    )
    vae = _initialized(
        lambda: AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        )
    )
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
        hidden_act="gelu", projection_dim=512,
    )  # fmt: skip
    text_encoder = _initialized(lambda: CLIPTextModel(config))
    for name, model in {"unet": unet, "vae": vae, "text_encoder": text_encoder}.items():
        model.half().save_pretrained(folder / name)
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    _write_tokenizer(folder / "tokenizer")


def scorer(folder: Path) -> None:
    """CLIP ViT-L/14 with QuickGELU, in open_clip's local-dir layout."""
    config = get_model_config(CLIP_MODEL)
    sizes = {key: value for key, value in config.items() if key != "hf_hub_id"}
    model = _initialized(lambda: CLIP(**sizes))
    document = {
        "model_cfg": config,
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic", "resize_mode": "shortest",
        },
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    save_file(_plain(model), folder / "open_clip_model.safetensors")


def reward(folder: Path) -> None:
    """ImageReward.pt, and a vocabulary of BERT's size."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    words += [f"[unused{number}]" for number in range(BERT_WORDS - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    model = _initialized(lambda: ImageReward(RewardConfig(), load_tokenizer(folder / "vocab.txt")))
    torch.save(_plain(model), folder / "ImageReward.pt")


def shape(folder: Path) -> None:
    """Point-E: base and upsampler."""
    torch.save(_plain(_initialized(PointDiffusionTransformer)), folder / BASE_PT)
    torch.save(_plain(_initialized(PointUpsampler)), folder / UPSAMPLER_PT)


def inception(folder: Path) -> None:
    """Inception-v3 of 2015-12-05 as torch-fidelity publishes it."""
    state = _plain(_initialized(Inception))
    torch.save(state | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, folder / PUBLISHED)


def pickscore(folder: Path) -> None:
    """PickScore v1 as transformers writes it, with CLIP's tokenizer."""
    _initialized(pickscore_model).save_pretrained(folder)
    _write_tokenizer(folder)


def pickscore_model() -> CLIPModel:
    """CLIP ViT-H/14 of transformers."""
    shared = {"num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 1024}
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "eos_token_id": 49407}
    vision = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "patch_size": 14}
    return CLIPModel(CLIPConfig(text_config=text | shared, vision_config=vision | shared, projection_dim=1024))


def hps(folder: Path) -> None:
    """HPS v2.1 in float16, below `state_dict`."""
    torch.save({"state_dict": _plain(_initialized(hps_model).half())}, folder / HPS_FILE)


def hps_model() -> CLIP:
    """CLIP ViT-H/14 of open_clip."""
    return CLIP(**{key: value for key, value in get_model_config(HPS_MODEL).items() if key != "hf_hub_id"})


def aesthetic(folder: Path) -> None:
    """LAION's aesthetic predictor, version 2."""
    widths = (768, 1024, 128, 64, 16, 1)
    layers = {name: torch.nn.Linear(*sizes) for name, sizes in zip(MLP, itertools.pairwise(widths), strict=True)}
    torch.save(
        {f"{n}.{p}": t for n, layer in layers.items() for p, t in _plain(layer).items()}, folder / AESTHETIC_FILE
    )


DEFAULT = "prior", "scorer", "reward", "shape", "inception"
PARTS: dict[str, Callable[[Path], None]] = {
    "prior": prior,
    "scorer": scorer,
    "reward": reward,
    "shape": shape,
    "inception": inception,
    "pickscore": pickscore,
    "hps": hps,
    "aesthetic": aesthetic,
}


def _initialized(build: Callable[[], Any]) -> Any:
    """A randomly initialized model, created on the GPU if there is one: on a CPU it takes minutes."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return build()


def _plain(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}


def _write_tokenizer(folder: Path) -> None:
    """Write CLIP's tokenizer from the vocabulary in open_clip."""
    folder.mkdir(exist_ok=True)
    tokenizer = SimpleTokenizer()
    start, end = "<|startoftext|>", "<|endoftext|>"
    words = {word: index for word, index in tokenizer.encoder.items() if index not in tokenizer.all_special_ids}
    vocabulary = words | {start: tokenizer.sot_token_id, end: tokenizer.eot_token_id}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = (" ".join(pair) for pair in tokenizer.bpe_ranks)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": "!"}
    config = special | {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    if len(sys.argv) < 2 or not {*sys.argv[2:]} <= PARTS.keys():
        sys.exit(
            f"Error: give a folder, and parts of {', '.join(PARTS)}: python -m pipeline.benchmarks.full_size FOLDER"
        )
    write(Path(sys.argv[1]), sys.argv[2:])
