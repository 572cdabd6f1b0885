"""The start of a NeRF from a point cloud: the field is fitted to it before the first iteration."""

from dataclasses import replace

import torch
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from sctd.render.nerf import Nerf
from sctd.scene.gaussians import Gaussians, sh_to_rgb

STEPS, POINTS = 300, 4096  # of the fit; points per step, half of them anywhere in the box
RATE = 0.01  # of Adam
WIDTH = 2.0  # the solid around a point, in standard deviations of its Gaussian
ABSORBING = 0.1  # world units of solid that absorb nearly all light


def fitted(nerf: Nerf, cloud: Gaussians, generator: torch.Generator) -> Nerf:
    """The field after `STEPS` of Adam towards a solid of the cloud's colours: opaque near its points, empty elsewhere.

    What it does not reach is left out: points outside the box. The result is on the device of the field.
    """
    cloud = cloud.to("cpu")
    tree, radii = cKDTree(cloud.means.numpy()), WIDTH * cloud.scales.mean(dim=-1)
    rgb = sh_to_rgb(cloud.sh[:, 0]).clamp(0, 1)
    leaves = nerf.map(lambda tensor: tensor.detach().clone().requires_grad_())
    weights = [tensor for name, tensor in leaves.tensors().items() if not name.startswith("sky")]
    adam = torch.optim.Adam(weights, lr=RATE, eps=1e-15)
    for _ in range(STEPS):
        xyz = _places(cloud.means, radii, nerf.field.box, generator)
        distance, nearest = map(torch.from_numpy, tree.query(xyz.numpy()))
        is_solid = (distance < radii[nearest]).to(nerf.table)
        density, albedo = leaves(xyz.to(nerf.table))
        alpha = -torch.expm1(-ABSORBING * density)
        colour = is_solid[:, None] * (albedo - rgb[nearest].to(albedo)).square()
        loss = binary_cross_entropy(alpha, is_solid) + colour.mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return replace(leaves.detach(), field=nerf.field)


def _places(
    means: Float[Tensor, "num 3"], radii: Float[Tensor, " num"], box: float, generator: torch.Generator
) -> Float[Tensor, "points 3"]:
    """Points anywhere in the box, and points around those of the cloud."""
    anywhere = box * (2 * torch.rand(POINTS // 2, 3, generator=generator) - 1)
    chosen = torch.randint(len(means), (POINTS // 2,), generator=generator)
    spread = radii[chosen, None] * torch.randn(POINTS // 2, 3, generator=generator)
    return torch.cat([anywhere, (means[chosen] + spread).clamp(-box, box)])
