"""Axis conventions of file formats: rotate Gaussians from our world (z up, front +x) to others and back."""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.formats.common import FormatError
from sctd.scene.gaussians import Gaussians, sh_basis

# Keyed by the up axis. Rows: the file's x, y and z axes in our world; x is the object's left, on the right in a view.
AXES = {
    "z": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),  # ours: front +x
    "y": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),  # glTF, OpenGL ("RUB"): front +z
    "-y": ((0, 1, 0), (0, 0, -1), (-1, 0, 0)),  # OpenCV, COLMAP ("RDF"), so most captured scenes: front -z
}
_SIMILARITY = 1e-3  # by which a rotation of a file, in float32 and perhaps shortened, may be off
_DIRECTIONS = 64  # more than the 16 SH basis functions: coefficients of a rotated function follow from its values


def axes(up: str) -> Float[Tensor, "3 3"]:
    """The rotation from our world to the axes of a file in which `up` ("z", "y", "-y") points up."""
    return torch.tensor(AXES[up], dtype=torch.float64)


def rotated(gaussians: Gaussians, rotation: Float[Tensor, "3 3"]) -> Gaussians:
    """The object after this rotation: positions, orientations and view-dependent colours."""
    if torch.equal(rotation, torch.eye(3).to(rotation)):
        return gaussians
    quaternion = _quaternion(rotation.double())
    return Gaussians(
        means=(gaussians.means.double() @ rotation.double().T).to(gaussians.means),
        log_scales=gaussians.log_scales,
        quats=_product(quaternion, gaussians.quats.double()).to(gaussians.quats),
        logit_opacities=gaussians.logit_opacities,
        sh=_rotated_sh(gaussians.sh, gaussians.sh_degree, rotation.double()),
    )


def transformed(
    gaussians: Gaussians, rotation: Float[Tensor, "3 3"], scale: float, shift: Float[Tensor, "3"]
) -> Gaussians:
    """The object after x -> scale R x + shift."""
    turned = rotated(gaussians, rotation)
    means = scale * turned.means.double() + shift.to(turned.means).double()
    return replace(turned, means=means.to(turned.means), log_scales=turned.log_scales + math.log(scale))


def placed(gaussians: Gaussians, matrix: Float[Tensor, "4 4"]) -> Gaussians:
    """The object after a node's transform of column vectors. Raises FormatError unless it keeps all angles."""
    linear, shift = matrix[:3, :3].double(), matrix[:3, 3].double()
    determinant = float(torch.linalg.det(linear))
    scale = determinant ** (1 / 3) if determinant > 0 else math.nan  # negative: mirrored
    rotation, identity = linear / scale, torch.eye(3, dtype=torch.float64)
    keeps_angles = torch.allclose(rotation @ rotation.T, identity, rtol=0, atol=_SIMILARITY)
    if not keeps_angles or matrix[3].tolist() != [0, 0, 0, 1] or not shift.isfinite().all():
        raise FormatError(
            "The file has a node that mirrors or stretches its Gaussians; expected rotations, shifts and one scale "
            "for all axes. Apply the transforms, then export it again."
        )
    if torch.equal(matrix.double(), torch.eye(4, dtype=torch.float64)):
        return gaussians
    return transformed(gaussians, rotation, scale, shift)


def _rotated_sh(
    sh: Float[Tensor, "num basis 3"], degree: int, rotation: Float[Tensor, "3 3"]
) -> Float[Tensor, "num basis 3"]:
    """Coefficients c' with Y(R d) c' = Y(d) c for all d. SH up to a degree are closed under rotation."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(_DIRECTIONS, 3, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    old, new = sh_basis(directions, degree), sh_basis(directions @ rotation.T, degree)
    change = torch.linalg.lstsq(new, old).solution
    return torch.einsum("jk,nkc->njc", change, sh.double()).to(sh)


def _quaternion(rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "4"]:
    """(w, x, y, z) of a rotation: an eigenvector of Bar-Itzhack's matrix (2000), without case distinctions."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation.tolist()
    matrix = torch.tensor(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, xy + yx, xz + zx],
            [xz - zx, xy + yx, yy - xx - zz, yz + zy],
            [yx - xy, xz + zx, yz + zy, zz - xx - yy],
        ],
        dtype=torch.float64,
    )
    return torch.linalg.eigh(matrix).eigenvectors[:, -1]


def _product(first: Float[Tensor, "4"], second: Float[Tensor, "num 4"]) -> Float[Tensor, "num 4"]:
    """Hamilton product: rotate by `second`, then by `first`."""
    a, u = first[0], first[1:]
    b, v = second[:, :1], second[:, 1:]
    return torch.cat([a * b - v @ u[:, None], a * v + b * u + torch.linalg.cross(u.expand_as(v), v)], dim=1)
