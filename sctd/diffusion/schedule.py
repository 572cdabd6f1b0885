"""The variance-preserving noise schedule: z_t = α_t z_0 + σ_t ε with α_t² + σ_t² = 1."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.errors import SctdError, shortened
from sctd.types import Latents

MOST_STEPS = 1_000_000


class ScheduleError(SctdError):
    """Raised for a scheduler_config.json that describes no supported schedule."""


@dataclass(frozen=True)
class NoiseSchedule:
    """α_t and σ_t for t = 0 … T−1; a larger t is noisier.

    Both are float64. `alpha[t]` is a scalar tensor, and a scalar takes the dtype and device of the tensor it
    multiplies: latents stay float32 while differences such as k_t − k_s keep full precision.
    """

    alpha: Float[Tensor, " steps"]
    sigma: Float[Tensor, " steps"]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """Read a scheduler_config.json of the Stable Diffusion format; raises ScheduleError."""
        # The cumulative product is taken in float32 because the published checkpoints were trained on it.
        alphas_cumprod = torch.cumprod(1.0 - _betas(config), dim=0).double()
        if config.get("rescale_betas_zero_snr") or not alphas_cumprod[-1] > 0:
            raise ScheduleError(
                "the schedule ends in pure noise (rescale_betas_zero_snr), where σ_t/α_t is infinite; expected some "
                "signal at the last step: use a checkpoint trained without rescale_betas_zero_snr"
            )
        return cls(alpha=alphas_cumprod.sqrt(), sigma=(1.0 - alphas_cumprod).sqrt())

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.alpha)

    @cached_property
    def k(self) -> Float[Tensor, " steps"]:
        """k_t = σ_t/α_t = e^{−λ_t}, where λ_t is half the log signal-to-noise ratio; increases with t."""
        return self.sigma / self.alpha

    def noised(self, z_0: Latents, noise: Latents, t: int) -> Latents:
        """z_t = α_t z_0 + σ_t ε."""
        return self.alpha[t] * z_0 + self.sigma[t] * noise

    def clean(self, z_t: Latents, eps: Latents, t: int) -> Latents:
        """x̂_0 = (z_t − σ_t ε) / α_t."""
        return (z_t - self.sigma[t] * eps) / self.alpha[t]

    def eps_from_v(self, z_t: Latents, v: Latents, t: int) -> Latents:
        """ε̂ = σ_t z_t + α_t v: the predicted noise of a v-prediction."""
        return self.sigma[t] * z_t + self.alpha[t] * v

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """The same schedule on `device`. Rarely needed, since scalars on the CPU multiply tensors on any device."""
        return NoiseSchedule(self.alpha.to(device), self.sigma.to(device))


def _is_beta(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 1


def _betas(config: Mapping[str, Any]) -> Float[Tensor, " steps"]:
    """β_t in float32, with diffusers' order of operations, so that the bits are equal."""
    if (trained := config.get("trained_betas")) is not None:
        if not isinstance(trained, list) or not trained or not all(map(_is_beta, trained)):
            raise ScheduleError("trained_betas is no list of numbers between 0 and 1: correct scheduler_config.json")
        return torch.tensor(trained, dtype=torch.float32)
    num_steps, name = config.get("num_train_timesteps", 1000), config.get("beta_schedule", "linear")
    first, last = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if type(num_steps) is not int or not 1 <= num_steps <= MOST_STEPS or not (_is_beta(first) and _is_beta(last)):
        found = shortened(f"{num_steps!r}, {first!r} and {last!r}")
        raise ScheduleError(
            f"num_train_timesteps, beta_start and beta_end are {found}; expected 1 to {MOST_STEPS} steps, and numbers "
            "between 0 and 1: correct scheduler_config.json"
        )
    match name:
        case "linear":
            return torch.linspace(first, last, num_steps, dtype=torch.float32)
        case "scaled_linear":
            return torch.linspace(first**0.5, last**0.5, num_steps, dtype=torch.float32) ** 2
        case "squaredcos_cap_v2":
            edges = [math.cos((i / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(num_steps + 1)]
            return torch.tensor(
                [min(1 - edges[i + 1] / edges[i], 0.999) for i in range(num_steps)], dtype=torch.float32
            )
    raise ScheduleError(
        f"beta_schedule is {shortened(repr(name))}; expected 'linear', 'scaled_linear' or 'squaredcos_cap_v2': "
        "correct scheduler_config.json, or list the values under trained_betas"
    )
