"""ControlNet (Zhang et al. 2023): the prior as a denoiser that also sees a picture of each view, such as its depth.

An unguided denoiser, to be put under `guidance.cfg` or `guidance.perp_neg`; no objective knows of it.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from sctd.prior.stable_diffusion import ControlNetModel, PriorError, Residuals, StableDiffusionPrior, load_controlnet
from sctd.types import Denoiser, Images, Latents, Text

# Where the two networks meet.
SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block")


@dataclass(frozen=True, eq=False)
class Control:
    """A ControlNet of diffusers, frozen."""

    model: ControlNetModel

    @classmethod
    def load(
        cls, folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Control":
        """Read config.json and the weights of `folder`; nothing is fetched.

        Raises PriorError naming what is missing, unreadable or no ControlNet.
        """
        return cls(load_controlnet(Path(folder), device, dtype))

    @property
    def factor(self) -> int:
        """Pixels of the condition per latent, along each side."""
        return 2 ** (len(self.model.config["conditioning_embedding_out_channels"]) - 1)

    def check(self, prior: StableDiffusionPrior) -> None:
        """PriorError unless this ControlNet has the sizes of the prior's U-Net."""
        for name in SHARED:
            ours, wanted = (_plain(model.config[name]) for model in (self.model, prior.unet))
            if ours != wanted:
                raise PriorError(
                    f"the ControlNet has {name} {ours}, but the prior's unet/ has {wanted}: "
                    "take one that was trained for this prior"
                )

    @torch.no_grad()
    def residuals(self, z_t: Latents, t: int, text: Text, condition: Images, scale: float) -> Residuals:
        """What to add inside the U-Net, `scale` times; `condition` in [0, 1], resized to `factor` pixels a latent."""
        device, dtype = self.model.device, self.model.dtype
        size = [self.factor * side for side in z_t.shape[-2:]]
        if list(condition.shape[-2:]) != size:
            condition = interpolate(condition, size, mode="bilinear", antialias=True)
        steps = torch.full((len(z_t),), t, device=device)
        down, middle = self.model(
            z_t.to(device, dtype), steps, text.to(device, dtype), condition.to(device, dtype),
            conditioning_scale=scale, return_dict=False,
        )  # fmt: skip
        return Residuals(tuple(down), middle)


def controlled(
    prior: StableDiffusionPrior, control: Control, condition: Float[Tensor, "batch 3 height width"], scale: float = 1.0
) -> Denoiser:
    """`prior.denoise` that follows `condition`, RGB in [0, 1] of any size, one picture for each view.

    Guidance asks for [null, text, …] of all views at once, so the pictures repeat as often as the views do. `scale`
    multiplies what the ControlNet adds: 0 leaves the prior alone. Without gradients. Raises PriorError where the
    ControlNet does not fit the prior, or a batch is no multiple of the views.
    """
    control.check(prior)

    def denoise(z_t: Latents, t: int, text: Text | None) -> Latents:
        repeats, rest = divmod(len(z_t), len(condition))
        if rest:
            raise PriorError(
                f"{len(z_t)} latents for {len(condition)} pictures of the condition; expected a multiple: "
                "give one picture for each view"
            )
        text = prior.null.expand(len(z_t), -1, -1) if text is None else text
        residuals = control.residuals(z_t, t, text, condition.repeat(repeats, 1, 1, 1), scale)
        return prior.denoise(z_t, t, text, residuals)

    return denoise


def _plain(value: object) -> object:
    """A configuration's value, whether it comes from JSON or from Python."""
    return list(value) if isinstance(value, tuple) else value
