"""The roofline of an iteration: the networks' floating-point operations at the rate of a large matrix product."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from sctd.prior.stable_diffusion import StableDiffusionPrior

MATRIX_SIZE = {"cuda": 8192, "cpu": 1024}


@cache
def matrix_teraflops(device: torch.device, dtype: torch.dtype) -> float:
    """The rate of a large matrix product in TFLOP/s, the best of 8 runs; of fewer if they take seconds."""
    size, seconds = MATRIX_SIZE[device.type], list[float]()
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    while len(seconds) < 8 and sum(seconds[1:]) < 1:  # the first one includes preparations
        seconds.append(_seconds(lambda: left @ right, device))
    return 2 * size**3 / min(seconds) / 1e12


def _seconds(function: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def operations(prior: StableDiffusionPrior) -> dict[str, float]:
    """Floating-point operations per image or latent of each part of an iteration in which a network runs.

    Counted by torch on copies of the networks without data (meta tensors), once for each architecture.
    """
    networks = ((type(model), model.to_json_string()) for model in (prior.vae, prior.unet))
    return _counted(*networks, prior.max_tokens, prior.image_size, prior.latent_shape)


@cache
def _counted(
    vae_of: tuple[Any, str],
    unet_of: tuple[Any, str],
    max_tokens: int,
    image_size: int,
    latent_shape: tuple[int, int, int],
) -> dict[str, float]:
    vae, unet = _on_meta_device(*vae_of), _on_meta_device(*unet_of)
    text = torch.empty(1, max_tokens, unet.config["cross_attention_dim"], device="meta")
    images = torch.empty(1, 3, image_size, image_size, device="meta")
    latents = torch.empty(1, *latent_shape, device="meta")
    times = torch.zeros(1, device="meta")
    encode = _operations(lambda: vae.encoder(images))
    whole = _operations(lambda: vae.encoder(images.requires_grad_()).sum().backward())
    denoise = _operations(lambda: unet(latents, times, text))
    return {"denoise": denoise, "encode": encode, "encode backward": whole - encode}


@dataclass(frozen=True)
class Roofline:
    """A lower bound for the networks' time: their operations at the rate of a large matrix product."""

    operations: dict[str, float]
    teraflops: float

    def seconds(self, part: str, samples: int) -> float | None:
        """The bound for a timed part with so many images or latents; None if no network runs in it."""
        return self.operations[part] * samples / self.teraflops / 1e12 if part in self.operations else None

    def total_seconds(self, counts: Mapping[tuple[str, int], int]) -> float:
        """The bound for timed parts, each as often as its count."""
        return sum((self.seconds(*part) or 0.0) * count for part, count in counts.items())


def _on_meta_device(network: Any, config: str) -> Any:
    """A network of this class and configuration, built by diffusers on the meta device, which takes no memory."""
    with torch.device("meta"):
        return network.from_config(json.loads(config)).requires_grad_(False)


def _operations(function: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())
