"""OpenVINO's predictions against torch's, on the bundled prior."""

import sys
from functools import partial

import pytest
import torch

from pipeline.weights.models import EMBEDDED, resolve
from sctd.prior.files import PriorError
from sctd.prior.openvino_unet import OpenVinoUNet
from sctd.prior.stable_diffusion import StableDiffusionPrior

openvino = pytest.importorskip("openvino")
openvino_telemetry = pytest.importorskip("openvino_telemetry")
T = 300


@pytest.fixture(scope="module")
def load():
    return partial(StableDiffusionPrior.load, resolve(EMBEDDED).part("prior"))


@pytest.fixture(scope="module")
def exact(load):
    return load()


def arguments(prior, batch):
    draws = torch.Generator().manual_seed(batch)
    return torch.randn(batch, *prior.latent_shape, generator=draws), T, prior.embed(["a cat", "", "a duck"][:batch])


def error(found, exact):
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("dtype", "limit"),
    # float32: sums in another order; measured 6e-7. bfloat16: 8 bits, rounded in each layer; torch's own error is 4e-3.
    [(torch.float32, 5e-6), (torch.bfloat16, 1e-2)],
)
def test_predictions_are_those_of_torch_up_to_rounding(load, exact, dtype, limit):
    prior = load(dtype=dtype, cpu_engine="openvino")
    for batch in 1, 3:
        z_t, t, text = arguments(exact, batch)
        found = prior.denoise(z_t, t, text)
        assert found.dtype == torch.float32
        assert error(found, exact.denoise(z_t, t, text)) < limit
        assert torch.equal(found, prior.denoise(z_t, t, text)), "the same bits again, also after another shape"
    z_t, t, _ = arguments(exact, 2)
    assert error(prior.denoise(z_t, t, None), exact.denoise(z_t, t, None)) < limit
    again = load(dtype=dtype, cpu_engine="openvino")
    assert torch.equal(again.denoise(z_t, t, None), prior.denoise(z_t, t, None)), "the same bits in another worker"


def test_bfloat16_is_not_float32(load, exact):
    z_t, t, text = arguments(exact, 1)
    found = load(dtype=torch.bfloat16, cpu_engine="openvino").denoise(z_t, t, text)
    assert error(found, exact.denoise(z_t, t, text)) > 1e-4


def test_with_the_residuals_of_a_controlnet_torch_computes():
    calls = []

    def predict(unet, *tensors):
        calls.append(tensors)
        return tensors[0]

    engine = OpenVinoUNet(torch.nn.Identity(), predict, torch.bfloat16)
    z_t, times, text, residual = torch.ones(1, 2), torch.tensor([T]), torch.ones(1, 3), torch.ones(1, 4)
    engine(z_t.bfloat16(), times, text.bfloat16(), residual.bfloat16())
    assert [tensor.dtype for tensor in calls[0]] == [torch.float32, torch.int64, torch.float32, torch.float32]
    assert not engine.compiled


def test_nothing_is_reported_to_the_makers_of_openvino(load, monkeypatch):
    def reports(*_, **__):
        raise AssertionError("openvino_telemetry was used")

    monkeypatch.setattr(openvino_telemetry.Telemetry, "init", reports)
    prior = load(cpu_engine="openvino")
    prior.denoise(*arguments(prior, 1))
    with pytest.raises(AssertionError):
        openvino.convert_model(torch.nn.Identity(), example_input=torch.ones(1))


def test_dtypes_without_support(load):
    with pytest.raises(
        PriorError, match=r"^OpenVINO computes in float32 or bfloat16, not float16; load the prior in one"
    ):
        load(dtype=torch.float16, cpu_engine="openvino")


def test_without_the_library(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(PriorError, match=r"^openvino is not installed; pip install 'segmentdreamer\[cpu\]'$"):
        load(cpu_engine="openvino")
