"""Gaussian splatting in plain torch: project all Gaussians, then blend them tile by tile from front to back.

Only the speed benchmark uses it, as the baseline on a CPU. Its images equal those of the other renderers.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from sctd.render.contract import Rasterized, Splats
from sctd.scene.cameras import Cameras
from sctd.scene.gaussians import rotations

TILE = 16
ALPHA_MIN, ALPHA_MAX, TRANSMITTANCE_MIN, BLUR, NEAR = 1 / 255, 0.999, 1e-4, 0.3, 0.01


def rasterize(
    splats: Splats, cameras: Cameras, backgrounds: Float[Tensor, "views channels"], *, antialiased: bool = False
) -> Rasterized:
    """Like `sctd.render.cpu_autograd.rasterize`, without antialiasing."""
    assert not antialiased
    means, quats, scales, opacities, colors = splats
    rotation, size = rotations(quats), torch.tensor([cameras.width, cameras.height])
    half = rotation * scales[:, None, :]
    view = cameras.world_to_camera
    inside = torch.einsum("vij,nj->vni", view[:, :3, :3], means) + view[:, None, :3, 3]
    depth = inside[..., 2].clamp(min=NEAR)
    focal, center = cameras.intrinsics[:, [0, 1], [0, 1]][:, None], cameras.intrinsics[:, None, :2, 2]
    slope = inside[..., :2] / depth[..., None]
    means2d = slope * focal + center
    if means2d.requires_grad:
        means2d.retain_grad()
    margin = 0.3 * 0.5 * size / focal
    clamped = torch.minimum(torch.maximum(slope, -(center / focal + margin)), (size - center) / focal + margin)
    jacobian = torch.zeros(*depth.shape, 2, 3)
    jacobian[..., 0, 0], jacobian[..., 1, 1] = focal[..., 0] / depth, focal[..., 1] / depth
    jacobian[..., 2] = -focal * clamped / depth[..., None]
    flat = jacobian @ view[:, None, :3, :3] @ half
    covariance = flat @ flat.mT + BLUR * torch.eye(2)
    reach = (2 * (opacities / ALPHA_MIN).clamp(min=1).log()).sqrt().clamp(max=3.33)
    extents = (reach[:, None] * covariance.diagonal(dim1=-2, dim2=-1).sqrt()).detach().ceil()
    visible = (inside[..., 2] >= NEAR) & (opacities >= ALPHA_MIN)
    conics = covariance.inverse()
    parts = [
        _view(means2d[v], conics[v], extents[v], visible[v], opacities, colors[v], depth[v], backgrounds[v], cameras)
        for v in range(cameras.num)
    ]
    image, alpha, depths = (torch.stack(each) for each in zip(*parts, strict=True))
    on_screen = visible & ((means2d + extents > 0) & (means2d - extents < size)).all(-1)
    return Rasterized(image, alpha, depths, means2d, torch.where(on_screen, extents.amax(-1), 0).int())


def _view(
    means2d: Tensor, conics: Tensor, extents: Tensor, visible: Tensor, opacities: Tensor, colors: Tensor, depth: Tensor,
    background: Tensor, cameras: Cameras,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    order = depth.argsort(stable=True)
    order = order[visible[order]]
    columns, rows = -(-cameras.width // TILE), -(-cameras.height // TILE)
    y, x = torch.meshgrid(torch.arange(TILE) + 0.5, torch.arange(TILE) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
    channels = torch.cat([colors, depth[:, None]], dim=-1)
    tiles = []
    for number in range(rows * columns):
        low = TILE * torch.tensor([number % columns, number // columns])
        near = ((means2d + extents > low) & (means2d - extents < low + TILE)).all(-1)
        chosen = order[near[order]]
        offset = pixels + low - means2d[chosen]
        power = -0.5 * torch.einsum("pgi,gij,pgj->pg", offset, conics[chosen], offset)
        alpha = (opacities[chosen] * power.exp()).clamp(max=ALPHA_MAX)
        alpha = torch.where(alpha >= ALPHA_MIN, alpha, 0.0)
        alpha = torch.where((1 - alpha).cumprod(-1) > TRANSMITTANCE_MIN, alpha, 0.0)
        after = (1 - alpha).cumprod(-1)
        before = pad(after, (1, 0), value=1.0)
        tiles.append(torch.cat([(alpha * before[:, :-1]) @ channels[chosen], before[:, -1:]], dim=-1))
    grid = torch.stack(tiles).reshape(rows, columns, TILE, TILE, -1).permute(4, 0, 2, 1, 3)
    image = grid.reshape(-1, rows * TILE, columns * TILE)[:, : cameras.height, : cameras.width]
    left = image[-1]
    return image[:-2] + left * background[:, None, None], 1 - left, image[-2]
