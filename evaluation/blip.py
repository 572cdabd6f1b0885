"""The modules of ImageReward: BLIP's ViT, its BERT with cross-attention in every layer, and an affine head.

Module names follow the published checkpoint (timm's for the ViT, BERT's for the text), so its tensors load by name.
Li et al. 2022 (BLIP, arXiv:2201.12086), Sec. 3.1, image-grounded text encoder.
"""

from __future__ import annotations

import dataclasses
import json

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from evaluation.errors import EvaluationError


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Sizes that cannot be read from the tensors, and the standardisation. Defaults: the published model."""

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    vocab_size: int = 30524
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_hidden: int = 3072
    text_positions: int = 512
    max_length: int = 35
    head_widths: tuple[int, int, int, int] = (1024, 128, 64, 16)
    mean: float = 0.16717362830052426
    std: float = 1.0333394966054072

    @staticmethod
    def from_json(text: str) -> RewardConfig:
        """Parse a `config.json`. Raises EvaluationError on an unknown key or a value of another type."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EvaluationError("the reward model's config.json is no JSON: fetch it again") from error
        if not isinstance(fields, dict):
            raise EvaluationError("the reward model's config.json contains no JSON object: fetch it again")
        known = [field.name for field in dataclasses.fields(RewardConfig)]
        if unknown := sorted(set(fields) - set(known)):
            raise EvaluationError(
                f"the reward model's config.json has unknown keys {str(unknown)[:200]}; allowed are {', '.join(known)}"
            )
        if isinstance(fields.get("head_widths"), list):
            fields["head_widths"] = tuple(fields["head_widths"])
        for name, value in fields.items():
            default = getattr(RewardConfig, name)
            numbers = value if isinstance(value, tuple) else (value,)
            kinds = (int, float) if isinstance(default, float) else (int,)
            is_right = all(type(number) in kinds and abs(number) < 2**31 for number in numbers)
            is_positive = isinstance(default, float) or all(number > 0 for number in numbers if is_right)
            if not (is_right and is_positive) or len(numbers) != (len(default) if isinstance(default, tuple) else 1):
                raise EvaluationError(
                    f"the reward model's config.json has {name} {str(value)[:80]!r}; expected a value such as {default}"
                )
            if isinstance(default, float):
                fields[name] = float(value)
        return RewardConfig(**fields)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def attend(
    query: Float[Tensor, "batch queries width"],
    key: Float[Tensor, "batch keys width"],
    value: Float[Tensor, "batch keys width"],
    heads: int,
    mask: Bool[Tensor, "batch keys"] | None = None,
) -> Float[Tensor, "batch queries width"]:
    """Multi-head attention of the queries to the keys that `mask` allows."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    allowed = None if mask is None else mask[:, None, None, :]
    return scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)


class VisionBlock(nn.Module):
    """A pre-norm ViT block with timm's parameter names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        q, k, v = self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        x = x + self.attn["proj"](attend(q, k, v, self.heads))
        return x + self.mlp["fc2"](gelu(self.mlp["fc1"](self.norm2(x))))


class VisionEncoder(nn.Module):
    """Normalised pixels → one state for the image (first) and one per patch."""

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        width, patch = config.vision_width, config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (config.image_size // patch) ** 2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.blocks = nn.ModuleList(VisionBlock(width, config.vision_heads) for _ in range(config.vision_layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch patches width"]:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class TextAttention(nn.Module):
    """BERT's post-norm attention to the text itself, or (cross-attention) to the states of the image."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.ModuleDict(
            {
                "query": nn.Linear(width, width),
                "key": nn.Linear(source_width, width),
                "value": nn.Linear(source_width, width),
            }
        )
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        source: Float[Tensor, "batch keys source_width"],
        mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch tokens width"]:
        q, k, v = self.self["query"](x), self.self["key"](source), self.self["value"](source)
        return self.output["LayerNorm"](self.output["dense"](attend(q, k, v, self.heads, mask)) + x)


class TextLayer(nn.Module):
    """A BERT layer with cross-attention between self-attention and the feed-forward part."""

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        width, hidden = config.text_width, config.text_hidden
        self.attention = TextAttention(width, width, config.text_heads)
        self.crossattention = TextAttention(width, config.vision_width, config.text_heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(
        self,
        x: Float[Tensor, "batch tokens width"],
        mask: Bool[Tensor, "batch tokens"],
        image_states: Float[Tensor, "batch patches vision_width"],
    ) -> Float[Tensor, "batch tokens width"]:
        x = self.crossattention(self.attention(x, x, mask), image_states)
        return self.output["LayerNorm"](self.output["dense"](gelu(self.intermediate["dense"](x))) + x)


class TextEncoder(nn.Module):
    """Token ids and the states of an image → one state per token."""

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, config.text_width),
                "position_embeddings": nn.Embedding(config.text_positions, config.text_width),
                "LayerNorm": nn.LayerNorm(config.text_width, eps=1e-12),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(TextLayer(config) for _ in range(config.text_layers))})

    def forward(
        self,
        tokens: Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch tokens"],
        image_states: Float[Tensor, "batch patches vision_width"],
    ) -> Float[Tensor, "batch tokens width"]:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embeddings["word_embeddings"](tokens) + self.embeddings["position_embeddings"](positions)
        x = self.embeddings["LayerNorm"](x)
        for layer in self.encoder["layer"].children():
            x = layer(x, mask, image_states)
        return x


class Head(nn.Module):
    """Five linear layers without nonlinearities, as published. Layers 1, 3 and 5 were dropout."""

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        a, b, c, d = config.head_widths
        self.layers = nn.ModuleDict(
            {
                "0": nn.Linear(config.text_width, a),
                "2": nn.Linear(a, b),
                "4": nn.Linear(b, c),
                "6": nn.Linear(c, d),
                "7": nn.Linear(d, 1),
            }
        )

    def forward(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
        for layer in self.layers.values():
            x = layer(x)
        return x.squeeze(1)
