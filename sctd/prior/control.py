"""ControlNet (Zhang et al. 2023): the prior as a denoiser conditioned on an image of each view, such as its depth.

The result is an unguided denoiser, to be wrapped by `guidance.cfg` or `perp_neg.perp_neg`. Objectives do not change.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from sctd.prior.stable_diffusion import ControlNetModel, PriorError, Residuals, StableDiffusionPrior, load_controlnet
from sctd.types import Denoiser, Images, Latents, Text

# Configuration keys that must be equal in the ControlNet and the U-Net.
SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block")


@dataclass(frozen=True, eq=False)
class Control:
    """A frozen diffusers ControlNet."""

    model: ControlNetModel

    @classmethod
    def load(
        cls, folder: Path | str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "Control":
        """Load config.json and the weights from `folder`; nothing is downloaded.

        Raises PriorError if a file is missing or unreadable, or is not a ControlNet.
        """
        return cls(load_controlnet(Path(folder), device, dtype))

    @property
    def factor(self) -> int:
        """Pixels of the condition per latent pixel, along each side."""
        return 2 ** (len(self.model.config["conditioning_embedding_out_channels"]) - 1)

    def check(self, prior: StableDiffusionPrior) -> None:
        """Raise PriorError unless this ControlNet has the sizes of the prior's U-Net."""
        for name in SHARED:
            ours, expected = (_plain(model.config[name]) for model in (self.model, prior.unet))
            if ours != expected:
                raise PriorError(
                    f"the ControlNet has {name} {ours}, but the prior's unet/ has {expected}: "
                    "use one that was trained for this prior"
                )

    @torch.no_grad()
    def residuals(self, z_t: Latents, t: int, text: Text, condition: Images, scale: float) -> Residuals:
        """Residuals for the U-Net, times `scale`; `condition` in [0, 1] is resized to `factor` × the latents."""
        device, dtype = self.model.device, self.model.dtype
        size = [self.factor * side for side in z_t.shape[-2:]]
        if list(condition.shape[-2:]) != size:
            condition = interpolate(condition, size, mode="bilinear", antialias=True)
        steps = torch.full((len(z_t),), t, device=device)
        down, middle = self.model(
            z_t.to(device, dtype), steps, text.to(device, dtype), condition.to(device, dtype),
            conditioning_scale=scale, return_dict=False,
        )  # fmt: skip
        return *down, middle


def controlled(
    prior: StableDiffusionPrior, control: Control, condition: Float[Tensor, "batch 3 height width"], scale: float = 1.0
) -> Denoiser:
    """`prior.denoise` conditioned on `condition`: RGB in [0, 1] of any size, one image per view.

    Guidance batches [null, text, …] of all views, so the images are repeated for each of these parts. `scale`
    multiplies the ControlNet's residuals; 0 is the plain prior. Runs without gradients. Raises PriorError if the
    ControlNet does not fit the prior, or if the batch size is not a multiple of the number of views.
    """
    control.check(prior)

    def denoise(z_t: Latents, t: int, text: Text | None) -> Latents:
        repeats, rest = divmod(len(z_t), len(condition))
        if rest:
            raise PriorError(
                f"{len(z_t)} latents for {len(condition)} images of the condition; expected a multiple: "
                "give one image per view"
            )
        text = prior.null.expand(len(z_t), -1, -1) if text is None else text
        residuals = control.residuals(z_t, t, text, condition.repeat(repeats, 1, 1, 1), scale)
        return prior.denoise(z_t, t, text, residuals)

    return denoise


def _plain(value: object) -> object:
    """A configuration value with tuples as lists, as they are in JSON."""
    return list(value) if isinstance(value, tuple) else value
