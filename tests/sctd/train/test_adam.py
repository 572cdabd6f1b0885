"""sctd.train.adam: against torch.optim.Adam; learning rates and gradient clipping."""

import pytest
import torch

from sctd.recipe import presets as recipes
from sctd.recipe.fields import RateConfig
from sctd.recipe.scene import OptimizerConfig
from sctd.scene.gaussians import Gaussians
from sctd.train import adam


def gaussians(num: int = 5, basis: int = 1, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Gaussians(normal(num, 3), normal(num, 3), normal(num, 4), normal(num), normal(num, basis, 3))


def test_ten_steps_match_torch_optim_adam() -> None:
    start, optimizer = gaussians(basis=4), OptimizerConfig()
    rates = adam.rates_at(optimizer, 0.0, 4)
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in start.tensors().items()}
    rest = parameters["sh"][:, 1:].detach().clone().requires_grad_()
    parameters["sh"] = parameters["sh"][:, :1].detach().clone().requires_grad_()
    groups = [
        {"params": [tensor], "lr": float(torch.as_tensor(rates[name]).max())} for name, tensor in parameters.items()
    ]
    reference = torch.optim.Adam(
        [*groups, {"params": [rest], "lr": optimizer.sh_rest.start}], betas=(0.9, 0.999), eps=1e-15
    )
    moved, first, second = start, start.map(torch.zeros_like), start.map(torch.zeros_like)
    for count in range(1, 11):
        gradients = gaussians(basis=4, seed=count)
        moved, first, second = adam.update(
            moved, gradients, first, second, rates=rates, count=count, optimizer=optimizer
        )
        for name, tensor in parameters.items():
            tensor.grad = getattr(gradients, name)[:, :1] if name == "sh" else getattr(gradients, name)
        rest.grad = gradients.sh[:, 1:]
        reference.step()
    parameters["sh"] = torch.cat([parameters["sh"], rest], dim=1)
    for name, tensor in moved.tensors().items():
        # float32 with another order of operations: rounding of steps of at most 0.05
        torch.testing.assert_close(tensor, parameters[name].detach(), atol=2e-6, rtol=0)
        assert not torch.equal(tensor, getattr(start, name))


def test_update_does_not_modify_its_arguments() -> None:
    start, zeros = gaussians(), gaussians().map(torch.zeros_like)
    copies = start.map(torch.clone)
    adam.update(
        start,
        gaussians(seed=1),
        zeros,
        zeros,
        rates=adam.rates_at(OptimizerConfig(), 0.0, 1),
        count=1,
        optimizer=OptimizerConfig(),
    )
    assert all(torch.equal(getattr(start, name), tensor) for name, tensor in copies.tensors().items())
    assert all(not tensor.any() for tensor in zeros.tensors().values())


def test_the_first_step_has_the_length_of_the_learning_rate() -> None:
    zeros = gaussians().map(torch.zeros_like)
    optimizer = recipes.embedded().optimizer
    moved, _, _ = adam.update(
        zeros, gaussians(), zeros, zeros, rates=adam.rates_at(optimizer, 0.0, 1), count=1, optimizer=optimizer
    )
    for name, rate in {"means": 0.004, "log_scales": 0.02, "quats": 0.02, "logit_opacities": 0.05, "sh": 0.035}.items():
        torch.testing.assert_close(getattr(moved, name), -rate * getattr(gaussians(), name).sign())


def test_rates_follow_progress_and_sh_has_two_rates() -> None:
    optimizer = OptimizerConfig(
        means=RateConfig(start=1, end=0.01, decay="log"),
        log_scales=RateConfig(start=1, end=0),
        sh_constant=RateConfig(start=0.4, end=0.2),
        sh_rest=RateConfig(start=0.04, end=0.02),
    )
    rates = adam.rates_at(optimizer, 0.5, 4)
    assert rates["means"] == pytest.approx(0.1)
    assert rates["log_scales"] == pytest.approx(0.5)
    torch.testing.assert_close(rates["sh"], torch.tensor([[0.3], [0.03], [0.03], [0.03]]))


@pytest.mark.parametrize(("progress", "limit"), [(0.0, 2.0), (0.1, 5.0), (0.2, 8.0), (1.0, 8.0)])
def test_gradients_are_clipped_to_a_rising_norm(progress: float, limit: float) -> None:
    optimizer = OptimizerConfig(clip_norm=(2, 8), clip_share=0.2)
    long, short = gaussians().map(lambda tensor: 100 * tensor), gaussians().map(lambda tensor: 0.01 * tensor)
    clipped = adam.clipped(long, optimizer, progress)
    for name, tensor in clipped.tensors().items():
        assert float(tensor.norm()) == pytest.approx(limit, rel=1e-5)
        torch.testing.assert_close(tensor / tensor.norm(), getattr(long, name) / getattr(long, name).norm())
    kept = adam.clipped(short, optimizer, progress)
    assert all(torch.equal(tensor, getattr(short, name)) for name, tensor in kept.tensors().items())
    assert adam.clipped(long, OptimizerConfig(clip_norm=(0, 0)), progress) is long
