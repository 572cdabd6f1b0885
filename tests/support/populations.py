"""Populations of Gaussians for the tests of densification, relocation and bounds."""

import torch

from sctd.scene.gaussians import Gaussians
from sctd.scene.population import Population


def random_population(num: int = 6, *, scale: float = 0.05, opacity: float = 0.5, seed: int = 0) -> Population:
    """All numbers differ, including moments and statistics."""
    generator = torch.Generator().manual_seed(seed)

    def gaussians() -> Gaussians:
        return Gaussians(
            torch.randn(num, 3, generator=generator),
            torch.full((num, 3), scale).log() - 0.01 * torch.rand(num, 3, generator=generator),
            torch.randn(num, 4, generator=generator),
            torch.full((num,), opacity).logit() + 0.01 * torch.rand(num, generator=generator),
            torch.randn(num, 1, 3, generator=generator),
        )

    statistics = torch.rand(3, num, generator=generator)
    return Population(gaussians(), gaussians(), gaussians(), 0.1 * statistics[0], statistics[1], statistics[2])


def rows(gaussians: Gaussians) -> torch.Tensor:
    return torch.cat([tensor.reshape(gaussians.num, -1) for tensor in gaussians.tensors().values()], dim=1)


def assert_same_rows(left: Population, right: Population) -> None:
    for name in ("gaussians", "first_moment", "second_moment"):
        assert torch.equal(rows(getattr(left, name)), rows(getattr(right, name))), name


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
