"""The diffusion prior: a Stable Diffusion 1 or 2 checkpoint as encoder, decoder, text encoder and denoiser.

It also loads ControlNets for `sctd.prior.control`. Only this file and `sctd.prior.adapters` import diffusers. Nothing
is downloaded: missing files are an error (`sctd.prior.files`).
"""

from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging as transformers_logging

from sctd.diffusion.guidance import cfg
from sctd.diffusion.schedule import NoiseSchedule, ScheduleError
from sctd.diffusion.solver import jump, second_order
from sctd.prior.adapters import Adapters
from sctd.prior.files import (
    CONTROLNET_FILES,
    CONTROLNET_FORMAT,
    DIFFUSERS,
    TRANSFORMERS,
    PriorError,
    Source,
    check_architecture,
    check_diffusion,
    check_files,
    check_index,
    locate,
    read,
    read_json,
    split,
    variant,
)
from sctd.prior.half import in_dtype
from sctd.prior.openvino_unet import OpenVinoUNet
from sctd.prior.tokenizer import PromptTokenizer
from sctd.types import Images, Latents, Text

if TYPE_CHECKING:
    from sctd.prior.cuda_graphs import Captured, CapturedWithGradient

__all__ = ["ControlNetModel", "PriorError", "Residuals", "StableDiffusionPrior", "load_controlnet"]

Sampler = Literal["ddim", "dpm-solver++(2M)"]
Residuals = tuple[Float[Tensor, "batch _ _ _"], ...]
"""Residuals of a ControlNet for the U-Net: one per skip connection, in encoder order, and then one for the middle."""


class CapturedNetworks(NamedTuple):
    """The captured networks: the U-Net, with or without residuals, and the encoder up to its mean and log variance."""

    predict: "Captured"
    moments: "CapturedWithGradient"


@dataclass(frozen=True, eq=False)
class StableDiffusionPrior:
    """p(z_0 | text) of a latent diffusion model, frozen. Images are RGB in [0, 1], latents scaled to unit variance.

    The models compute in the dtype in which they were loaded; results have the dtype of the input images or latents.
    """

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: PromptTokenizer
    schedule: NoiseSchedule
    predicts_v: bool
    steps_offset: int
    device: torch.device
    dtype: torch.dtype
    captured: CapturedNetworks | None = None
    engine: OpenVinoUNet | None = None
    cpu_offload: bool = False
    plain_unet: Callable[[], UNet2DConditionModel] | None = None

    @classmethod
    def load(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        config: Path | str | None = None,
        *,
        cuda_graphs: bool = False,
        cpu_offload: bool = False,
        cpu_engine: str = "torch",
    ) -> "StableDiffusionPrior":
        """Load a folder with vae/, unet/, text_encoder/, tokenizer/ and scheduler/, or a single `.safetensors` file.

        Weights may be stored in any floating dtype and are converted to `dtype`. A single file needs a folder of the
        same format for its configuration and tokenizer: `config`, by default the folder of the file's name next to it,
        else the folder that contains it. Only scheduler/ determines whether a checkpoint predicts ε or v. Raises
        PriorError for a file that is missing, unreadable or of another architecture.

        With `cuda_graphs`, which need an NVIDIA GPU, the U-Net and the encoder are fused and compiled, and captured at
        first use (`sctd.prior.cuda_graphs`). With `cpu_offload`, the text encoder and the decoder are in CPU memory
        until they are used. `cpu_engine` "openvino" computes the U-Net by OpenVINO, equal up to rounding in `dtype`.
        """
        source = locate(Path(path), None if config is None else Path(config))
        folder = source.folder
        scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
        check_diffusion(folder, scheduler)
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
        check_architecture(folder)
        with _quiet():
            if source.single_file is None:
                vae = _frozen(AutoencoderKL, folder / "vae", DIFFUSERS, device, dtype)
                unet = _unet(source, device, dtype)
                text_encoder = _frozen(CLIPTextModel, folder / "text_encoder", TRANSFORMERS, device, dtype)
            else:
                vae, unet, text_encoder = _from_single_file(source.single_file, folder, device, dtype)
            tokenizer = _tokenizer(folder / "tokenizer")
        captured = _captured(unet, vae) if cuda_graphs else None
        engine = None if cpu_engine == "torch" else OpenVinoUNet(unet.float(), predicted_by, dtype)
        for offloaded in (text_encoder, vae.decoder) if cpu_offload else ():
            offloaded.to("cpu")
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
            captured=captured,
            engine=engine,
            cpu_offload=cpu_offload,
            plain_unet=partial(_unet, source, device, dtype) if captured else None,  # capturing changes it in place
        )

    @property
    def build_seconds(self) -> float:
        """Seconds spent on compilation and capture so far; 0 on the plain path."""
        return sum((network.seconds for network in self.captured or ()), 0.0)

    def release_graphs(self) -> None:
        """Free the memory of captured graphs; the next call captures them again."""
        for network in self.captured or ():
            network.release_graphs()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent, at the training size of the U-Net."""
        size = self.unet.config["sample_size"]
        return self.unet.config["in_channels"], *((size, size) if isinstance(size, int) else size)

    @property
    def latent_factor(self) -> int:
        """Image pixels per latent pixel, along each side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def image_size(self) -> int:
        """Height of the prior's training images, in pixels."""
        return self.latent_shape[1] * self.latent_factor

    @property
    def max_tokens(self) -> int:
        """Tokens of an embedding, including start and end; longer prompts are truncated."""
        return min(self.tokenizer.max_length, self.text_encoder.config.max_position_embeddings)

    @cached_property
    def null(self) -> Float[Tensor, "1 tokens features"]:
        """The embedding of the empty prompt ∅."""
        return self.embed([""])

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, including start and end, before truncation to `max_tokens`."""
        return self.tokenizer.count(text)

    @torch.no_grad()
    def embed(self, texts: list[str]) -> Text:
        """Embeddings of prompts, padded or truncated to `max_tokens`."""
        tokens = torch.tensor(self.tokenizer.encode(texts, self.max_tokens), device=self.device)
        encoder: Any = self.text_encoder
        encoder.to(self.device)
        embedding = encoder(tokens).last_hidden_state
        if self.cpu_offload:
            encoder.to("cpu")
        return embedding

    def encode(self, images: Images, noise: Latents | None = None) -> Latents:
        """z_0, differentiable in the images: the mean of the posterior or, with standard normal `noise`, a sample."""
        moments = self.captured.moments if self.captured else self._moments
        posterior = DiagonalGaussianDistribution(in_dtype(moments, images.to(self.device) * 2 - 1, self.dtype))
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)
        return latents * self.vae.config["scaling_factor"]

    def _moments(self, images: Images) -> Float[Tensor, "batch moments height width"]:
        hidden = self.vae.encoder(images)
        return hidden if self.vae.quant_conv is None else self.vae.quant_conv(hidden)

    def decode(self, z_0: Latents) -> Images:
        """Images from latents, clamped to [0, 1]."""
        latents = z_0 / self.vae.config["scaling_factor"]
        self.vae.decoder.to(self.device)
        images = self.vae.decode(latents.to(self.device, self.dtype)).sample
        return (images.to(z_0.dtype) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def denoise(self, z_t: Latents, t: int, text: Text | None, residuals: Residuals = ()) -> Latents:
        """ε_φ(z_t, t, y), also for checkpoints that predict v; `text=None` is the empty prompt. No gradient.

        `residuals` are those of a ControlNet for the same arguments, in any dtype.
        """
        text = self.null.expand(len(z_t), -1, -1) if text is None else text
        steps = torch.full((len(z_t),), t, device=self.device)
        predict = self.captured.predict if self.captured else self.engine or partial(predicted_by, self.unet)
        arguments = z_t.to(self.device, self.dtype), steps, text.to(self.dtype)
        predicted = predict(*arguments, *[each.to(self.device, self.dtype) for each in residuals]).to(z_t.dtype)
        return self.schedule.eps_from_v(z_t, predicted, t) if self.predicts_v else predicted

    def adapters(self, rank: int) -> Adapters:
        """Low-rank adapters on a copy of the U-Net: ε_ψ(ψ, z_t, t, y, cameras), differentiable in ψ."""
        unet = self.plain_unet() if self.plain_unet else self.unet
        return Adapters(unet, rank, self.schedule if self.predicts_v else None)

    def sample(self, texts: list[str], guidance_scale: float, steps: int, generator: torch.Generator) -> Images:
        """One image per text, in one batch: guided DDIM from pure noise in `steps` steps."""
        noise = torch.randn(len(texts), *self.latent_shape, generator=generator, device=generator.device)
        return self.decode(self.sample_from(noise, texts, guidance_scale, steps))

    @torch.no_grad()
    def sample_from(
        self, noise: Latents, texts: list[str], guidance_scale: float, steps: int, sampler: Sampler = "ddim"
    ) -> Latents:
        """Latents sampled from pure noise with guidance by `texts`, in `steps` steps of one guided prediction each.

        `ddim` ends at time 0. As in diffusers, its first time is far from the noisiest if `steps` does not divide the
        schedule's steps: 501 for 501 of 1000. `dpm-solver++(2M)` ends with a first-order step to zero noise.
        """
        num_steps = self.schedule.num_steps
        if not 1 <= steps <= num_steps:
            raise PriorError(f"cannot sample in {steps} steps: use 1 to {num_steps}")
        text, guided = self.embed(texts), cfg(self.denoise, guidance_scale, self.null)
        z_t = noise.to(self.device)
        if sampler == "dpm-solver++(2M)":
            # As in diffusers ("linspace"): evenly spaced from the noisiest time, without time 0.
            times = [round(i * (num_steps - 1) / steps) for i in range(steps, 0, -1)]
            z_t = second_order(self.schedule, guided, z_t, times, text)
            return self.schedule.clean(z_t, guided(z_t, times[-1], text), times[-1])
        # As in diffusers ("leading"): evenly spaced from the offset; the last step ends at time 0.
        times = [min(i * (num_steps // steps) + self.steps_offset, num_steps - 1) for i in reversed(range(steps))]
        for t, s in zip(times, [*times[1:], 0], strict=True):
            z_t = jump(self.schedule, z_t, guided(z_t, t, text), t, s)
        return z_t


def predicted_by(unet: UNet2DConditionModel, z_t: Tensor, times: Tensor, text: Tensor, *residuals: Tensor) -> Tensor:
    """The U-Net's prediction, with or without the residuals of a ControlNet."""
    control: dict[str, Any] = {}
    if residuals:
        *down, middle = residuals
        control = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    return unet(z_t, times, text, return_dict=False, **control)[0]


def _captured(unet: UNet2DConditionModel, vae: AutoencoderKL) -> CapturedNetworks:
    """The networks for the CUDA-graph path. They are changed in place."""
    from sctd.prior.cuda_graphs import captured_encoder, captured_unet  # imported here because triton needs a GPU

    return CapturedNetworks(captured_unet(unet, predicted_by), captured_encoder(vae))


def load_controlnet(folder: Path, device: torch.device | str, dtype: torch.dtype) -> ControlNetModel:
    """Load a frozen ControlNet, stored in any floating dtype. Raises PriorError for a missing or wrong file."""
    check_files(folder, CONTROLNET_FILES, CONTROLNET_FORMAT)
    kind = read_json(folder / "config.json").get("_class_name")
    if kind != "ControlNetModel":
        raise PriorError(
            f"{folder}/config.json has _class_name {kind!r}; expected 'ControlNetModel': use a ControlNet of diffusers"
        )
    return _frozen(ControlNetModel, folder, DIFFUSERS, device, dtype)


def _frozen(model_class: Any, folder: Path, stem: str, device: torch.device | str, dtype: torch.dtype) -> Any:
    """The model of a folder in evaluation mode, without gradients; the weights must be those of its configuration.

    A text encoder may have more: its projection, which the prior does not use, is part of some checkpoints.
    """
    check_index(folder, stem)
    with _quiet():
        model, info = read(
            folder,
            lambda path: model_class.from_pretrained(
                path, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True,
                variant=variant(folder, stem), ignore_mismatched_sizes=True,  # they are reported below, by name
                low_cpu_mem_usage=False,  # True needs accelerate, which saves no time or memory here (decision 0023)
            ),
        )  # fmt: skip
    missing, mismatched = info["missing_keys"], info["mismatched_keys"]
    unknown = [] if model_class is CLIPTextModel else info["unexpected_keys"]
    problem = None
    if missing:
        problem = f"no weights for {len(missing)} parameters, such as {min(missing)}"
    elif mismatched:
        name, found, expected = min(mismatched)
        problem = (
            f"{len(mismatched)} weights of another size, such as {name}, {list(found)} instead of {list(expected)}"
        )
    elif unknown:
        problem = f"{len(unknown)} weights too many, such as {min(unknown)}"
    if problem:
        raise PriorError(
            f"{folder} has {problem}: expected the parameters of its config.json; download the checkpoint again"
        )
    return model.to(device).eval().requires_grad_(False)


def _unet(source: Source, device: torch.device | str, dtype: torch.dtype) -> Any:
    if source.single_file is not None:
        return _from_single_file(source.single_file, source.folder, device, dtype)[1]
    return _frozen(UNet2DConditionModel, source.folder / "unet", DIFFUSERS, device, dtype)


def _from_single_file(
    path: Path, folder: Path, device: torch.device | str, dtype: torch.dtype
) -> tuple[AutoencoderKL, UNet2DConditionModel, CLIPTextModel]:
    """The models configured by `folder`, in evaluation mode, without gradients, with all weights from the file."""
    parts = split(path, folder)

    def converted(model_class: Any, part: str, convert: Callable[..., dict[str, Tensor]]) -> Any:
        with torch.device("meta"):
            model = read(folder / part, lambda at: model_class.from_config(model_class.load_config(at)))
        state = convert(checkpoint=parts[part], config=model.config)
        _require(model.state_dict().keys() - state.keys(), path, folder)
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
        read(path, lambda _: model.load_state_dict(state, assign=True))
        return model

    config = read(folder / "text_encoder", lambda at: CLIPTextConfig.from_pretrained(at, local_files_only=True))
    with torch.device("meta"):
        empty = CLIPTextModel(config)
    # Stable Diffusion 2 stores a last layer and a projection that it does not use and its configuration omits.
    found = {name: parts["text_encoder"].get(name.removeprefix("text_model.")) for name in empty.state_dict()}
    state = {name: tensor for name, tensor in found.items() if tensor is not None}
    _require(found.keys() - state.keys(), path, folder)
    text_encoder = read(
        path, lambda _: CLIPTextModel.from_pretrained(None, config=config, state_dict=state, dtype=dtype)
    )
    unet = converted(UNet2DConditionModel, "unet", convert_ldm_unet_checkpoint)
    models = converted(AutoencoderKL, "vae", convert_ldm_vae_checkpoint), unet, text_encoder
    vae, unet, text_encoder = (model.to(device).eval().requires_grad_(False) for model in models)
    return vae, unet, text_encoder


def _require(missing: Set[str], path: Path, folder: Path) -> None:
    if missing:
        raise PriorError(
            f"{path} has no weights for {len(missing)} parameters, such as {min(missing)}: expected all parameters of "
            f"{folder}; use the configuration of the checkpoint that was fine-tuned"
        )


def _tokenizer(folder: Path) -> PromptTokenizer:
    for path in folder.glob("*.json"):
        read_json(path)  # the error names the damaged file; tokenizers would raise a bare Exception
    return read(folder, PromptTokenizer.load)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and reports of transformers and diffusers about weights: `PriorError` says what is wrong."""
    loggers = transformers_logging, diffusers_logging
    before = [(logger, logger.get_verbosity(), logger.is_progress_bar_enabled()) for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger, verbosity, is_shown in before:
            logger.set_verbosity(verbosity)
            if is_shown:
                logger.enable_progress_bar()
