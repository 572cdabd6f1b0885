"""Train the bundled latent diffusion prior: a VAE, then U-Net and text encoder; in Stable Diffusion's format."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.embedded import tokenizer
from pipeline.embedded.data import Data
from pipeline.embedded.training import TrainingPlan, fit, log, parameters_of

LATENT_CHANNELS, LATENT_SIZE, TEXT_WIDTH = 4, 16, 192
VAE_CHANNELS = (32, 64, 128)
UNET_CHANNELS = (64, 128, 256)


def build_vae() -> Any:
    """AutoencoderKL at 1/4 of the resolution: 64 px -> 4x16x16."""
    from diffusers import AutoencoderKL

    levels = len(VAE_CHANNELS)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        sample_size=64,
        scaling_factor=1.0,
    )


def build_unet() -> Any:
    """UNet2DConditionModel structured like SD 2.1's: cross-attention at all levels but the coarsest."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=UNET_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=[c // 32 for c in UNET_CHANNELS],
        use_linear_projection=True,
    )


def build_text_encoder(vocabulary: int) -> Any:
    """CLIPTextModel; the last two ids of the vocabulary are the start and the end token."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=4,
            num_attention_heads=TEXT_WIDTH // 32,
            max_position_embeddings=tokenizer.MAX_LENGTH,
            hidden_act="gelu",
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
            projection_dim=TEXT_WIDTH,
        )
    )


def build_scheduler() -> Any:
    """The noise schedule of SD 2.1-base."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def as_input(images: Tensor) -> Tensor:
    """uint8 [B,3,H,W] -> float in [-1,1], channels last."""
    return images.to(memory_format=torch.channels_last).float() / 127.5 - 1


def autocast(device: str) -> torch.autocast:
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")


def train_vae(vae: Any, data: Data, plan: TrainingPlan, *, batch: int = 256, compiled: bool = True) -> dict[str, float]:
    """Train with L1 + gradient L1 + MSE + a small KL term."""
    device = data.images.device.type
    vae.to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(_vae_forward) if compiled else _vae_forward

    def step(_: int) -> tuple[Tensor, dict[str, Tensor]]:
        x = as_input(data.images[torch.randint(len(data), (batch,), device=device)])
        with autocast(device):
            reconstruction, kl = forward(vae, x)
        error = reconstruction.float() - x
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        mse = error.square().mean()
        loss = 0.3 * error.abs().mean() + 0.3 * edges + 6.0 * mse + 2e-5 * kl
        return loss, {"mse": mse, "kl": kl}

    done = fit("vae", parameters_of(vae), step, plan, lr=1.5e-3, ema_decay=0.998)
    vae.eval()
    return done


def _vae_forward(vae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_variance = vae.quant_conv(vae.encoder(x)).float().chunk(2, 1)
    log_variance = log_variance.clamp(-20, 10)
    z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return vae.decoder(vae.post_quant_conv(z)), kl


@torch.no_grad()
def whiten(vae: Any, images: Tensor) -> None:
    """Fold mean and standard deviation of the posterior mean into the two 1x1 convolutions, exactly.

    Latents then have mean 0 and standard deviation 1 in every channel, with `scaling_factor` 1 in the same format.
    """
    means = torch.cat([vae.encode(as_input(part)).latent_dist.mean for part in images.split(512)])
    mean, deviation = means.mean((0, 2, 3)), means.std((0, 2, 3))
    quant, post, channels = vae.quant_conv, vae.post_quant_conv, LATENT_CHANNELS
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= deviation[None, :, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
    quant.weight[:channels] /= deviation[:, None, None, None]
    quant.bias[channels:] -= 2 * deviation.log()
    log("whitened: mean", [round(v, 2) for v in mean.tolist()], "deviation", [round(v, 2) for v in deviation.tolist()])


@torch.no_grad()
def reconstruction_psnr(vae: Any, images: Tensor) -> float:
    """Mean PSNR in dB between images (range 1) and their reconstructions from the posterior mean."""
    values = []
    for part in images.split(256):
        x = as_input(part)
        error = (vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1) - x) / 2
        values.append(-10 * error.square().mean((1, 2, 3)).clamp(min=1e-10).log10())
    return float(torch.cat(values).mean())


@torch.no_grad()
def latents_of(vae: Any, images: Tensor) -> Tensor:
    """Posterior means as float16 [N, 4, 16, 16]."""
    with autocast(images.device.type):
        return torch.cat([vae.encode(as_input(part)).latent_dist.mean.half() for part in images.split(4096)])


def train_denoiser(
    unet: Any,
    text_encoder: Any,
    latents: Tensor,
    ids: Tensor,
    null: Tensor,
    plan: TrainingPlan,
    *,
    batch: int = 1024,
    compiled: bool = True,
) -> dict[str, float]:
    """Train ε-prediction with min-SNR-5 weights and a tenth of the captions empty.

    `latents` [N,4,16,16], `ids` int [N,2,tokens] and the empty prompt's ids `null` [tokens], all on one device. On
    a GPU both networks are trained in bf16 with fp32 masters: normalisation under autocast would double its traffic.
    """
    device = latents.device.type
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    unet.to(device, dtype=dtype, memory_format=torch.channels_last).train()
    text_encoder.to(device, dtype=dtype).train()
    alpha_bar = build_scheduler().alphas_cumprod.to(device)
    snr = alpha_bar / (1 - alpha_bar)
    weights = snr.clamp(max=5.0) / snr
    forward = torch.compile(_predict_noise) if compiled else _predict_noise

    def step(_: int) -> tuple[Tensor, dict[str, Tensor]]:
        index = torch.randint(len(latents), (batch,), device=device)
        tokens = ids[index, torch.randint(ids.shape[1], (batch,), device=device)].long()
        tokens = torch.where(torch.rand(batch, 1, device=device) < 0.1, null.long(), tokens)
        z_0 = latents[index].float().contiguous(memory_format=torch.channels_last)
        noise = torch.randn_like(z_0)
        t = torch.randint(len(alpha_bar), (batch,), device=device)
        a = alpha_bar[t][:, None, None, None]
        z_t = (a.sqrt() * z_0 + (1 - a).sqrt() * noise).to(dtype)
        error = (forward(unet, text_encoder, z_t, t, tokens).float() - noise).square().mean((1, 2, 3))
        return (error * weights[t]).mean(), {"mse": error.mean()}

    parameters = parameters_of(unet, text_encoder)
    done = fit("denoiser", parameters, step, plan, lr=7e-4, warmup=400, ema_decay=0.9995)
    unet.eval(), text_encoder.eval()
    return done


def _predict_noise(unet: Any, text_encoder: Any, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
    return unet(z_t, t, text_encoder(input_ids=tokens).last_hidden_state).sample


def start_from_scorer(text_encoder: Any, scorer_state: dict[str, Tensor]) -> None:
    """Copy the text tower of an open_clip model (its parameter names) into a CLIPTextModel of the same size."""
    target = text_encoder.state_dict()
    prefix = "text_model." if any(name.startswith("text_model.") for name in target) else ""
    new = {
        prefix + "embeddings.token_embedding.weight": scorer_state["token_embedding.weight"],
        prefix + "embeddings.position_embedding.weight": scorer_state["positional_embedding"],
        prefix + "final_layer_norm.weight": scorer_state["ln_final.weight"],
        prefix + "final_layer_norm.bias": scorer_state["ln_final.bias"],
    }
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names["attn.out_proj"] = "self_attn.out_proj"
    for layer in range(text_encoder.config.num_hidden_layers):
        here, there = f"transformer.resblocks.{layer}.", f"{prefix}encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            packed = scorer_state[f"{here}attn.in_proj_{kind}"].chunk(3)
            for projection, value in zip(("q_proj", "k_proj", "v_proj"), packed, strict=True):
                new[f"{there}self_attn.{projection}.{kind}"] = value
            for theirs, ours in names.items():
                new[f"{there}{ours}.{kind}"] = scorer_state[f"{here}{theirs}.{kind}"]
    missing = {name for name in target if name not in new and not name.endswith("position_ids")}
    if missing:
        raise ValueError(f"The scorer's text tower lacks {sorted(missing)[:3]}; both towers must have the same size.")
    text_encoder.load_state_dict({name: value.to(target[name].dtype) for name, value in new.items()}, strict=False)


def save_prior(folder: Path, vae: Any, unet: Any, text_encoder: Any, tokenizer_folder: Path) -> None:
    """Write the Stable-Diffusion folder: fp16 safetensors and the JSON files."""
    for name, module in (("vae", vae), ("unet", unet), ("text_encoder", text_encoder)):
        half = module.to("cpu", dtype=torch.float16, memory_format=torch.contiguous_format)
        half.save_pretrained(folder / name, safe_serialization=True)
    build_scheduler().save_pretrained(folder / "scheduler")
    if tokenizer_folder != folder / "tokenizer":
        shutil.copytree(tokenizer_folder, folder / "tokenizer", dirs_exist_ok=True)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def part(plan: TrainingPlan, name: str, seconds: float) -> TrainingPlan:
    """The plan of one of several trainings in the same process."""
    return replace(plan, seconds=seconds, state=plan.state.parent / f"{name}.pt")


@torch.no_grad()
def sample(
    vae: Any,
    unet: Any,
    text_encoder: Any,
    ids: Tensor,
    null: Tensor,
    *,
    guidance_scale: float,
    steps: int = 25,
    seed: int = 0,
) -> Tensor:
    """Sample images uint8 [B,3,64,64] by DDIM with CFG for token ids [B,tokens]; batched, on the networks' device."""
    device, dtype = ids.device, unet.dtype
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps, device=device)
    images = []
    for start in range(0, len(ids), 1024):
        tokens = ids[start : start + 1024].long()
        text = torch.cat([null.long().expand_as(tokens), tokens])
        hidden = text_encoder(input_ids=text).last_hidden_state
        generator = torch.Generator(device.type).manual_seed(seed + start)
        z = torch.randn(len(tokens), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator, device=device)
        for t in scheduler.timesteps:
            eps_null, eps_text = unet(torch.cat([z, z]).to(dtype), t, hidden).sample.float().chunk(2)
            z = scheduler.step(eps_null + guidance_scale * (eps_text - eps_null), t, z).prev_sample
        pixels = vae.decode(z.to(vae.dtype)).sample.float()
        images.append(((pixels.clamp(-1, 1) + 1) * 127.5).round().byte())
    return torch.cat(images)
