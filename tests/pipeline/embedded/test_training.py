"""The training loop: it minimises, parts are equal to one training, and bf16 parameters have fp32 masters."""

import math

import pytest
import torch

from pipeline.embedded.training import Masters, TrainingPlan, fit


def problem(seed: int = 0):
    """A linear fit: its parameters, and a step that depends on the parameters only."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 3, generator=generator)
    y = x @ torch.tensor([1.0, -2.0, 0.5])
    weight = torch.nn.Parameter(torch.zeros(3))

    def step(_: int):
        loss = (x @ weight - y).square().mean()
        return loss, {"twice": 2 * loss.detach()}

    return weight, step


def test_fit_minimises_and_the_parameters_hold_the_average(tmp_path):
    weight, step = problem()
    done = fit(
        "line", [weight], step, TrainingPlan(1.0, tmp_path / "s.pt", steps=400), lr=0.1, warmup=10, weight_decay=0.0
    )
    assert (done["steps"], done["finished"]) == (400, 1.0)
    torch.testing.assert_close(weight.detach(), torch.tensor([1.0, -2.0, 0.5]), atol=1e-2, rtol=0)
    state = torch.load(tmp_path / "s.pt", weights_only=True)
    assert torch.equal(state["ema"][0], weight.detach())
    assert not torch.equal(state["values"][0], weight.detach())


def test_a_training_in_two_parts_equals_one_training(tmp_path):
    whole, step = problem()
    fit("whole", [whole], step, TrainingPlan(1.0, tmp_path / "whole.pt", steps=60), lr=0.05)
    parts, step = problem()

    def stopping(n: int):
        if n == 30:
            raise KeyboardInterrupt  # ends the process in the middle of the second part
        return step(n)

    short = TrainingPlan(1.0, tmp_path / "parts.pt", steps=60, part_seconds=-math.inf)
    first = fit("parts", [parts], step, short, lr=0.05)
    assert (first["steps"], first["finished"]) == (0, 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit("parts", [parts], stopping, TrainingPlan(1.0, tmp_path / "parts.pt", steps=60), lr=0.05)
    fit("parts", [parts], step, TrainingPlan(1.0, tmp_path / "parts.pt", steps=60), lr=0.05)
    assert torch.equal(parts.detach(), whole.detach())


def test_a_non_finite_parameter_is_an_error_and_nothing_is_saved(tmp_path):
    weight = torch.nn.Parameter(torch.ones(1))
    plan = TrainingPlan(1.0, tmp_path / "s.pt", steps=3)
    sentence = r"^broken: a parameter is not finite after 3 steps; nothing was saved$"
    with pytest.raises(FloatingPointError, match=sentence):
        fit("broken", [weight], lambda _: ((weight * math.inf).sum(), {}), plan, lr=0.1)
    assert not plan.state.exists()


def test_updates_below_bf16_precision_accumulate_in_the_master():
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    masters = Masters([weight])
    for _ in range(8):
        masters.values[0].data += 0.001  # a quarter of the spacing of bf16 above 1
        masters.copy_to_parameters()
    assert masters.values[0].item() == pytest.approx(1.008)
    assert weight.item() == pytest.approx(1.0078125)
