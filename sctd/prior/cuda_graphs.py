"""The networks of a prior at speed on an NVIDIA GPU: fused, compiled, and recorded as CUDA graphs.

A graph replays hundreds of kernels for the price of one launch, but only with the shapes and the addresses that it was
recorded with. So there is one for each size of batch, recorded when it is first asked for; the arithmetic around the
networks, the Gaussians and the renderer stay as they are. Nothing of the algorithm is written again here.
"""

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sctd.prior.fused import fuse

# cuDNN's attention is half as fast again as flash attention on Hopper; what it cannot do falls to the next.
ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
WARM_UP = 3
MOST_SIZES = 64


class Captured:
    """A function of tensors without gradients, recorded for each set of shapes."""

    def __init__(self, function: Callable[..., Tensor]):
        self.function, self.seconds = function, 0.0
        self.graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]] = {}
        self.pool: Any = None  # one for all: only one graph runs at a time, and results are copied out

    @torch.no_grad()
    def __call__(self, *arguments: Tensor) -> Tensor:
        key = tuple(argument.shape for argument in arguments)
        if key not in self.graphs:
            begun = time.monotonic()
            self.graphs[key] = self._record(arguments)
            self.seconds += time.monotonic() - begun
        graph, places, result = self.graphs[key]
        for place, argument in zip(places, arguments, strict=True):
            place.copy_(argument)
        graph.replay()
        return result.clone()

    def release_graphs(self) -> None:
        """Free the graphs and what they hold."""
        self.graphs.clear()
        self.pool = None

    def _record(self, arguments: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]:
        places, graph = tuple(argument.clone() for argument in arguments), torch.cuda.CUDAGraph()
        with _settings(ATTENTION):
            _warm(lambda: self.function(*places))
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            with torch.cuda.graph(graph, pool=self.pool):
                result = self.function(*places)
        torch.cuda.synchronize()
        return graph, places, result


class CapturedWithGradient:
    """A network that is differentiated in its one input: forward and backward are recorded for each shape."""

    def __init__(self, network: nn.Module):
        self.network, self.seconds = network, 0.0
        self.graphs: dict[torch.Size, Callable[[Tensor], Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.network(x)
        if x.shape not in self.graphs:
            begun = time.monotonic()
            # Attention over 512 channels in one head: of all kernels that can be differentiated, plain products are
            # the fastest by far (15 ms less an iteration than the memory-efficient one).
            with _settings([SDPBackend.MATH]), warnings.catch_warnings():
                # Said of the place's own gradient, which nobody asks for.
                warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")
                place = _channels_last(x.detach().clone()).requires_grad_()
                recorded: Any = torch.cuda.make_graphed_callables(self._forward, (place,))
                self.graphs[x.shape] = recorded
            self.seconds += time.monotonic() - begun
        return self.graphs[x.shape](_channels_last(x))

    def release_graphs(self) -> None:
        """Free the graphs and what they hold."""
        self.graphs.clear()

    def _forward(self, x: Tensor) -> Tensor:
        return self.network(x)  # handed over as a function: a module's own `forward` would be replaced


class Encoder(nn.Module):
    """A VAE's encoder up to the posterior's mean and log variance, which are float32."""

    def __init__(self, vae: Any):
        super().__init__()
        self.encoder = vae.encoder
        self.quant_conv = nn.Identity() if vae.quant_conv is None else copy.deepcopy(vae.quant_conv).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(images))


class Exact(nn.Module):
    """A last layer in float32, whose result is not rounded to half.

    Guidance multiplies differences of predictions that are nearly equal, and the errors with them. It costs no time and
    takes the gradient's error from 0.48 to 0.46 %, by Perp-Neg from 1.16 to 1.12 %.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float())


def captured_unet(unet: Any) -> Captured:
    """The U-Net as (z_t, times, text) → prediction. Changes the U-Net's blocks and layout in place."""
    fuse(unet.to(memory_format=torch.channels_last))
    unet.fuse_qkv_projections()
    unet.conv_out = Exact(unet.conv_out)

    def predict(z_t: Tensor, times: Tensor, text: Tensor) -> Tensor:
        return unet(z_t, times, text, return_dict=False)[0]

    # Each batch size is compiled by itself; torch stops at eight of them unless it is allowed more.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SIZES)
    compiled = torch.compile(predict, dynamic=False, fullgraph=True)
    return Captured(lambda z_t, times, text: compiled(_channels_last(z_t), times, text))


def captured_encoder(vae: Any) -> CapturedWithGradient:
    """The encoder as images in [-1, 1] → mean and log variance. Changes its blocks and layout in place."""
    vae.encoder.to(memory_format=torch.channels_last)
    fuse(vae.encoder)
    vae.encoder.conv_out = Exact(vae.encoder.conv_out)
    return CapturedWithGradient(Encoder(vae))


@contextmanager
def _settings(attention: list[SDPBackend]) -> Iterator[None]:
    """While recording: cuDNN tries its algorithms, attention takes these kernels, products of it stay in half."""
    half = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        choosing = torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False)
        with choosing, sdpa_kernel(attention, set_priority=True):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(half)


def _warm(function: Callable[[], Tensor]) -> None:
    """Compile, choose algorithms and allocate, on a stream of its own as recording asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(stream)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
