"""ImageReward (Xu et al. 2023, arXiv:2304.05977): a ViT, a BERT that cross-attends to it, and an affine head.

Plain torch with the parameter names of the published `ImageReward.pt`, so that file and the small bundled model load
into the same class. Conventions of the published scorer (Sec. 2.3 and its code): PIL bicubic, centre crop, CLIP's mean
and standard deviation; lower-case WordPiece truncated at 35 tokens; the [CLS] state; reward = (raw - mean) / std, which
is standard normal over the images of its training set. In float32, because bfloat16 costs 1.6e-2.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn
from transformers import BertTokenizer

from evaluation.blip import Head, RewardConfig, TextEncoder, VisionEncoder
from evaluation.checkpoints import read_tensors
from evaluation.errors import EvaluationError
from evaluation.views import Views, in_batches, parallel_map

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""Tensors of the published checkpoint that do not affect the score (BLIP's contrastive heads and a buffer)."""


class ImageReward(nn.Module):
    """Predicted human preference for an image and its text, in standard deviations (`ir`, higher is better)."""

    def __init__(self, config: RewardConfig, tokenizer: BertTokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.blip = nn.ModuleDict({"visual_encoder": VisionEncoder(config), "text_encoder": TextEncoder(config)})
        self.mlp = Head(config)

    @staticmethod
    def load(folder: Path | str, device: torch.device | str = "cpu") -> ImageReward:
        """Load `vocab.txt` and either `config.json` + `model.safetensors` or the published `ImageReward.pt`.

        Raises EvaluationError if a file is missing or the name or shape of a tensor does not match.
        """
        folder = Path(folder)
        config_file, vocab_file = folder / "config.json", folder / "vocab.txt"
        weights = next((f for f in (folder / "model.safetensors", folder / "ImageReward.pt") if f.is_file()), None)
        if weights is None:
            raise EvaluationError(
                f"no reward model in {folder}: expected model.safetensors (with config.json) or ImageReward.pt"
            )
        if not vocab_file.is_file():
            raise EvaluationError(
                f"no vocab.txt in {folder}: copy the vocabulary of the text encoder next to {weights.name}"
            )
        if weights.suffix == ".safetensors" and not config_file.is_file():
            raise EvaluationError(
                f"no config.json in {folder}: {weights.name} does not contain the numbers of attention heads"
            )
        config = RewardConfig.from_json(config_file.read_text()) if config_file.is_file() else RewardConfig()
        model = ImageReward(config, load_tokenizer(vocab_file))
        model.load_published(read_tensors(weights))
        return model.to(device).eval().requires_grad_(False)

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Load a checkpoint by name. Every tensor must match, except those that do not affect the score (`UNUSED`)."""
        state = {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}
        state = {name: tensor for name, tensor in state.items() if not name.startswith(UNUSED)}
        expected = self.state_dict()
        wrong = {name for name in state.keys() & expected.keys() if state[name].shape != expected[name].shape}
        for found, problem in (
            (expected.keys() - state, "lacks {} tensors"),
            (state.keys() - expected, "has {} unknown tensors"),
            (wrong, "has {} tensors of another shape"),
        ):
            if found:
                raise EvaluationError(
                    f"not this reward model: the checkpoint {problem.format(len(found))}, first {min(found)}; "
                    "expected ImageReward's names with the sizes of config.json"
                )
        self.load_state_dict(state)

    def tokens(self, texts: list[str]) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
        """Ids and mask, padded to the longest text and silently truncated at `max_length`, as in the published code."""
        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.config.max_length, return_tensors="pt"
        )
        device = self.mlp.layers["0"].weight.device
        return batch.input_ids.to(device), batch.attention_mask.to(device).bool()

    def encode_image(self, pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch patches width"]:
        """The states of the image, which any number of texts can attend to."""
        return self.blip["visual_encoder"](pixels)

    def raw_reward(
        self,
        image_states: Float[Tensor, "batch patches vision_width"],
        tokens: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, " batch"]:
        """The reward of each (encoded image, text) before standardisation."""
        return self.mlp(self.blip["text_encoder"](tokens, mask, image_states)[:, 0])

    def forward(
        self,
        pixels: Float[Tensor, "batch 3 size size"],
        tokens: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
    ) -> Float[Tensor, " batch"]:
        """The reward of each (image, text) before standardisation."""
        return self.raw_reward(self.encode_image(pixels), tokens, mask)

    @torch.no_grad()
    def score(self, views: Views, text: str, batch_size: int = 30) -> Float[np.ndarray, " views"]:
        """The standardised reward of every view for one text, in batches of a fixed size for reproducibility."""
        tokens, mask = self.tokens([text])
        sized = partial(preprocess, size=self.config.image_size)

        def rewards(batch: Views) -> np.ndarray:
            pixels = torch.stack(parallel_map(sized, batch)).to(tokens.device)
            raw = self(pixels, tokens.expand(len(batch), -1), mask.expand(len(batch), -1))
            return ((raw - self.config.mean) / self.config.std).cpu().numpy()

        return in_batches(rewards, views, batch_size)


def preprocess(view: UInt8[np.ndarray, "height width 3"], size: int) -> Float[Tensor, "3 size size"]:
    """Resize the short side to `size` (PIL's antialiased bicubic on bytes), crop the centre, normalise."""
    height, width = view.shape[:2]
    short = min(height, width)
    if short != size:
        resized = Image.fromarray(view).resize(
            (size * width // short, size * height // short), Image.Resampling.BICUBIC
        )
        view = np.asarray(resized)
        height, width = view.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return normalise(torch.tensor(view[top : top + size, left : left + size]).permute(2, 0, 1)[None])[0]


def normalise(images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """8-bit images → pixels normalised as in the training of CLIP and ImageReward."""
    mean, std = (torch.tensor(x, device=images.device).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    return (images.float() / 255 - mean) / std


def load_tokenizer(vocab_file: Path) -> BertTokenizer:
    """BERT's lower-casing WordPiece tokenizer with the vocabulary of `vocab_file`, one word per line."""
    words = vocab_file.read_text(encoding="utf-8").splitlines()
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})
