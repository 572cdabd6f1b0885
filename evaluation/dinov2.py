"""DINOv2 features (Oquab et al. 2023, arXiv:2304.07193), which agree with human judgement better than Inception's.

For `fd_dinov2` (Stein et al. 2023, arXiv:2306.04675): the [CLS] state after the last norm, of views resized to
224 × 224 by PIL's bicubic on bytes and normalised as for ImageNet. Computed only if the weights are available.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor, nn
from transformers import Dinov2Model

from evaluation.checkpoints import digest, read_tensors
from evaluation.errors import EvaluationError
from evaluation.pretrained import load, model_type
from evaluation.views import Views, in_batches, parallel_map

SIZE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNUSED = "embeddings.mask_token"
"""A parameter used only in training, which some copies of the checkpoint lack."""


class Dinov2Tower:
    """A `FeatureNetwork`: views → [CLS] states, in float32."""

    name = "dinov2"

    def __init__(self, network: nn.Module, weights: str, device: torch.device | str) -> None:
        self.network, self.weights, self.device = network.to(device).eval().requires_grad_(False), weights, device

    @staticmethod
    def load(folder: Path | str, device: torch.device | str = "cpu") -> Dinov2Tower:
        """Load `config.json` and `model.safetensors` as transformers writes them.

        Raises EvaluationError if a file is missing or damaged, or if the tensors belong to another model.
        """
        folder = Path(folder)
        kind = model_type(folder, "DINOv2")
        tensors = read_tensors(folder / "model.safetensors")  # its errors are clearer than transformers'
        if kind != "dinov2":
            raise EvaluationError(f"{folder} holds a {kind} model; expected dinov2")
        network = load(Dinov2Model, folder, "DINOv2", unused=[UNUSED], dtype=torch.float32)
        weights = digest({name: tensor for name, tensor in tensors.items() if name != UNUSED})
        return Dinov2Tower(network, weights, device)

    @torch.no_grad()
    def __call__(self, views: Views, batch_size: int = 30) -> Float32[np.ndarray, "views dim"]:
        def features(batch: Views) -> np.ndarray:
            pixels = torch.stack(parallel_map(preprocess, batch)).to(self.device)
            return self.network(pixels).last_hidden_state[:, 0].cpu().numpy()

        return in_batches(features, views, batch_size)


def preprocess(view: UInt8[np.ndarray, "height width 3"]) -> Float[Tensor, "3 224 224"]:
    """Bicubic resize to 224 × 224 without cropping, then normalisation."""
    resized = np.asarray(Image.fromarray(view).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (torch.tensor(resized).permute(2, 0, 1) / 255 - mean) / std
