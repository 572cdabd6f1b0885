import pytest
import torch

from sctd.prior.half import in_dtype


@pytest.mark.parametrize("size", [1.0, 1e-9, 1e9])
def test_a_gradient_of_any_magnitude_passes_through_half_precision(size: float) -> None:
    """d(3 x)/dx = 3 for any upstream gradient; in float16, 1e-9 is 0 and 1e9 infinite."""
    x = torch.linspace(-1, 1, 9, requires_grad=True)
    upstream = size * torch.linspace(0.5, 1, 9)
    dtypes = []

    def triple(half: torch.Tensor) -> torch.Tensor:
        dtypes.append(half.dtype)
        return 3 * half

    y = in_dtype(triple, x, torch.float16)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    assert dtypes == [torch.float16]
    assert y.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(y, 3 * x.half().float(), rtol=1e-3, atol=0)
    torch.testing.assert_close(gradient, 3 * upstream, rtol=1e-3, atol=0)


def test_without_scaling_a_small_gradient_is_zero() -> None:
    x = torch.ones(3, requires_grad=True)
    (gradient,) = torch.autograd.grad((3 * x.half()).float(), x, torch.full((3,), 1e-9))
    assert not gradient.any()


def test_a_zero_gradient_stays_zero() -> None:
    x = torch.ones(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(in_dtype(lambda half: 2 * half, x, torch.float16), x, torch.zeros(3))
    assert torch.equal(gradient, torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_need_no_scaling(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 9, requires_grad=True)
    y = in_dtype(lambda other: 3 * other, x, dtype)
    (gradient,) = torch.autograd.grad(y, x, torch.full((9,), 1e-9))
    assert y.dtype == torch.float32
    torch.testing.assert_close(gradient, torch.full((9,), 3e-9), rtol=1e-2, atol=0)
