"""Low-rank adapters (LoRA) on a copy of a frozen U-Net, for objectives that learn along.

The values of the adapters are one vector ψ, an argument of each call and no parameter of a module: an objective keeps
it in its state.
"""

import copy
import math
from typing import Any

import torch
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from peft import LoraConfig
from torch import Tensor
from torch.func import functional_call

from sctd.diffusion.schedule import NoiseSchedule
from sctd.scene.cameras import Cameras
from sctd.types import Latents, Text

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
CAMERA = "class_embedding."

Vector = Float[Tensor, " values"]


class Adapters:
    """ε_ψ(z_t, t, y, c): the prior's prediction with adapters of `rank` on all attentions, which see the camera c.

    The copy shares the weights of `unet`. The camera-to-world matrix of a view enters through a small network of its
    own, whose result is added to the embedding of the time.
    """

    def __init__(self, unet: UNet2DConditionModel, rank: int, of_v: NoiseSchedule | None = None):
        """`of_v` is the schedule of a U-Net that predicts v."""
        shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
        self.unet = copy.deepcopy(unet, shared)
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=ATTENTION))
        of_camera: Any = TimestepEmbedding(16, unet.time_embedding.linear_2.out_features)
        self.unet.class_embedding = of_camera.to(unet.device)
        self.unet.eval()  # new layers start in training mode
        self.rank, self.of_v = rank, of_v
        self.shapes = {name: each.shape for name, each in self.unet.named_parameters() if each.requires_grad}

    def initial(self, generator: torch.Generator) -> Vector:
        """ψ with which the prediction is that of the prior: the second matrix of each pair is zero."""
        values = [self._initial(name, shape, generator).flatten() for name, shape in self.shapes.items()]
        return torch.cat(values).to(self.unet.device)

    def _initial(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        if name.startswith(CAMERA):
            is_first, deviation = "linear_1.weight" in name, 1 / math.sqrt(shape[-1])
        else:
            is_first, deviation = "lora_A" in name, 1 / self.rank
        return deviation * torch.randn(shape, generator=generator) if is_first else torch.zeros(shape)

    def __call__(self, psi: Vector, z_t: Latents, t: int, text: Text, cameras: Cameras) -> Latents:
        """ε_ψ in the dtype of `z_t`, differentiable in ψ."""
        labels = torch.linalg.inv_ex(cameras.world_to_camera).inverse.flatten(1)  # inv would wait for a GPU
        dtype = self.unet.dtype
        arguments = z_t.to(dtype), t, text.to(dtype), labels
        predicted = functional_call(self.unet, self._named(psi), arguments, {"return_dict": False})[0].to(z_t.dtype)
        return self.of_v.eps_from_v(z_t, predicted, t) if self.of_v else predicted

    def _named(self, psi: Vector) -> dict[str, Tensor]:
        parts = psi.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
