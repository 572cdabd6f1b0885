"""Image damages with a strength. A reward model must give a lower reward the stronger the damage is.

Images are [B, 3, S, S] in [0, 1]; `strength` [B] is in 0..1, where 0 leaves the image unchanged.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.embedded import augment

VISIBLE = 0.008
"""Mean change of a colour value below which a damage has missed the object, so the pair is ignored."""


def blur(images: Tensor, strength: Tensor) -> Tensor:
    """Gaussian blur with a standard deviation of 4 x strength pixels, renormalised at the border."""
    return blur_by(images, 4 * strength)


def blur_by(images: Tensor, pixels: Tensor) -> Tensor:
    """Gaussian blur with standard deviation `pixels` [B]: the same matrix for rows and columns."""
    place = torch.arange(images.shape[-1], device=images.device, dtype=images.dtype)
    distance = (place[:, None] - place) ** 2
    matrix = torch.exp(-0.5 * distance / pixels.clamp(min=1e-3)[:, None, None] ** 2)
    matrix = (matrix / matrix.sum(-1, keepdim=True))[:, None]
    return matrix @ images @ matrix.transpose(-1, -2)


def floaters(images: Tensor, strength: Tensor, blobs: int = 12) -> Tensor:
    """Soft ellipses in the object's colours at random places, as stray Gaussians cause."""
    batch, _, size, _ = images.shape
    device = images.device
    place = torch.linspace(-1, 1, size, device=device)
    colours = images.flatten(2).gather(2, _object_pixels(images, blobs)[:, None].expand(-1, 3, -1))
    for blob in range(blobs):
        x, y = (1.8 * torch.rand(2, batch, 1, 1, device=device) - 0.9).unbind()
        width, height = (0.04 + 0.12 * torch.rand(2, batch, 1, 1, device=device)).unbind()
        opacity = strength[:, None, None] * (0.4 + 0.6 * torch.rand(batch, 1, 1, device=device))
        mask = opacity * torch.exp(-0.5 * (((place - x) / width) ** 2 + ((place[:, None] - y) / height) ** 2))
        images = torch.lerp(images, colours[:, :, blob, None, None].expand_as(images), mask[:, None])
    return images


def smear(images: Tensor, strength: Tensor) -> Tensor:
    """Displace pixels by a smooth random field: melted shapes."""
    return augment.smear(images, 0.12 * strength)


def grain(images: Tensor, strength: Tensor) -> Tensor:
    """Noise one or two pixels in size, as from splats too small to overlap."""
    noise = torch.randn_like(images)
    noise = (noise + F.avg_pool2d(noise, 3, stride=1, padding=1) * 2) / 1.2
    return (images + 0.15 * strength[:, None, None, None] * noise).clamp(0, 1)


def saturate(images: Tensor, strength: Tensor) -> Tensor:
    """Increase saturation and contrast, as too much guidance does."""
    factor = strength[:, None, None, None]
    grey = images.mean(1, keepdim=True)
    vivid = grey + (1 + 4 * factor) * (images - grey)
    return ((1 + factor) * (vivid - 0.5) + 0.5).clamp(0, 1)


def cut_out(images: Tensor, strength: Tensor) -> Tensor:
    """Replace a disc of the object by the background of its rows: a missing part."""
    size = images.shape[-1]
    centre = _object_pixels(images, 1)
    place = torch.arange(size, device=images.device)
    y, x = place[:, None] - (centre // size)[..., None], place[None] - (centre % size)[..., None]
    inside = torch.hypot(y.float(), x.float()) < 0.4 * size * strength[:, None, None]
    return torch.where(inside[:, None], _background(images), images)


def _background(images: Tensor) -> Tensor:
    """[B, 3, S, 1]: in the synthetic world it is constant along a row, so the border pixels give it."""
    return (images[..., :1] + images[..., -1:]) / 2


def _object_pixels(images: Tensor, count: int) -> Tensor:
    """Flat indices [B, count] of random pixels that differ from the background."""
    differs = ((images - _background(images)).abs().sum(1) > 0.15).flatten(1)
    return torch.multinomial(differs.float() + 1e-6, count, replacement=True)


def push_out(images: Tensor, strength: Tensor) -> Tensor:
    """Shift the image by 0.25 to 0.7 of its size in a random direction (0: no shift); the border cuts the object."""
    batch = len(images)
    turn = 2 * torch.pi * torch.rand(batch, device=images.device)
    shift = (strength > 0)[:, None] * (0.5 + 0.9 * strength[:, None]) * torch.stack([turn.cos(), turn.sin()], 1)
    placed = torch.eye(2, 3, device=images.device).repeat(batch, 1, 1)
    placed[:, :, 2] = shift
    grid = F.affine_grid(placed, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def two_faces(images: Tensor, strength: Tensor) -> Tensor:
    """One half and its mirror image if strength is above 0: a side view with two fronts (the Janus problem)."""
    left = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    columns = torch.arange(images.shape[-1], device=images.device) < images.shape[-1] // 2
    mirrored = torch.where(columns == left, images, images.flip(-1))
    return torch.where((strength > 0)[:, None, None, None], mirrored, images)


DAMAGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "blur": blur,
    "floaters": floaters,
    "smear": smear,
    "grain": grain,
    "saturate": saturate,
    "cut_out": cut_out,
    "push_out": push_out,
    "two_faces": two_faces,
}
ALL_OR_NOTHING = ("push_out", "two_faces")
"""Damages without a mild form: a small shift cuts nothing off."""


def visible(name: str, better: Tensor, worse: Tensor) -> Tensor:
    """Bool [B]: images that the damage `name` changed visibly. A mirrored ball is the same ball in another light."""
    change = (better - worse).abs().mean((1, 2, 3))
    return change > (3 * VISIBLE if name == "two_faces" else VISIBLE)


class DamagedPair(NamedTuple):
    """Two versions of a batch [B, 3, S, S]; `sure` is bool [B]: the second is visibly worse."""

    mild: Tensor
    bad: Tensor
    sure: Tensor


def damaged_pairs(images: Tensor) -> DamagedPair:
    """Clean or mildly damaged images, and the same with more of the same damage; all damages in equal shares."""
    made, device = [], images.device
    for (name, damage), part in zip(DAMAGES.items(), images.tensor_split(len(DAMAGES)), strict=True):
        start = 0.5 * torch.rand(len(part), device=device) * (torch.rand(len(part), device=device) < 0.5)
        if name in ALL_OR_NOTHING:
            start = torch.zeros_like(start)
        end = start + 0.2 + (0.8 - start) * torch.rand(len(part), device=device)
        mild = torch.where((start > 0)[:, None, None, None], damage(part, start), part)
        bad = damage(part, end)
        made.append(DamagedPair(mild, bad, visible(name, mild, bad)))
    return DamagedPair(*(torch.cat(tensors) for tensors in zip(*made, strict=True)))
