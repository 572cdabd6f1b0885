"""The files that both sides read: renders of the synthetic world, prompts, random weights of the true architectures.

The weights are in the formats in which the packages publish theirs: OpenAI's types for CLIP, `ImageReward.pt` with its
unused tensors, and the names of pt_inception-2015-12-05.
"""

import hashlib
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

PHRASES = ("a red car", "a yellow duck on a blue cube", "a green cactus", "a striped mug")
ACCENTS = "a DSLR photo of a café's croissant, half-eaten; 2 plates & a cup"
LONG = (
    "a wide angle zoomed out DSLR photo of a skiing penguin wearing a puffy jacket, standing on a snowy mountain top "
    "at sunset, highly detailed, with a small wooden cabin, two pine trees and a frozen lake in the background"
)  # longer than ImageReward's 35 tokens, not longer than CLIP's 77
PROMPTS = (PHRASES[0], ACCENTS, LONG)
SIZES = (512, 64)  # of the published priors and of the synthetic world
FID_VIEWS = 24
POINTS = 20_000
FEATURES = {"a": (300, 64), "b": (400, 64)}
INCEPTION = "2015-12-05-6726825d.pth"
HUB = "hub/checkpoints"
STAMP = "made_of"
REWARD_TEXT = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "vocab_size": 30524,
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "max_position_embeddings": 512, "layer_norm_eps": 1e-12, "pad_token_id": 0, "add_type_embeddings": False,
    "encoder_width": 1024, "add_cross_attention": True,
}  # fmt: skip
"""`med_config.json`, as published beside ImageReward-v1.0."""
BERT_SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
BERT_WORDS = 30522
VIT_L_14 = {
    "embed_dim": 768,
    "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
}
VIT_B_32 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}


def write(folder: Path) -> Path:
    """Write all inputs to `folder`, unless an earlier call of the same code has."""
    made_of, stamp = hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), folder / STAMP
    if stamp.is_file() and stamp.read_text() == made_of:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    _write_images(folder)
    _write_features(folder / "features.npz")
    _write_inception(folder / "inception")
    _write_clip(folder / "clip")
    _write_reward(folder / "reward")
    stamp.write_text(made_of)
    return folder


def images_in(folder: Path) -> list[np.ndarray]:
    """Images of a folder by file name: uint8 [height, width, 3]."""
    return [np.asarray(Image.open(file).convert("RGB")) for file in sorted(folder.glob("*.png"))]


def _write_images(folder: Path) -> None:
    """One view per object to be scored, two of each size; views all around; images of the world as a reference set."""
    from pipeline.embedded.data import describe, render_images

    scored = [_views(phrase, 1, SIZES[number // 2])[0] for number, phrase in enumerate(PHRASES)]
    generated = [view for phrase in PHRASES for view in _views(phrase, FID_VIEWS // len(PHRASES), SIZES[0])]
    scenes = describe(FID_VIEWS, 1, 7, workers=1)
    reference = list(render_images(scenes, "cpu", size=SIZES[0]).permute(0, 2, 3, 1).numpy())
    for name, images in {"scored": scored, "generated": generated, "reference": reference}.items():
        (folder / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{number:03}.png")


def _views(phrase: str, count: int, size: int) -> np.ndarray:
    """Views of Gaussians on the surface of an object of the synthetic world: uint8 [count, size, size, 3]."""
    from pipeline.assets.images import on_white
    from pipeline.embedded import world
    from pipeline.embedded.raytrace import surface_points
    from pipeline.plan.protocol import Protocol
    from sctd.scene.gaussians import Gaussians, rgb_to_sh
    from sctd.train.initialization import neighbour_scales

    scene = world.scene_of(np.random.default_rng(1), phrase)
    points = surface_points(*world.table([scene]), POINTS, 1)[0]
    xyz, rgb = points[:, :3].contiguous(), points[:, 3:]
    gaussians = Gaussians(
        means=xyz,
        log_scales=neighbour_scales(xyz).log()[:, None].repeat(1, 3),
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(POINTS, 1),
        logit_opacities=torch.full((POINTS,), 3.0),
        sh=rgb_to_sh(rgb)[:, None],
    )
    return on_white(gaussians, Protocol(count).cameras(size))


def _write_features(file: Path) -> None:
    """Correlated features of two sets with more samples than dimensions, for the distance alone."""
    random = np.random.default_rng(13)
    mixes = [np.linalg.qr(random.normal(size=(64, 64)))[0] * np.geomspace(1, 0.05, 64) for _ in FEATURES]
    drawn = [random.normal(size=size) @ mix for size, mix in zip(FEATURES.values(), mixes, strict=True)]
    np.savez(file, a=drawn[0], b=drawn[1] + 0.2)


def _write_inception(folder: Path) -> None:
    """Under the file names of torch-fidelity and pytorch-fid, in the folder that torch.hub looks in."""
    from tests.support.tiny_models import inception_state

    (folder / HUB).mkdir(parents=True)
    torch.save(inception_state(), folder / HUB / f"weights-inception-{INCEPTION}")
    (folder / HUB / f"pt_inception-{INCEPTION}").hardlink_to(folder / HUB / f"weights-inception-{INCEPTION}")


def _write_clip(folder: Path) -> None:
    """ViT-L/14 in a TorchScript archive, as OpenAI published it; ViT-B/32 with plain GELU in a folder of open_clip."""
    from open_clip.model import convert_weights_to_lp
    from safetensors.torch import save_file

    folder.mkdir()
    large = _random_clip(VIT_L_14, quick_gelu=True)
    convert_weights_to_lp(large, torch.float16)
    _write_archive(large.state_dict(), folder / "ViT-L-14.pt")
    base = folder / "ViT-B-32"
    base.mkdir()
    state = {
        name: tensor.contiguous() for name, tensor in _random_clip(VIT_B_32, quick_gelu=False).state_dict().items()
    }
    save_file(state, base / "open_clip_model.safetensors")
    (base / "open_clip_config.json").write_text(json.dumps({"model_cfg": VIT_B_32, "preprocess_cfg": {}}))


def _write_archive(state: dict[str, torch.Tensor], file: Path) -> None:
    """A module that holds tensors by name. OpenAI's loader reads no other file: it opens a plain one twice."""
    root = _Archived()
    for name, tensor in state.items():
        *path, last = name.split(".")
        place: torch.nn.Module = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        place.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.script(root).save(file)


class _Archived(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _random_clip(config: dict, *, quick_gelu: bool) -> torch.nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    model = CLIP(config["embed_dim"], vision, text, quick_gelu=quick_gelu).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "ln_1.weight", "ln_2.weight")):  # initialized to 0 and 1, which would hide a mix-up
            parameter.data.add_(0.1 * torch.randn(parameter.shape))
    model.text_projection.data.neg_()  # with this seed, similarities are then positive: torchmetrics cuts them at 0
    return model


def _write_reward(folder: Path) -> None:
    """`ImageReward.pt`, its `med_config.json`, and a vocabulary where transformers looks for bert-base-uncased."""
    from evaluation.image_reward import ImageReward, RewardConfig, load_tokenizer

    bert = folder / "bert-base-uncased"
    bert.mkdir(parents=True)
    (bert / "vocab.txt").write_text("\n".join(_vocabulary()) + "\n", encoding="utf-8")
    (bert / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 512}))
    shutil.copy(bert / "vocab.txt", folder)
    (folder / "med_config.json").write_text(json.dumps(REWARD_TEXT))
    torch.manual_seed(0)
    state = ImageReward(RewardConfig(), load_tokenizer(folder / "vocab.txt")).state_dict()
    for name, tensor in state.items():
        larger = 2 if name.startswith("mlp.") and name.endswith("weight") else 1  # so that rewards span units
        tensor.add_(0.02 * torch.randn(tensor.shape)).mul_(larger)
    unused = {"blip.vision_proj": (256, 1024), "blip.text_proj": (256, 768)}
    extra = {f"{name}.weight": torch.randn(shape) for name, shape in unused.items()}
    extra |= {f"{name}.bias": torch.randn(256) for name in unused}
    extra["blip.text_encoder.embeddings.position_ids"] = torch.arange(512)[None]
    halves = {name: tensor.half() for name, tensor in state.items()}  # half the disk; both sides compute in float32
    torch.save({**halves, **extra}, folder / "ImageReward.pt")


def _vocabulary() -> list[str]:
    """As many words as bert-base-uncased has, its special tokens at their places: letters, pieces, whole words."""
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = sorted({word for prompt in PROMPTS for word in prompt.lower().split() if word.isalpha()})
    known = [*characters, *(f"##{character}" for character in characters), *words[::2], "##ing", "##ed", "##s"]
    rest = iter(known)
    filled = (BERT_SPECIAL.get(place) or next(rest, f"[unused{place}]") for place in range(BERT_WORDS))
    return list(filled)
