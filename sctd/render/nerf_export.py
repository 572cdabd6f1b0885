"""A radiance field as Gaussians, for files and viewers of splats: one for each visible cell of a grid."""

import torch

from sctd.errors import SctdError
from sctd.render.nerf import Lit
from sctd.scene.gaussians import Gaussians, rgb_to_sh

CELLS = 96  # along an edge of the box
FAINT, OPAQUE = 0.05, 0.95  # of a cell: below, it is left out; above, it hides what is behind it
SPREAD = 0.35  # standard deviation of a Gaussian, in cells
_POINTS_AT_ONCE = 2**17


class EmptyFieldError(SctdError):
    """This field has nothing to see."""


@torch.no_grad()
def to_gaussians(lit: Lit, cells: int = CELLS) -> Gaussians:
    """Round Gaussians in the middle of the visible cells, with the cell's opacity and albedo, of SH degree 0.

    A cell is hidden if its six neighbours are opaque. Measured on a duck of `embedded-nerf`: 36,876 Gaussians, whose
    views differ from the field's by 33.5 dB at 128 px and 35.4 dB at 512 px (PSNR). Larger ones blur, smaller ones
    leave gaps. Raises EmptyFieldError.
    """
    box, steps = lit.nerf.field.box, torch.arange(cells)
    edge = 2 * box / cells
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1).reshape(-1, 3)
    xyz = edge * (grid + 0.5) - box
    seen = lit.occupancy.is_occupied(xyz, box).nonzero().squeeze(-1)
    if not len(seen):
        raise EmptyFieldError("The NeRF is empty: no cell has any density. Check the turntable first.")
    parts = [lit.nerf(xyz[some]) for some in seen.split(_POINTS_AT_ONCE)]
    density, albedo = (torch.cat(each) for each in zip(*parts, strict=True))
    alpha = torch.zeros(cells**3)
    alpha[seen] = 1 - (-density * edge).exp()
    rgb = torch.zeros(cells**3, 3)
    rgb[seen] = albedo
    padded = torch.nn.functional.pad(alpha.reshape(cells, cells, cells), (1,) * 6)
    inside = slice(1, -1)
    sides = [padded[:-2, inside, inside], padded[2:, inside, inside], padded[inside, :-2, inside]]
    sides += [padded[inside, 2:, inside], padded[inside, inside, :-2], padded[inside, inside, 2:]]
    is_hidden = torch.stack(sides).amin(dim=0).reshape(-1) > OPAQUE
    kept = ((alpha > FAINT) & ~is_hidden).nonzero().squeeze(-1)
    if not len(kept):
        raise EmptyFieldError("The NeRF is transparent: no cell shows anything. Check the turntable first.")
    return Gaussians(
        means=xyz[kept],
        log_scales=torch.full((len(kept), 3), SPREAD * edge).log(),
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(kept), 1),
        logit_opacities=alpha[kept].clamp(max=0.999).logit(),
        sh=rgb_to_sh(rgb[kept])[:, None],
    )
