"""Reference renderer: dense Gaussian splatting in float64 torch, every pixel against every Gaussian. Slow and short.

Its derivatives come from autograd; test_cpu_projection.py checks them against central differences. The renderers are
compared on `random_scene` and `random_loss`.
"""

from typing import NamedTuple

import torch

from sctd.render.contract import Splats
from sctd.scene.cameras import random_views

ALPHA_MIN, ALPHA_MAX, TRANSMITTANCE_MIN = 1 / 255, 0.999, 1e-4


class Reference(NamedTuple):
    image: torch.Tensor  # [views, channels, height, width]
    alpha: torch.Tensor  # [views, height, width]
    depth: torch.Tensor  # [views, height, width], Σ z α T
    radii: torch.Tensor  # [views, num]


def rotation(quats):
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def rasterize(splats, cameras, backgrounds, *, antialiased=False, shift=0.0):
    """Like `sctd.render.cpu_autograd.rasterize`. `shift` [views, num, 2], zeros, is added to the projected means, so
    that its gradient is the gradient of the means.
    """
    means, quats, scales, opacities, colors = splats
    covariance = rotation(quats) @ torch.diag_embed(scales**2) @ rotation(quats).mT
    shift = shift + means.new_zeros(cameras.num, len(means), 2)
    views = [
        _view(
            means,
            covariance,
            opacities,
            colors[v],
            cameras.world_to_camera[v].double(),
            cameras.intrinsics[v].double(),
            (cameras.width, cameras.height),
            backgrounds[v],
            antialiased,
            shift[v],
        )
        for v in range(cameras.num)
    ]
    return Reference(*map(torch.stack, zip(*views, strict=True)))


def _view(means, covariance, opacities, colors, view, K, size, background, antialiased, shift):
    width, height = size
    focal, center, limits = K[[0, 1], [0, 1]], K[:2, 2], torch.tensor(size).double()
    W = view[:3, :3]
    in_camera = means @ W.T + view[:3, 3]
    z = in_camera[:, 2]
    kept = ((z >= 0.01) & (z <= 1e10)).nonzero()[:, 0]
    z, in_camera = z[kept], in_camera[kept]
    slope = in_camera[:, :2] / z[:, None]
    margin = 0.3 * 0.5 * limits / focal
    clamped = slope.clamp(-(center / focal + margin), (limits - center) / focal + margin)
    zero = torch.zeros_like(z)
    J = torch.stack(
        [focal[0] / z, zero, -focal[0] * clamped[:, 0] / z, zero, focal[1] / z, -focal[1] * clamped[:, 1] / z]
    )
    J = J.T.reshape(-1, 2, 3)
    sharp = J @ W @ covariance[kept] @ W.T @ J.mT
    blurred = sharp + 0.3 * torch.eye(2).double()
    opacity = opacities[kept]
    if antialiased:
        opacity = opacity * (sharp.det() / blurred.det()).clamp_min(0).sqrt()

    means2d = slope * focal + center
    variances = blurred.diagonal(dim1=-2, dim2=-1)
    reach = (2 * (opacity / ALPHA_MIN).clamp_min(1).log()).sqrt().clamp_max(3.33)
    radius = (reach[:, None] * variances.sqrt()).ceil()
    inside = ((means2d + radius > 0) & (means2d - radius < limits)).all(-1) & (opacity >= ALPHA_MIN)
    radii = torch.zeros(len(means), dtype=torch.int32)
    radii[kept] = torch.where(inside, radius.amax(-1), 0).detach().int()

    order = inside.nonzero()[:, 0][z[inside].sort(stable=True).indices]
    z, opacity, kept = z[order], opacity[order], kept[order]
    y, x = torch.meshgrid(torch.arange(height).double() + 0.5, torch.arange(width).double() + 0.5, indexing="ij")
    d = torch.stack([x, y], dim=-1).reshape(-1, 1, 2) - (means2d[order] + shift[kept])  # [pixels, Gaussians, 2]
    sigma = 0.5 * torch.einsum("pgi,gij,pgj->pg", d, blurred[order].inverse(), d)
    alpha = (opacity * (-sigma).exp()).clamp_max(ALPHA_MAX)
    alpha = torch.where(alpha >= ALPHA_MIN, alpha, 0.0)
    # Transmittance only decreases, so this comparison also skips every Gaussian after the first skipped one.
    alpha = torch.where((1 - alpha).cumprod(-1) > TRANSMITTANCE_MIN, alpha, 0.0)
    after = (1 - alpha).cumprod(-1)
    before = torch.cat([torch.ones(len(d), 1).double(), after], dim=-1)
    weight = alpha * before[:, :-1]
    left = before[:, -1]
    image = weight @ colors[kept] + left[:, None] * background
    pixels = image.T.reshape(-1, height, width), (1 - left).reshape(height, width)
    return *pixels, (weight @ z).reshape(height, width), radii


def leaves_of(splats, dtype=torch.float32, device="cpu"):
    """Copies of the tensors that get gradients."""
    return Splats(*(tensor.detach().to(device, dtype, copy=True).requires_grad_() for tensor in splats))


def random_scene(seed, *, num=200, views=3, size=40, scale=0.06, channels=3):
    """A ball of anisotropic Gaussians with random opacities, jittered cameras, and one background per camera."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num, 3, generator=generator)
    means = 0.75 * torch.nn.functional.normalize(means) * torch.rand(num, 1, generator=generator) ** (1 / 3)
    splats = Splats(
        means,
        torch.randn(num, 4, generator=generator),
        scale * torch.randn(num, 3, generator=generator).mul(0.5).exp(),
        torch.randn(num, generator=generator).mul(3).sigmoid(),
        torch.rand(views, num, channels, generator=generator),
    )
    cameras = random_views(
        generator,
        views,
        size=size,
        radius=(2.0, 3.0),
        fov_y_radians=(0.4, 0.8),
        elevation_degrees=(-30.0, 70.0),
        target_jitter=0.2,
    )
    return splats, cameras, torch.rand(views, channels, generator=generator)


def random_loss(image, alpha, depth, *, seed=0):
    """A fixed random linear function of image, alpha and depth."""
    generator = torch.Generator().manual_seed(seed)
    parts = (image, alpha, depth)
    weights = [torch.randn(part.shape, generator=generator).to(part) for part in parts]
    return sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True))
