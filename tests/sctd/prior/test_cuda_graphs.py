"""The CUDA-graph path against the plain one, on a GPU and a tiny prior. Without a GPU: test_fused.py, test_half.py."""

import pytest
import torch

from sctd.prior.control import Control, controlled
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.recipe.methods import for_objective
from sctd.train import draws
from sctd.train.checkpoint import tensors_of
from sctd.train.optimize import optimize
from tests.support import tiny_models
from tests.support.tiny_prior import ball, recipe

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # torch's compiler warns of torch's own modules
]


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """By default cuDNN rounds float32 to TF32. The pipeline's workers disable it too."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write_prior(tmp_path_factory.mktemp("captured") / "prior")


def priors(folder, dtype):
    plain = StableDiffusionPrior.load(folder, "cuda", dtype)
    return plain, StableDiffusionPrior.load(folder, "cuda", dtype, cuda_graphs=True, cpu_offload=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
def test_predictions_latents_and_gradients_equal_the_plain_path(folder, dtype, tolerance):
    plain, captured = priors(folder, dtype)

    def near(found, expected):
        assert float((found - expected).norm() / expected.norm()) < tolerance

    for batch in (1, 2, 4, 2):  # one capture per size, and one reuse
        z_t, text = torch.randn(batch, 4, 8, 8, device="cuda"), plain.embed(["a red cube"] * batch)
        near(captured.denoise(z_t, 300, text), plain.denoise(z_t, 300, text))
        near(captured.denoise(z_t, 300, None), plain.denoise(z_t, 300, None))
        images = [torch.rand(batch, 3, 16, 16, device="cuda").requires_grad_()]
        images.append(images[0].detach().clone().requires_grad_())
        weights = 1e-6 * torch.randn(batch, 4, 8, 8, device="cuda")
        z_0 = [prior.encode(image) for prior, image in zip((plain, captured), images, strict=True)]
        near(z_0[1].detach(), z_0[0].detach())
        gradients = [torch.autograd.grad(z, image, weights)[0] for z, image in zip(z_0, images, strict=True)]
        near(gradients[1], gradients[0])
    assert len(captured.captured.predict.graphs) == len(captured.captured.moments.graphs) == 3
    assert captured.build_seconds > 0
    assert plain.build_seconds == 0
    captured.release_graphs()
    assert not captured.captured.predict.graphs


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 1e-2)])
def test_predictions_with_a_controlnet_are_captured_and_equal_the_plain_path(folder, tmp_path, dtype, tolerance):
    plain, captured = priors(folder, dtype)
    control = Control.load(tiny_models.write_control(tmp_path / "control", folder), "cuda")
    for batch, views in ((2, 2), (4, 2), (2, 2)):
        z_t, text = torch.randn(batch, 4, 8, 8, device="cuda"), plain.embed(["a red cube"] * batch)
        condition = torch.rand(views, 3, 16, 16, device="cuda")
        expected, found = (controlled(prior, control, condition)(z_t, 300, text) for prior in (plain, captured))
        assert float((found - expected).norm() / expected.norm()) < tolerance
        without = captured.denoise(z_t, 300, text)
        assert float((found - without).norm() / expected.norm()) > tolerance, "the residuals have an effect"
    assert len(captured.captured.predict.graphs) == 4, "two batch sizes, each with and without residuals"


def test_results_survive_the_next_call(folder):
    _, captured = priors(folder, torch.float32)
    z_t = torch.randn(2, 4, 8, 8, device="cuda")
    first = captured.denoise(z_t, 300, None)
    kept = first.clone()
    captured.denoise(-z_t, 700, None)
    assert torch.equal(first, kept)


def test_nan_is_reverted_without_synchronization(folder):
    """The iteration that started from the one with NaN is discarded, and the run has its full length."""
    _, captured = priors(folder, torch.float32)
    calls = []

    class WithNaN:
        def __getattr__(self, name):
            return getattr(captured, name)

        def denoise(self, z_t, t, text):
            calls.append(t)
            return captured.denoise(z_t, t, text) * (torch.nan if 9 <= len(calls) <= 11 else 1)

    chosen = replace_iterations(recipe(), 10)
    steps = list(optimize(chosen, WithNaN(), ball().to("cuda"), "a red ball", 0))
    assert [step.iteration for step in steps] == list(range(1, 11))
    assert 1 <= steps[-1].skipped <= 2
    assert all(bool(tensor.isfinite().all()) for tensor in steps[-1].gaussians.tensors().values())


def test_objectives_learn_along_beside_a_captured_network(folder):
    """The adapters are on a copy of the plain network: they start as it, and what they learn stays on the GPU."""
    plain, captured = priors(folder, torch.float16)
    adapters, cameras = captured.adapters(2), draws.views(recipe(), 1, 16, torch.Generator().manual_seed(0)).to("cuda")
    z_t, text = torch.randn(2, 4, 8, 8, device="cuda"), plain.embed(["a red cube"] * 2)
    psi = adapters.initial(torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapters(psi, z_t, 300, text, cameras), plain.denoise(z_t, 300, text), rtol=0, atol=1e-3)
    for name in ("vsd", "cfd"):
        chosen = for_objective(replace_iterations(recipe(), 6), name)
        whole = list(optimize(chosen, captured, ball().to("cuda"), "a red ball", 0))
        kept = tensors_of(whole[-1].objective)
        assert kept
        assert all(each.is_cuda and bool(each.isfinite().all()) for each in kept.values())
        resumed = list(optimize(chosen, captured, ball().to("cuda"), "a red ball", 0, whole[2].checkpoint()))
        assert tensors_of(resumed[-1].objective).keys() == kept.keys()
        assert whole[-1].skipped == 0


def replace_iterations(chosen, iterations):
    return chosen.model_copy(update={"iterations": iterations})
