"""A frozen U-Net on a CPU by OpenVINO, which computes predictions faster than torch. It gives no gradient."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sctd.prior.files import PriorError

# One thread in each process, on any core: the order of sums is fixed, and workers do not meet on one core.
SETTINGS = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
PRECISION = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoUNet:
    """`predict(unet, z_t, times, text)` of a float32 U-Net, computed in `dtype`; compiled once for each shape.

    Fixed shapes are a fifth faster than a symbolic batch. With the residuals of a ControlNet torch computes.
    """

    def __init__(self, unet: torch.nn.Module, predict: Callable[..., Tensor], dtype: torch.dtype):
        """Raises PriorError if openvino is not installed, or for a dtype other than float32 and bfloat16."""
        if dtype not in PRECISION:
            name = str(dtype).removeprefix("torch.")
            raise PriorError(f"OpenVINO computes in float32 or bfloat16, not {name}; load the prior in one of these")
        try:
            import openvino
        except ImportError:
            raise PriorError("openvino is not installed; pip install 'segmentdreamer[cpu]'") from None
        self.unet, self.predict = unet, predict
        self.core, self.settings = openvino.Core(), {**SETTINGS, "INFERENCE_PRECISION_HINT": PRECISION[dtype]}
        self.model: Any = None
        self.compiled: dict[tuple[torch.Size, ...], Any] = {}

    @torch.no_grad()
    def __call__(self, z_t: Tensor, times: Tensor, text: Tensor, *residuals: Tensor) -> Tensor:
        """The prediction in float32, for arguments of any floating dtype."""
        z_t, text = z_t.float(), text.float()
        if residuals:
            return self.predict(self.unet, z_t, times, text, *(residual.float() for residual in residuals))
        arguments = z_t, times, text
        shapes = tuple(argument.shape for argument in arguments)
        if shapes not in self.compiled:
            self.compiled[shapes] = self._compile(arguments)
        result = self.compiled[shapes]([argument.contiguous().numpy() for argument in arguments])
        return torch.from_numpy(result[0].copy())

    def _compile(self, arguments: tuple[Tensor, ...]) -> Any:
        self.model = self.model or _converted(self.unet, self.predict, arguments)
        model = self.model.clone()
        shapes = [list(argument.shape) for argument in arguments]
        model.reshape(dict(zip(model.inputs, shapes, strict=True)))
        return self.core.compile_model(model, "CPU", self.settings)


def _converted(unet: torch.nn.Module, predict: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> Any:
    """The OpenVINO model of any batch size. `openvino.convert_model` would report the conversion to its makers."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    class Predict(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, z_t: Tensor, times: Tensor, text: Tensor) -> Tensor:
            return predict(self.unet, z_t, times, text)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and tells of each shape that it reads
        decoder = TorchScriptPythonDecoder(Predict().eval(), example_input=arguments)
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))
