"""Train the bundled scorer: an open_clip CLIP model, saved as a folder that open_clip reads with `local-dir:`."""

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.embedded import tokenizer
from pipeline.embedded.augment import like_splats
from pipeline.embedded.data import Data
from pipeline.embedded.training import TrainingPlan, fit

if TYPE_CHECKING:
    from open_clip import CLIP

WIDTH = 192
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def config(vocabulary: int) -> dict:
    """The `model_cfg` of open_clip_config.json."""
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "layers": 6, "width": WIDTH, "head_width": 32},
        "text_cfg": {
            "context_length": tokenizer.MAX_LENGTH,
            "vocab_size": vocabulary,
            "width": WIDTH,
            "heads": WIDTH // 32,
            "layers": 4,
            "hf_tokenizer_name": "local",
        },
    }


def build_model(vocabulary: int) -> "CLIP":
    """A randomly initialised open_clip CLIP of the bundled size."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    cfg = config(vocabulary)
    return CLIP(cfg["embed_dim"], CLIPVisionCfg(**cfg["vision_cfg"]), CLIPTextCfg(**cfg["text_cfg"]))


def save_scorer(folder: Path, model: "CLIP", tokenizer_folder: Path) -> None:
    """Write open_clip_config.json, open_clip_model.safetensors (fp16) and the tokenizer's files."""
    from safetensors.torch import save_file

    shutil.copytree(tokenizer_folder, folder, dirs_exist_ok=True)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    document = {"model_cfg": config(model.vocab_size), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(document, indent=2) + "\n")
    state = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def train_scorer(
    model: "CLIP", data: Data, ids: Tensor, plan: TrainingPlan, *, batch: int = 2048, compiled: bool = True
) -> dict[str, float]:
    """Contrastive training on images and captions; `ids` [N,2,tokens].

    Half of each batch has splat artefacts (`like_splats`). Captions with the same meaning are not negatives of each
    other, and a caption without a view word is not a negative of another view of the same object.
    """
    device = data.images.device.type
    model.to(device).train()
    encode = torch.compile(_encode) if compiled else _encode
    with torch.no_grad():
        model.logit_scale.fill_(math.log(14.0))

    def step(_: int) -> tuple[Tensor, dict[str, Tensor]]:
        # Each batch has pairs of views of one scene, which only the view word distinguishes.
        first = torch.randint(len(data), (batch // 2,), device=device)
        per_scene = len(data) // int(data.scene_index[-1] + 1)
        sibling = first - first % per_scene + torch.randint(per_scene, (batch // 2,), device=device)
        index = torch.cat([first, sibling])
        caption = torch.randint(ids.shape[1], (batch,), device=device)
        images = like_splats(data.images[index].float() / 127.5 - 1)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            image, text = encode(model, images, ids[index, caption].long())
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        logits = image @ text.T * model.logit_scale.exp().clamp(max=100)
        key, view = data.key_ids[index], data.view_ids[index, caption]
        same_view = (view[:, None] == view) | (view[:, None] == 0) | (view == 0)
        same = (key[:, None] == key) & same_view
        logits = logits.masked_fill(same & ~torch.eye(batch, dtype=torch.bool, device=device), -1e4)
        right = torch.arange(batch, device=device)
        loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        return loss, {"right": (logits.argmax(1) == right).float().mean(), "scale": model.logit_scale.exp()}

    done = fit(
        "scorer", list(model.parameters()), step, plan, lr=1e-3, warmup=300, betas=(0.9, 0.98), weight_decay=0.02
    )
    model.eval()
    return done


def _encode(model: "CLIP", images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    return model.encode_image(images), model.encode_text(ids)


@torch.no_grad()
def image_features(model: "CLIP", images: Tensor) -> Tensor:
    """Unit-norm float32 features [N, WIDTH] of uint8 images [N,3,64,64]."""
    parts = [model.encode_image(part.float() / 127.5 - 1) for part in images.split(1024)]
    return F.normalize(torch.cat(parts).float(), dim=-1)


@torch.no_grad()
def text_features(model: "CLIP", ids: Tensor) -> Tensor:
    """Unit-norm float32 features [P, WIDTH] of token ids [P, tokens]."""
    return F.normalize(torch.cat([model.encode_text(part.long()) for part in ids.split(1024)]).float(), dim=-1)
