"""Inception-v3 of 2015-12-05 (Heusel et al. 2017; Szegedy et al. 2016): the 2048 features of FID.

The same weights with two ways to resize to 299 × 299, because published tables use either:

- `clean` (Parmar et al. 2022, arXiv:2104.11222): PIL's bicubic on floats, antialiased, clipped to [0, 255]: `fid`;
- `tf`: TensorFlow 1's bilinear without antialiasing, as torch-fidelity computes it: `fid_tf`.

The blocks are torch-fidelity's, with the two poolings in which this Inception differs from torchvision's. Features are
computed in float64, because float32 results on GPUs depend on the batch size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from evaluation.checkpoints import digest, read_tensors
from evaluation.errors import EvaluationError
from evaluation.views import Views, in_batches, parallel_map

SIZE = 299
PUBLISHED = "weights-inception-2015-12-05-6726825d.pth"
Resize = Literal["clean", "tf"]


class Inception(nn.Sequential):
    """Pixels normalised to (x - 128) / 128 → features of the last pooling. Parameter names as in the published file."""

    def __init__(self) -> None:
        super().__init__()
        for name, layer in {
            "Conv2d_1a_3x3": fidelity.BasicConv2d(3, 32, kernel_size=3, stride=2),
            "Conv2d_2a_3x3": fidelity.BasicConv2d(32, 32, kernel_size=3),
            "Conv2d_2b_3x3": fidelity.BasicConv2d(32, 64, kernel_size=3, padding=1),
            "MaxPool_1": nn.MaxPool2d(kernel_size=3, stride=2),
            "Conv2d_3b_1x1": fidelity.BasicConv2d(64, 80, kernel_size=1),
            "Conv2d_4a_3x3": fidelity.BasicConv2d(80, 192, kernel_size=3),
            "MaxPool_2": nn.MaxPool2d(kernel_size=3, stride=2),
            "Mixed_5b": fidelity.InceptionA(192, pool_features=32),
            "Mixed_5c": fidelity.InceptionA(256, pool_features=64),
            "Mixed_5d": fidelity.InceptionA(288, pool_features=64),
            "Mixed_6a": fidelity.InceptionB(288),
            "Mixed_6b": fidelity.InceptionC(768, channels_7x7=128),
            "Mixed_6c": fidelity.InceptionC(768, channels_7x7=160),
            "Mixed_6d": fidelity.InceptionC(768, channels_7x7=160),
            "Mixed_6e": fidelity.InceptionC(768, channels_7x7=192),
            "Mixed_7a": fidelity.InceptionD(768),
            "Mixed_7b": fidelity.InceptionE_1(1280),
            "Mixed_7c": fidelity.InceptionE_2(2048),
            "AvgPool": nn.AdaptiveAvgPool2d(output_size=(1, 1)),
            "flat": nn.Flatten(),
        }.items():
            self.add_module(name, layer)


class InceptionTower:
    """A `FeatureNetwork`: views → 2048 features.

    Its name includes the resizing, and the precision unless it is float64. So a reference set built with another
    resizing or precision is refused.
    """

    def __init__(self, network: Inception, resize: Resize = "clean") -> None:
        self.network = network.eval().requires_grad_(False)
        weight = next(network.parameters())
        self.dtype, self.device = weight.dtype, weight.device
        self.resize: Callable[[Views], Tensor] = clean_resize
        if resize == "tf":
            self.resize = partial(tf_resize, device=self.device)
        precision = "" if self.dtype == torch.float64 else f"_{str(self.dtype).removeprefix('torch.')}"
        self.name = {"clean": "inception", "tf": "inception_tf"}[resize] + precision

    @staticmethod
    def load(
        file: Path | str,
        resize: Resize = "clean",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> InceptionTower:
        """Load a published file or the one in a folder: the state of torch-fidelity and pytorch-fid, or TorchScript.

        Raises EvaluationError if the file is missing, damaged, would run code, or holds another network.
        """
        file = Path(file)
        if file.is_dir():
            file = next(iter(sorted([*file.glob("*.pth"), *file.glob("*.pt")])), file / PUBLISHED)
        return InceptionTower(network_of(read_tensors(file), file.name).to(device, dtype), resize)

    @property
    def weights(self) -> str:
        """SHA-256 of the weights, the same for both published formats."""
        return digest({name: tensor for name, tensor in self.network.state_dict().items() if _is_used(name)})

    @torch.no_grad()
    def __call__(self, views: Views, batch_size: int = 30) -> Float32[np.ndarray, "views dim"]:
        def features(batch: Views) -> np.ndarray:
            pixels = self.resize(batch).to(self.device, self.dtype)
            return self.network((pixels - 128) / 128).float().cpu().numpy()

        return in_batches(features, views, batch_size)


def clean_resize(views: UInt8[np.ndarray, "views height width 3"]) -> Float[Tensor, "views 3 299 299"]:
    """PIL's bicubic per channel on float32, clipped to [0, 255] and not rounded: clean-fid's default."""

    def resized(view: UInt8[np.ndarray, "height width 3"]) -> np.ndarray:
        channels = np.moveaxis(view, 2, 0).astype(np.float32)
        sized = [Image.fromarray(channel).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for channel in channels]
        return np.stack([np.asarray(channel) for channel in sized]).clip(0, 255)

    return torch.from_numpy(np.stack(parallel_map(resized, views)))


def tf_resize(
    views: UInt8[np.ndarray, "views height width 3"], device: torch.device | str = "cpu"
) -> Float[Tensor, "views 3 299 299"]:
    """TensorFlow 1's bilinear in float64: corners not aligned, no antialiasing. 43 ms per 512 px view on one core."""
    pixels = torch.from_numpy(np.ascontiguousarray(views)).to(device).permute(0, 3, 1, 2).double()
    return interpolate_bilinear_2d_like_tensorflow1x(pixels, size=(SIZE, SIZE), align_corners=False)


def network_of(state: dict[str, Tensor], source: str) -> Inception:
    """The network with these tensors, under either set of published names."""
    network = Inception()
    expected = {name: tensor for name, tensor in network.state_dict().items() if _is_used(name)}
    renamed = _from_torchscript(state, list(expected)) if any(name.endswith(".beta") for name in state) else state
    found = {name: t for name, t in renamed.items() if _is_used(name) and not name.startswith("fc.")}
    wrong = [name for name in found.keys() & expected.keys() if found[name].shape != expected[name].shape]
    if odd := sorted((found.keys() ^ expected.keys()) | set(wrong)):
        raise EvaluationError(
            f"{source} is not Inception-v3 of 2015-12-05: {len(odd)} tensors are missing, unknown or of another shape, "
            f"first {odd[0]}; expected torch-fidelity's {PUBLISHED} or the network's TorchScript form"
        )
    network.load_state_dict(found, strict=False)
    return network


def _from_torchscript(state: dict[str, Tensor], expected: list[str]) -> dict[str, Tensor]:
    """Rename TorchScript tensors: per convolution kernel, shift, mean and variance, in our order; the scale is 1."""
    layers = [name.removesuffix(".beta") for name in state if name.endswith(".beta")]
    targets = [name.removesuffix(".conv.weight") for name in expected if name.endswith(".conv.weight")]
    renamed = {}
    for layer, target in zip(layers, targets, strict=False):
        for theirs, ours in {
            "weight": "conv.weight",
            "beta": "bn.bias",
            "mean": "bn.running_mean",
            "var": "bn.running_var",
        }.items():
            if (tensor := state.get(f"{layer}.{theirs}")) is not None:
                renamed[f"{target}.{ours}"] = tensor
        renamed[f"{target}.bn.weight"] = torch.ones_like(state[f"{layer}.beta"])
    return renamed


def _is_used(name: str) -> bool:
    return not name.endswith("num_batches_tracked")
