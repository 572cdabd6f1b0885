"""The asset: a set of 3D Gaussians with view-dependent colour (Kerbl et al. 2023, Sec. 4 and App. A).

Fields hold the optimized parameters (logarithms, logits, spherical harmonics). Properties give the values that the
renderer needs (lengths, probabilities). World axes: right-handed, z up, the front of an object faces +x.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sctd.errors import SctdError

# Real spherical harmonics in the order and with the signs of 3DGS: l = 0, then l = 1 (y, z, x), l = 2, l = 3.
SH_C0 = 0.28209479177387814
SH_C1 = 0.4886025119029199
SH_C2 = 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
SH_C3 = 0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277


@dataclass(frozen=True)
class Gaussians:
    """`num` Gaussians. Lengths are in world units. Quaternions are (w, x, y, z) of any nonzero length.

    `sh[:, 0]` is the constant term: rgb = 0.5 + 0.28209479 sh[:, 0] for a Gaussian of degree 0 (`basis` = 1);
    `basis` is 1, 4, 9 or 16 for degree 0, 1, 2, 3.
    """

    means: Float[Tensor, "num 3"]
    log_scales: Float[Tensor, "num 3"]
    quats: Float[Tensor, "num 4"]
    logit_opacities: Float[Tensor, " num"]
    sh: Float[Tensor, "num basis 3"]

    @property
    def num(self) -> int:
        """Number of Gaussians."""
        return self.means.shape[0]

    def with_sh_degree(self, degree: int) -> "Gaussians":
        """The Gaussians with the harmonics up to a degree; missing ones are zero."""
        num_basis = (degree + 1) ** 2
        padding = self.sh.new_zeros(self.num, max(0, num_basis - self.sh.shape[1]), 3)
        return replace(self, sh=torch.cat([self.sh[:, :num_basis], padding], dim=1))

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics: 0 (one colour for all directions) to 3."""
        return sh_degree(self.sh.shape[1])

    @property
    def scales(self) -> Float[Tensor, "num 3"]:
        """Standard deviations along the three axes, in world units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Float[Tensor, " num"]:
        """Opacity of the centre, in (0, 1)."""
        return self.logit_opacities.sigmoid()

    def tensors(self) -> dict[str, Tensor]:
        """The five tensors by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def map(self, function: Callable[[Tensor], Tensor]) -> "Gaussians":
        """Apply one function to every tensor."""
        return Gaussians(**{name: function(tensor) for name, tensor in self.tensors().items()})

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Gaussians":
        """The Gaussians with other tensors of these names."""
        return replace(self, **tensors)

    def select(self, index: Int[Tensor, " selected"] | Bool[Tensor, " num"]) -> "Gaussians":
        """The Gaussians at these indices (repeats allowed), or where the mask is true."""
        return self.map(lambda tensor: tensor[index])

    def concatenate(self, *others: "Gaussians") -> "Gaussians":
        """These Gaussians followed by the others; all have the same SH degree."""
        degrees = sorted({gaussians.sh_degree for gaussians in (self, *others)})
        if len(degrees) > 1:
            raise SctdError(f"Gaussians of SH degrees {degrees} cannot be concatenated: give them one degree first.")
        parts = [gaussians.tensors() for gaussians in (self, *others)]
        return Gaussians(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def to(self, device: torch.device | str) -> "Gaussians":
        """The same Gaussians on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def detach(self) -> "Gaussians":
        """The same values, detached from the autograd graph."""
        return self.map(torch.Tensor.detach)

    def colors(self, camera_centers: Float[Tensor, "views 3"]) -> Float[Tensor, "views num 3"]:
        """RGB of every Gaussian seen from every camera, ≥ 0 and not clamped above (Kerbl et al. 2023, code)."""
        if self.sh_degree == 0:
            rgb = sh_to_rgb(self.sh[:, 0]).clamp_min(0)
            return rgb.expand(camera_centers.shape[0], -1, -1)
        directions = torch.nn.functional.normalize(self.means - camera_centers[:, None], dim=-1)
        basis = sh_basis(directions, self.sh_degree)
        return (0.5 + torch.einsum("vnk,nkc->vnc", basis, self.sh)).clamp_min(0)


def rgb_to_sh(rgb: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The constant SH coefficient of a colour."""
    return (rgb - 0.5) / SH_C0


def sh_to_rgb(constant: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The colour of a constant SH coefficient."""
    return 0.5 + SH_C0 * constant


def srgb_to_linear(rgb: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Linear light in [0, 1] of sRGB colours (IEC 61966-2-1)."""
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def rotations(quats: Float[Tensor, "num 4"]) -> Float[Tensor, "num 3 3"]:
    """Rotation matrices of quaternions (w, x, y, z) of any nonzero length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def sh_degree(num_basis: int) -> int:
    """The SH degree with `num_basis` basis functions. Raises SctdError unless that is 1, 4, 9 or 16."""
    degrees = {1: 0, 4: 1, 9: 2, 16: 3}
    if num_basis not in degrees:
        raise SctdError(f"{num_basis} spherical harmonics per Gaussian; expected 1, 4, 9 or 16 (degree 0 to 3).")
    return degrees[num_basis]


def sh_basis(directions: Float[Tensor, "*shape 3"], degree: int) -> Float[Tensor, "*shape basis"]:
    """Real spherical harmonics of unit directions (camera to Gaussian), up to `degree` ≤ 3."""
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        basis += [-SH_C1 * y, SH_C1 * z, -SH_C1 * x]
    if degree >= 2:
        a, b, c = SH_C2
        basis += [a * x * y, -a * y * z, b * (3 * z * z - 1), -a * x * z, c * (x * x - y * y)]
    if degree >= 3:
        a, b, c, d, e = SH_C3
        basis += [
            -a * y * (3 * x * x - y * y),
            b * x * y * z,
            -c * y * (5 * z * z - 1),
            d * z * (5 * z * z - 3),
            -c * x * (5 * z * z - 1),
            e * z * (x * x - y * y),
            -a * x * (x * x - 3 * y * y),
        ]
    return torch.stack(basis, dim=-1)
