"""The Triton kernels in Triton's interpreter, which runs them on the CPU, against torch and diffusers' blocks.

Each runs in a subprocess, because the interpreter is chosen when triton is imported. On a GPU: test_cuda_graphs.py.
"""

import importlib.util
import os
import subprocess
import sys
from importlib import metadata

import pytest
from packaging.version import Version

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

KERNELS = """
import torch
from torch.nn.functional import group_norm, silu
from sctd.prior import group_norm_triton as kernels

torch.manual_seed(0)
last = torch.channels_last
cases = [  # channels that fill a tile or not, groups of 3, 4 and 10, one feature map larger than a program's share
    (2, 128, 9, 7, 32, False, True), (1, 96, 5, 5, 32, True, False),
    (2, 320, 17, 17, 32, True, True), (3, 64, 3, 3, 8, True, True),
]
for batch, channels, height, width, groups, has_offset, activated in cases:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 2e-3)):
        def feature_map():
            return (3 * torch.randn(batch, channels, height, width) + 2).to(dtype).contiguous(memory_format=last)
        x, dy, other = feature_map(), feature_map(), feature_map()
        weight, bias = torch.randn(2, channels).to(dtype)
        offset = torch.randn(batch, channels).to(dtype) if has_offset else None
        exact = x.double().requires_grad_()
        moved = exact if offset is None else exact + offset.double()[:, :, None, None]
        y = group_norm(moved, groups, weight.double(), bias.double(), 1e-6)
        y = silu(y) if activated else y
        (dx,) = torch.autograd.grad(y, exact, dy.double())

        def near(found, expected):
            assert found.dtype == dtype and found.is_contiguous(memory_format=last)
            assert (found.double() - expected).norm() <= tolerance * expected.norm(), (channels, dtype)

        forward = kernels.affine(x, weight, bias, offset, groups, 1e-6)
        near(kernels.apply(x, forward.scale, forward.shift, silu=activated), y.detach())
        near(kernels.input_gradient(x, dy, forward, weight, offset, silu=activated, added=None), dx)
        near(kernels.input_gradient(x, dy, forward, weight, offset, silu=activated, added=other), dx + other.double())
        near(kernels.add(x, dy, bias), x.double() + dy.double() + bias.double()[:, None, None])
"""

BLOCKS = """
import copy
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch.nn.functional import conv2d
from sctd.prior.fused import FusedBlock, Norm, adjoint, fuse

torch.manual_seed(0)
x, y, kernel = torch.randn(1, 3, 8, 8), torch.randn(1, 5, 8, 8), torch.randn(5, 3, 3, 3)
torch.testing.assert_close(
    (conv2d(x, kernel, padding=1) * y).sum(), (x * conv2d(y, adjoint(kernel), padding=1)).sum(), rtol=1e-4, atol=1e-4)

vae = AutoencoderKL(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4).eval().requires_grad_(False)
fused = copy.deepcopy(vae.encoder)
fuse(fused)
kinds = [type(module) for module in fused.modules()]
assert kinds.count(FusedBlock) == 4 and kinds.count(Norm) == 1, kinds
image, weights = torch.rand(2, 3, 16, 16), torch.randn(2, 8, 8, 8)
found = []
for encoder in (vae.encoder, fused):
    leaf = image.clone().requires_grad_()
    moments = encoder(leaf)
    found.append((moments.detach(), *torch.autograd.grad(moments, leaf, weights)))
for plain, other in zip(*found):
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)

unet = UNet2DConditionModel(sample_size=8, block_out_channels=(8, 16), layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=16, attention_head_dim=8, norm_num_groups=4).eval().requires_grad_(False)
fused = copy.deepcopy(unet)
fuse(fused)
kinds = [type(module) for module in fused.modules()]
assert kinds.count(FusedBlock) == 8 and kinds.count(Norm) == 1 + 4, kinds
z_t, text, times = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 16), torch.tensor([300, 300])
with torch.no_grad():
    torch.testing.assert_close(fused(z_t, times, text).sample, unet(z_t, times, text).sample, rtol=1e-4, atol=1e-5)
"""

PADDING = """
import copy
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from sctd.prior.fused import FusedBlock, fuse, pad_without_copies

torch.manual_seed(0)
vae = AutoencoderKL(block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=2, norm_num_groups=4).eval().requires_grad_(False)
fused = copy.deepcopy(vae.encoder)
fuse(fused)
pad_without_copies(fused)
assert [module.padded for module in fused.modules() if isinstance(module, FusedBlock)] == [
    False, True, False, True, False, False, False, False]
image, weights = torch.rand(2, 3, 24, 16), torch.randn(2, 8, 6, 4)
found = []
for encoder in (vae.encoder, fused):
    leaf = image.clone().requires_grad_()
    moments = encoder(leaf)
    found.append((moments.detach(), *torch.autograd.grad(moments, leaf, weights)))
for plain, other in zip(*found):
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)
"""

SHARED = """
import copy
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from sctd.prior.fused import FusedBlock, fuse
from sctd.prior.shared import Slice, share
from sctd.prior.stable_diffusion import predicted_by

torch.manual_seed(0)
z_t, text, times = torch.randn(4, 4, 8, 8), torch.randn(4, 7, 16), torch.full((4,), 300)
shapes = (8, 8, 8), (8, 8, 8), (8, 4, 4), (16, 4, 4), (16, 4, 4)
residuals = [torch.randn(4, *shape) for shape in shapes]
for linear in (True, False):
    unet = UNet2DConditionModel(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=8, use_linear_projection=linear).eval().requires_grad_(False)
    changed = copy.deepcopy(unet)
    fuse(changed)
    changed.fuse_qkv_projections()
    shared = share(changed, predicted_by)
    slices = [module for module in changed.modules() if isinstance(module, Slice)]
    blocks = [module.offsets for module in changed.modules() if isinstance(module, FusedBlock)]
    assert (len(slices), len(blocks), None in blocks) == (4, 8, False)
    with torch.no_grad():
        for given in ((), residuals):
            expected = predicted_by(unet, z_t, times, text, *given)
            torch.testing.assert_close(shared(z_t, times, text, *given), expected, rtol=1e-4, atol=1e-5)
"""

SCRIPTS = {"kernels": KERNELS, "blocks": BLOCKS, "padding": PADDING, "shared": SHARED}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_kernels_and_blocks_in_the_interpreter(script: str) -> None:
    """float32 within 1e-6 of torch in float64; float16 within its rounding of 2^-11 a step."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    triton, numpy = (Version(metadata.version(name)) for name in ("triton", "numpy"))
    if triton < Version("3.9") and numpy >= Version("2.4"):
        pytest.skip(f"triton {triton} interprets loops by a conversion that numpy {numpy} refuses; 3.9 does not")
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
