"""Point-E's point cloud transformers (Nichol et al. 2022, Sec. 4.2-4.3), for inference, with OpenAI's parameter names.

A point cloud is a sequence of tokens, one per point, without positions: the network is equivariant to the order of the
points. Conditions (time, CLIP vector, coarse point cloud) are separate tokens before the points, or are added to each
point.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sctd.errors import SctdError


class PointEError(SctdError):
    """Raised for invalid models or inputs: the message says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class DiffusionConfig:
    """Noise process and units of the network: channel = value · scale + bias, for x y z and R G B in 0..255.

    `schedule` is "cosine" or "linear".
    """

    schedule: str = "cosine"
    timesteps: int = 1024
    channel_scales: tuple[float, ...] = (2.0, 2.0, 2.0, 0.007843137255, 0.007843137255, 0.007843137255)
    channel_biases: tuple[float, ...] = (0.0, 0.0, 0.0, -1.0, -1.0, -1.0)


@dataclass(frozen=True)
class SamplerConfig:
    """Karras et al. 2022, Alg. 2, with the values of OpenAI's sampler; `guidance_scale` 1 is the plain prediction."""

    steps: int = 64
    sigma_min: float = 1e-3
    sigma_max: float = 120.0
    rho: float = 7.0
    s_churn: float = 3.0
    guidance_scale: float = 3.0


@dataclass(frozen=True)
class PointEConfig:
    """The content of config.json. Keys are OpenAI's if there is one; the defaults are base40M-textvec.

    `kind`: "text_vector", from a CLIP text vector to a coarse point cloud, or "upsampler", from a coarse point cloud to
    additional points. `token_cond`, `time_token_cond`: the condition is a separate token, else it is added to every
    point. `axes`: "point_e", point clouds in Point-E's axes (z up, front -y), or "world" (z up, front +x).
    """

    kind: str = "text_vector"
    input_channels: int = 6
    output_channels: int = 12
    n_ctx: int = 1024
    width: int = 512
    layers: int = 12
    heads: int = 8
    init_scale: float = 0.25
    token_cond: bool = True
    time_token_cond: bool = True
    clip_width: int = 768
    grid_tokens: int = 256
    axes: str = "point_e"
    diffusion: DiffusionConfig = DiffusionConfig()
    sampler: SamplerConfig = SamplerConfig()


BASE_40M_TEXTVEC = PointEConfig()
UPSAMPLE_40M = PointEConfig(
    kind="upsampler",
    n_ctx=3072,
    clip_width=1024,
    diffusion=DiffusionConfig(schedule="linear"),
    sampler=SamplerConfig(sigma_max=160.0, s_churn=0.0, guidance_scale=1.0),
)


def timestep_embedding(
    t: Int[Tensor, " batch"], width: int, max_period: float = 10_000
) -> Float[Tensor, "batch width"]:
    """Cosines, then sines, of t at `width / 2` frequencies from 1 down to 1 / max_period."""
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class MLP(nn.Module):
    """Linear, GELU, linear; the hidden layer is four times as wide."""

    def __init__(self, width: int, std: float):
        super().__init__()
        self.c_fc = _linear(width, 4 * width, std)
        self.c_proj = _linear(4 * width, width, std)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return self.c_proj(F.gelu(self.c_fc(x)))


class Attention(nn.Module):
    """Self-attention. `c_qkv` holds q, k and v of the first head, then those of the second, and so on."""

    def __init__(self, width: int, heads: int, std: float):
        super().__init__()
        self.heads = heads
        self.c_qkv = _linear(width, 3 * width, std)
        self.c_proj = _linear(width, width, std)

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        per_head = self.c_qkv(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = per_head.chunk(3, dim=-1)
        # OpenAI multiplies q and k by d^(-1/4) each; the kernel's d^(-1/2) on the product is the same.
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: attention and MLP."""

    def __init__(self, width: int, heads: int, std: float):
        super().__init__()
        self.attn = Attention(width, heads, std)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width, std)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Backbone(nn.Module):
    """The blocks in order."""

    def __init__(self, width: int, layers: int, heads: int, std: float):
        super().__init__()
        self.resblocks = nn.ModuleList(TransformerBlock(width, heads, std) for _ in range(layers))

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        for block in self.resblocks:
            x = block(x)
        return x


class _PointTransformer(nn.Module):
    """Base of both models: points and conditions in, noise and (unused here) variance per channel out."""

    def __init__(self, config: PointEConfig):
        super().__init__()
        _check(config)
        width, std = config.width, config.init_scale / math.sqrt(config.width)
        self.config = config
        self.time_embed = MLP(width, std)
        self.ln_pre = nn.LayerNorm(width)
        self.backbone = Backbone(width, config.layers, config.heads, std)
        self.ln_post = nn.LayerNorm(width)
        self.input_proj = nn.Linear(config.input_channels, width)
        self.output_proj = nn.Linear(width, config.output_channels)
        nn.init.zeros_(self.output_proj.weight)
        nn.init.zeros_(self.output_proj.bias)

    def _run(
        self,
        x: Float[Tensor, "batch channels points"],
        tokens: list[Float[Tensor, "batch _tokens width"]],
        added: list[Float[Tensor, "batch width"]],
    ) -> Float[Tensor, "batch out_channels points"]:
        if x.shape[-1] != self.config.n_ctx:
            raise PointEError(f"{x.shape[-1]} points for a Point-E model of {self.config.n_ctx} points: pass as many")
        points = self.input_proj(x.transpose(1, 2))
        for condition in added:
            points = points + condition[:, None]
        h = self.ln_post(self.backbone(self.ln_pre(torch.cat([*tokens, points], dim=1))))
        return self.output_proj(h[:, -x.shape[-1] :]).transpose(1, 2)


class PointDiffusionTransformer(_PointTransformer):
    """From a CLIP text vector to a coarse point cloud: OpenAI's base40M-textvec, or smaller models."""

    def __init__(self, config: PointEConfig = BASE_40M_TEXTVEC):
        super().__init__(config)
        self.clip_embed = nn.Linear(config.clip_width, config.width)

    def forward(
        self,
        x: Float[Tensor, "batch channels points"],
        t: Int[Tensor, " batch"],
        text_vector: Float[Tensor, "batch clip_width"],
    ) -> Float[Tensor, "batch out_channels points"]:
        """`text_vector` has length 1, or is zero without text; √width gives its components unit variance."""
        clip = self.clip_embed(text_vector * math.sqrt(text_vector.shape[1]))
        time = self.time_embed(timestep_embedding(t, self.config.width))
        conditions = [(clip, self.config.token_cond), (time, self.config.time_token_cond)]
        tokens = [condition[:, None] for condition, is_token in conditions if is_token]
        return self._run(x, tokens, [condition for condition, is_token in conditions if not is_token])


class PointUpsampler(_PointTransformer):
    """From a coarse point cloud to additional points: OpenAI's upsample model, without an image."""

    def __init__(self, config: PointEConfig = UPSAMPLE_40M):
        super().__init__(config)
        self.clip_embed = nn.Sequential(nn.LayerNorm(config.clip_width), nn.Linear(config.clip_width, config.width))
        self.cond_point_proj = nn.Linear(config.input_channels, config.width)
        self.channel_scales: Tensor
        self.channel_biases: Tensor
        self.register_buffer("channel_scales", torch.tensor(config.diffusion.channel_scales))
        self.register_buffer("channel_biases", torch.tensor(config.diffusion.channel_biases))

    def forward(
        self,
        x: Float[Tensor, "batch channels points"],
        t: Int[Tensor, " batch"],
        low_res: Float[Tensor, "batch channels coarse_points"],
    ) -> Float[Tensor, "batch out_channels points"]:
        """`low_res` is in Point-E's units (x y z, R G B in 0..255); the missing image is a grid of zeros."""
        no_image = x.new_zeros(len(x), self.config.grid_tokens, self.config.clip_width)
        coarse = low_res * self.channel_scales[:, None] + self.channel_biases[:, None]
        time = self.time_embed(timestep_embedding(t, self.config.width))
        tokens = [self.clip_embed(no_image), self.cond_point_proj(coarse.transpose(1, 2))]
        if self.config.time_token_cond:
            return self._run(x, [time[:, None], *tokens], [])
        return self._run(x, tokens, [time])


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    if not layer.weight.is_meta:  # nothing to draw, and normal_ on meta tensors would import torch's compiler
        nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def _check(config: PointEConfig) -> None:
    choices = {
        "kind": (config.kind, ("text_vector", "upsampler")),
        "axes": (config.axes, ("world", "point_e")),
        "diffusion.schedule": (config.diffusion.schedule, ("cosine", "linear")),
    }
    for name, (found, known) in choices.items():
        if found not in known:
            raise PointEError(f"{name} is {found!r}; expected {' or '.join(map(repr, known))}: change config.json")
    sizes = (config.n_ctx, config.width, config.layers, config.heads, config.clip_width, config.sampler.steps)
    if min(*sizes, config.diffusion.timesteps - 1) < 1 or not 0 < config.sampler.sigma_min <= config.sampler.sigma_max:
        raise PointEError("a size, number of steps or noise level is not positive: change config.json")
    if config.width % config.heads or config.width % 2:
        raise PointEError(
            f"width {config.width} with {config.heads} heads; expected an even width divisible by the heads: "
            "change config.json"
        )
    if config.output_channels < config.input_channels:
        raise PointEError(
            f"{config.output_channels} output channels for {config.input_channels} inputs; expected at least one "
            "per input: change config.json"
        )
    for name, numbers in (("scales", config.diffusion.channel_scales), ("biases", config.diffusion.channel_biases)):
        if len(numbers) != config.input_channels:
            raise PointEError(
                f"diffusion.channel_{name} has {len(numbers)} numbers; expected {config.input_channels}, one per "
                "channel: change config.json"
            )
