"""Artefacts typical of distilled Gaussian splats: blur, floaters, smears, noise.

The scorer and the gate classifier are trained on them too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def blur(images: Tensor, factor: Tensor) -> Tensor:
    """Low-pass [B,3,H,W] by mixing with a smoothed copy; `factor` [B] in 0..1."""
    smooth = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    return torch.lerp(images, smooth, factor[:, None, None, None])


def floaters(images: Tensor, blobs: int, strength: Tensor) -> Tensor:
    """Blend `blobs` soft ellipses, coloured as pixels of the same image, over each image; `strength` [B] in 0..1."""
    batch, _, height, width = images.shape
    device = images.device
    axis_y = torch.linspace(-1, 1, height, device=device)[:, None]
    axis_x = torch.linspace(-1, 1, width, device=device)[None]
    for _ in range(blobs):
        x, y = (1.4 * torch.rand(2, batch, 1, 1, device=device) - 0.7).unbind()
        size_x, size_y = (0.02 + 0.10 * torch.rand(2, batch, 1, 1, device=device) ** 2).unbind()
        opacity = strength[:, None, None] * torch.rand(batch, 1, 1, device=device)
        pixel = torch.randint(height * width, (batch, 1, 1), device=device).expand(-1, 3, 1)
        colour = images.flatten(2).gather(2, pixel)[..., None]
        mask = opacity * torch.exp(-0.5 * (((axis_x - x) / size_x) ** 2 + ((axis_y - y) / size_y) ** 2))
        images = torch.lerp(images, colour.expand_as(images), mask[:, None])
    return images


def smear(images: Tensor, strength: Tensor, cells: int = 8) -> Tensor:
    """Displace pixels by a smooth random field of `strength` [B] (in units of half the image)."""
    batch, _, height, width = images.shape
    field = torch.randn(batch, 2, cells, cells, device=images.device) * strength[:, None, None, None]
    field = F.interpolate(field, (height, width), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    eye = torch.eye(2, 3, device=images.device).expand(batch, 2, 3)
    grid = F.affine_grid(eye, [batch, 3, height, width], align_corners=False)
    return F.grid_sample(images, grid + field, padding_mode="border", align_corners=False)


def like_splats(images: Tensor) -> Tensor:
    """Apply random mild artefacts of all kinds to half of a batch [B,3,H,W] in [-1,1]."""
    batch, device = len(images), images.device

    def some(share: float, most: float) -> Tensor:
        return most * torch.rand(batch, device=device) * (torch.rand(batch, device=device) < share)

    damaged = smear(images, some(0.6, 0.05))
    damaged = floaters(damaged, 6, some(0.6, 0.9))
    damaged = blur(damaged, some(0.7, 1.0))
    damaged = damaged + some(0.4, 0.08)[:, None, None, None] * torch.randn_like(damaged)
    gain = 1 + 0.4 * (torch.rand(batch, 1, 1, 1, device=device) - 0.5)
    damaged = (damaged * gain).clamp(-1, 1)
    chosen = (torch.rand(batch, device=device) < 0.5)[:, None, None, None]
    return torch.where(chosen, damaged, images)
