"""The diffusion prior: a folder of the Stable Diffusion format as encoder, decoder, text embedding and denoiser.

A ControlNet is read here too, for `sctd.control`. The only file that imports diffusers. Nothing is fetched: a folder
has everything or is refused.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sctd.guidance import cfg
from sctd.schedule import NoiseSchedule, ScheduleError
from sctd.solver import jump
from sctd.types import Images, Latents, Text

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # their files of weights, before the suffix


def _weights_names(stem: str) -> tuple[str, str]:
    return f"{stem}.safetensors", f"{stem}.fp16.safetensors"


# Of each file the names that it may have.
PRIOR_FILES = (
    *[(f"{part}/config.json",) for part in ("vae", "unet", "text_encoder")],
    ("scheduler/scheduler_config.json",),
    *[_weights_names(f"{part}/{DIFFUSERS}") for part in ("vae", "unet")],
    _weights_names(f"text_encoder/{TRANSFORMERS}"),
    *[("tokenizer/tokenizer.json", f"tokenizer/{name}") for name in ("vocab.json", "merges.txt")],
)
PRIOR_FORMAT = (
    "expected a folder of the Stable Diffusion format with vae/, unet/, text_encoder/, tokenizer/ and scheduler/, "
    "weights in safetensors"
)
CONTROLNET_FILES = (("config.json",), _weights_names(DIFFUSERS))
CONTROLNET_FORMAT = "expected a folder of diffusers' ControlNet format, weights in safetensors"


class PriorError(ValueError):
    """A folder that is no prior: what is missing or wrong in it, and what to do."""


class Residuals(NamedTuple):
    """What a ControlNet adds inside the U-Net: to each skip connection in the order of the way down, and the middle."""

    down: tuple[Float[Tensor, "batch _ _ _"], ...]
    middle: Float[Tensor, "batch _ _ _"]


@dataclass(frozen=True, eq=False)
class StableDiffusionPrior:
    """p(z_0 | text) of a latent diffusion model, frozen. Images are RGB in [0, 1], latents scaled to unit variance.

    The models compute in the dtype they were loaded in; what comes out has the dtype of the images or latents that went
    in, so that half-precision models leave float32 latents float32.
    """

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    schedule: NoiseSchedule
    predicts_v: bool
    steps_offset: int
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def load(
        cls, folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "StableDiffusionPrior":
        """Read vae/, unet/, text_encoder/, tokenizer/ and scheduler/ of `folder`, weights in any floating dtype.

        Raises PriorError naming what is missing or unreadable.
        """
        folder = Path(folder)
        _check_files(folder, PRIOR_FILES, PRIOR_FORMAT)
        scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
        prediction = scheduler.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise PriorError(
                f"{folder}/scheduler/scheduler_config.json has prediction_type {prediction!r}; "
                "expected 'epsilon' or 'v_prediction': use a checkpoint that predicts one of these"
            )
        try:
            schedule = NoiseSchedule.from_config(scheduler)
        except ScheduleError as error:
            raise PriorError(f"{folder}/scheduler/scheduler_config.json: {error}") from error
        with _without_progress_bars():
            vae = _frozen(AutoencoderKL, folder / "vae", DIFFUSERS, device, dtype)
            unet = _frozen(UNet2DConditionModel, folder / "unet", DIFFUSERS, device, dtype)
            text_encoder = _frozen(CLIPTextModel, folder / "text_encoder", TRANSFORMERS, device, dtype)
            tokenizer = _tokenizer(folder / "tokenizer")
        width, expected = text_encoder.config.hidden_size, unet.config.cross_attention_dim
        if width != expected:
            raise PriorError(
                f"{folder}/text_encoder has embeddings of width {width}, but unet/ attends to width {expected}: "
                "take both from the same checkpoint"
            )
        return cls(
            vae=vae,
            unet=unet,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            schedule=schedule,
            predicts_v=prediction == "v_prediction",
            steps_offset=scheduler.get("steps_offset", 0),
            device=unet.device,
            dtype=dtype,
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent, at the size that the U-Net was trained on."""
        size = self.unet.config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config["in_channels"], height, width

    @property
    def latent_factor(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def image_size(self) -> int:
        """Height of the images that the prior was trained on, in pixels."""
        return self.latent_shape[1] * self.latent_factor

    @property
    def max_tokens(self) -> int:
        """Tokens of an embedding, the two at its ends included; what a prompt has beyond is cut off."""
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    @cached_property
    def null(self) -> Float[Tensor, "1 tokens features"]:
        """The embedding of the empty prompt ∅."""
        return self.embed([""])

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, the two at its ends included, before anything is cut off at `max_tokens`."""
        return len(self.tokenizer(text, verbose=False).input_ids)

    @torch.no_grad()
    def embed(self, texts: list[str]) -> Text:
        """Embeddings of prompts, padded to `max_tokens` or cut off there."""
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state

    def encode(self, images: Images, generator: torch.Generator | None = None) -> Latents:
        """z_0, differentiable in the images: the posterior's mean, or a sample of it if there is a generator."""
        posterior = self.vae.encode(images.to(self.device, self.dtype) * 2 - 1).latent_dist
        latents = posterior.mean
        if generator is not None:
            noise = torch.randn(latents.shape, generator=generator, device=generator.device)
            latents = latents + posterior.std * noise.to(latents)
        return latents.to(images.dtype) * self.vae.config["scaling_factor"]

    def decode(self, z_0: Latents) -> Images:
        """Images of latents, clamped to [0, 1]."""
        latents = z_0 / self.vae.config["scaling_factor"]
        images = self.vae.decode(latents.to(self.device, self.dtype)).sample
        return (images.to(z_0.dtype) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def denoise(self, z_t: Latents, t: int, text: Text | None, residuals: Residuals | None = None) -> Latents:
        """ε_φ(z_t, t, y), whatever the checkpoint predicts; `text=None` is the empty prompt. No gradient.

        `residuals` are a ControlNet's for the same arguments, in any dtype.
        """
        text = self.null.expand(len(z_t), -1, -1) if text is None else text
        steps = torch.full((len(z_t),), t, device=self.device)
        added: dict[str, Any] = {}
        if residuals is not None:
            added["down_block_additional_residuals"] = [each.to(self.device, self.dtype) for each in residuals.down]
            added["mid_block_additional_residual"] = residuals.middle.to(self.device, self.dtype)
        predicted = self.unet(z_t.to(self.device, self.dtype), steps, text.to(self.dtype), **added).sample
        predicted = predicted.to(z_t.dtype)
        return self.schedule.eps_from_v(z_t, predicted, t) if self.predicts_v else predicted

    @torch.no_grad()
    def sample(self, texts: list[str], guidance_scale: float, steps: int, generator: torch.Generator) -> Images:
        """One image per text, all in one batch: DDIM from pure noise in `steps` steps, guided."""
        num_steps = self.schedule.num_steps
        if not 1 <= steps <= num_steps:
            raise PriorError(f"cannot sample in {steps} steps: use from 1 to {num_steps}")
        text, guided = self.embed(texts), cfg(self.denoise, guidance_scale, self.null)
        z_t = torch.randn(len(texts), *self.latent_shape, generator=generator, device=generator.device).to(self.device)
        # As in diffusers ("leading"): evenly from the offset on, and the last step ends at time 0.
        times = [min(i * (num_steps // steps) + self.steps_offset, num_steps - 1) for i in reversed(range(steps))]
        for t, s in zip(times, [*times[1:], 0], strict=True):
            z_t = jump(self.schedule, z_t, guided(z_t, t, text), t, s)
        return self.decode(z_t)


def load_controlnet(folder: Path, device: torch.device | str, dtype: torch.dtype) -> ControlNetModel:
    """A ControlNet's network, frozen, weights in any floating dtype; PriorError naming what is missing or wrong."""
    _check_files(folder, CONTROLNET_FILES, CONTROLNET_FORMAT)
    kind = _read_json(folder / "config.json").get("_class_name")
    if kind != "ControlNetModel":
        raise PriorError(
            f"{folder}/config.json has _class_name {kind!r}; expected 'ControlNetModel': use a ControlNet of diffusers"
        )
    return _frozen(ControlNetModel, folder, DIFFUSERS, device, dtype)


def _check_files(folder: Path, files: Iterable[tuple[str, ...]], expected: str) -> None:
    """Every file that the format asks for is there, in one of its names, or PriorError."""
    if not folder.is_dir():
        raise PriorError(f"there is no folder {folder}; {expected}: check the path")
    for names in files:
        if not any((folder / name).is_file() for name in names):
            raise PriorError(f"{folder} lacks {' or '.join(names)}; {expected}: download the checkpoint again")


def _read_json(path: Path) -> Mapping[str, Any]:
    return _read(path, lambda path: json.loads(path.read_text(encoding="utf-8")))


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise PriorError(f"{path} cannot be read ({reason}): download the checkpoint again") from error


def _frozen(model_class: Any, folder: Path, stem: str, device: torch.device | str, dtype: torch.dtype) -> Any:
    """The model of a folder in evaluation mode, without gradients, and with every one of its weights read."""
    plain, _ = _weights_names(stem)
    model, info = _read(
        folder,
        lambda path: model_class.from_pretrained(
            path, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True,
            variant=None if (folder / plain).is_file() else "fp16",
        ),
    )  # fmt: skip
    if info["missing_keys"]:
        raise PriorError(
            f"{folder} has no weights for {len(info['missing_keys'])} parameters, "
            f"{min(info['missing_keys'])} among them, that its config.json asks for: download the checkpoint again"
        )
    return model.to(device).eval().requires_grad_(False)


def _tokenizer(folder: Path) -> CLIPTokenizer:
    for path in folder.glob("*.json"):
        _read_json(path)  # which names the damaged file; the tokenizers library would raise a bare Exception
    return _read(folder, lambda path: CLIPTokenizer.from_pretrained(path, local_files_only=True))


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """transformers draws one for every model it loads."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
