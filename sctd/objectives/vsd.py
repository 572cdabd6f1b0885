"""Variational Score Distillation, VSD (ProlificDreamer, Wang et al. 2023, arXiv:2305.16213), with one particle."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from sctd.diffusion.schedule import NoiseSchedule
from sctd.diffusion.times import Times
from sctd.objectives.adamw import adamw
from sctd.scene.cameras import Cameras
from sctd.transfer import to_device
from sctd.types import Denoiser, Latents, ObjectiveState, Text


def vsd(
    z_0: Latents,
    *,
    denoise: Denoiser,
    text: Text,
    noise: Latents,
    times: Times,
    schedule: NoiseSchedule,
    adapted: Callable[..., Latents],
    cameras: Cameras | None,
    state: ObjectiveState,
) -> Latents:
    """ε̂_φ(z_t, t, y) − ε_ψ(z_t, t, y, c) before its weight w(t).

    SDS with the prediction of a network of the renders themselves in place of their noise: ε_ψ is the prior with
    adapters ψ, which see the camera c and learn along (`update`). ψ starts with ε_ψ = ε_φ, where VSD is CSD.
    """
    z_t = schedule.noised(z_0, noise, times.t)
    return denoise(z_t, times.t, text) - adapted(state["psi"], z_t, times.t, text, cameras)


def init(*, adapted: Any, generator: torch.Generator) -> ObjectiveState:
    """The adapters ψ and the moments of their optimizer."""
    return {"psi": adapted.initial(generator), "moments": {}}


def update(
    z_0: Latents,
    *,
    text: Text,
    schedule: NoiseSchedule,
    adapted: Callable[..., Latents],
    cameras: Cameras | None,
    state: ObjectiveState,
    generator: torch.Generator,
    adapter_rate: float = 1e-4,
) -> ObjectiveState:
    """A step of ψ down ‖ε_ψ(z_t', t', y, c) − ε'‖², with its own t' and ε'."""
    t = int(torch.randint(schedule.num_steps, (), generator=generator))
    noise = to_device(torch.randn(z_0.shape, generator=generator), z_0.device).to(z_0)
    z_t = schedule.noised(z_0, noise, t)

    def loss(psi: Tensor) -> Tensor:
        return mse_loss(adapted(psi, z_t, t, text, cameras), noise)

    psi, moments = adamw(loss, state["psi"], state["moments"], rate=adapter_rate)
    return {"psi": psi, "moments": moments}
