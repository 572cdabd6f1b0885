"""View embeddings that are one-hot, so that a mixture of views can be read off its components."""

import torch

from sctd.diffusion.guidance import ViewText

FRONT, SIDE, BACK, OVERHEAD = torch.eye(4, dtype=torch.float64)[:, None]
VIEWS = ViewText(FRONT, SIDE, BACK, OVERHEAD)


def degrees(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
