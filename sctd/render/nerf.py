"""A neural radiance field: hash encoding and a small network (Müller et al. 2022), volume-rendered (Mildenhall 2020).

Each ray is sampled at even steps inside the box. Samples in empty cells of the occupancy grid are skipped, so that the
network sees only those near the object. Shading follows DreamFusion (Poole et al. 2022, Sec. 3.1), with normals from
differences of the density. A field may have a background of its own, which finished assets are shown without.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize, softplus

from sctd.render.contract import Rendering
from sctd.render.hash_grid import Levels, encode, has_triton
from sctd.scene.cameras import Cameras
from sctd.scene.gaussians import sh_basis
from sctd.transfer import to_device
from sctd.types import Images

AMBIENT, DIFFUSE = 0.1, 0.9  # of the light on a Lambertian surface: DreamFusion, App. A.2
SKY_DEGREE = 3  # of the spherical harmonics of a ray's direction, from which the background follows
NORMAL_STEP = 0.01  # world units between the densities whose difference is the normal


class Field(NamedTuple):
    """The architecture of a field, and the density that it starts from: scale · (1 − |x| / radius), before softplus."""

    levels: Levels
    hidden: int
    box: float  # half the edge, in world units
    blob_scale: float
    blob_radius: float  # world units
    sky_hidden: int = 0  # neurons of the network of the background; 0: there is none


@dataclass(frozen=True)
class Nerf:
    """Density and albedo of every point of a box around the origin: the table of the encoding and two linear layers.

    With `field.sky_hidden`, two more layers give the colour of the background in every direction.
    """

    table: Float[Tensor, "entries features"]
    first: Float[Tensor, "width hidden"]
    second: Float[Tensor, "hidden 4"]
    field: Field
    sky_first: Float[Tensor, "harmonics sky_hidden"] | None = None
    sky_second: Float[Tensor, "sky_hidden 3"] | None = None

    @classmethod
    def random(cls, field: Field, generator: torch.Generator) -> "Nerf":
        """The untrained field: a grey blob. Weights are uniform as in He et al. 2015, the table within ± 1e-4."""

        def uniform(rows: int, columns: int, bound: float) -> Tensor:
            return bound * (2 * torch.rand(rows, columns, generator=generator) - 1)

        def linear(rows: int, columns: int) -> Tensor:
            return uniform(rows, columns, math.sqrt(6 / rows))

        levels, num = field.levels, (SKY_DEGREE + 1) ** 2
        table = uniform(levels.entries, levels.features, 1e-4)
        layers = linear(levels.width, field.hidden), linear(field.hidden, 4)
        sky = (linear(num, field.sky_hidden), linear(field.sky_hidden, 3)) if field.sky_hidden else ()
        return cls(table, *layers, field, *sky)

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def map(self, function: Callable[[Tensor], Tensor]) -> "Nerf":
        """Apply one function to every weight."""
        return Nerf(**{name: function(tensor) for name, tensor in self.tensors().items()}, field=self.field)

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Nerf":
        """The same field with other weights of these names."""
        changed: dict[str, Any] = {**tensors}
        return replace(self, **changed)

    def to(self, device: torch.device | str) -> "Nerf":
        """The same field on another device."""
        return self.map(lambda tensor: tensor.to(device))

    def detach(self) -> "Nerf":
        """The same weights, detached from the autograd graph."""
        return self.map(torch.Tensor.detach)

    def __call__(self, xyz: Float[Tensor, "num 3"]) -> tuple[Float[Tensor, " num"], Float[Tensor, "num 3"]]:
        """Density per world unit, ≥ 0, and albedo in [0, 1], at points in world units."""
        box = self.field.box
        hidden = (encode(self.table, (xyz / box + 1) / 2, self.field.levels) @ self.first).relu()
        raw = hidden @ self.second
        blob = self.field.blob_scale * (1 - xyz.norm(dim=-1) / self.field.blob_radius)
        return softplus(raw[:, 0] + blob), raw[:, 1:].sigmoid()

    def sky(self, directions: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays 3"]:
        """The colour of the background, in [0, 1], in unit directions."""
        assert self.sky_first is not None
        assert self.sky_second is not None
        return ((sh_basis(directions, SKY_DEGREE) @ self.sky_first).relu() @ self.sky_second).sigmoid()

    def normals(self, xyz: Float[Tensor, "num 3"], density: Float[Tensor, " num"]) -> Float[Tensor, "num 3"]:
        """Unit directions in which the density falls, by differences over `NORMAL_STEP`."""
        ahead = xyz[:, None] + NORMAL_STEP * torch.eye(3).to(xyz)
        return normalize(density[:, None] - self(ahead.reshape(-1, 3))[0].reshape(-1, 3), dim=-1)


class Occupancy(NamedTuple):
    """The largest density that was seen lately in each cell of the box, whose values fall by a factor per update."""

    density: Float[Tensor, "cells cells cells"]
    threshold: float  # density of a cell from which it is not empty

    def is_occupied(self, xyz: Float[Tensor, "*shape 3"], box: float) -> Bool[Tensor, "*shape"]:
        """Whether points are in cells that are not empty."""
        cells = len(self.density)
        i, j, k = ((xyz / box + 1) / 2 * cells).long().clamp(0, cells - 1).unbind(-1)
        return (self.density > self.threshold)[i, j, k]

    def updated(self, nerf: Nerf, decay: float, generator: torch.Generator) -> "Occupancy":
        """After looking at a random point of each cell."""
        with torch.no_grad():
            cells = len(self.density)
            steps = torch.arange(cells)
            corners = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1)
            inside = (corners + torch.rand(corners.shape, generator=generator)) / cells
            xyz = nerf.field.box * (2 * inside - 1).reshape(-1, 3).to(self.density)
            seen = nerf(xyz)[0].reshape(self.density.shape)
        return self._replace(density=torch.maximum(decay * self.density, seen))


class Light(NamedTuple):
    """What an iteration draws: shading, place of the light, shift of the samples, and which background is behind."""

    shading: Literal["albedo", "lambertian", "textureless"]
    position: Float[Tensor, "3"]  # relative to the camera, in world units
    shift: Float[Tensor, "1"]  # of all samples, as a share of a step
    has_sky: bool = False  # the field's own background in place of a plain one


class Lit(NamedTuple):
    """A field, what of it is empty, how densely it is sampled, and its light: all that `render` needs."""

    nerf: Nerf
    occupancy: Occupancy
    steps: int
    light: Light | None = None  # without one: albedo, and samples in the middle of the steps

    def to(self, device: torch.device | str) -> "Lit":
        """The same on another device."""
        occupancy = self.occupancy._replace(density=self.occupancy.density.to(device))
        return self._replace(nerf=self.nerf.to(device), occupancy=occupancy)


def render(lit: Lit, cameras: Cameras, background: Float[Tensor, "views 3"] | Float[Tensor, "3"]) -> Rendering:
    """Render every camera by quadrature of the volume integral, with `steps` steps along the diagonal of the box.

    Steps have one length, so that a sample does not depend on the camera's distance. `depth` is accumulated z. Weights
    and background get gradients. `orientation` is Σ w max(0, n · d)² per pixel, which penalizes normals that point away
    from the camera (Verbin et al. 2022, Eq. 11), and None for albedo, which needs no normals.
    """
    nerf, device = lit.nerf, lit.nerf.table.device
    cameras, box = cameras.to(device), nerf.field.box
    shape = cameras.num, cameras.height, cameras.width
    # One by one and contiguous, so that the roundings of a view do not depend on the others.
    alone = [cameras.select(slice(view, view + 1)) for view in range(cameras.num)]
    centers = torch.cat([each.centers for each in alone])[:, None, None].expand(*shape, 3).reshape(-1, 3)
    one = torch.ones(1, *shape[1:], device=device)  # z of the rays
    rays = (
        torch.cat([each.unprojected(one) for each in alone]).permute(0, 2, 3, 1).reshape(-1, 3).contiguous() - centers
    )
    lengths = rays.norm(dim=-1)
    near, far = _inside(centers, rays / lengths[:, None], box)
    step = 2 * math.sqrt(3) * box / lit.steps
    shift = torch.full((1,), 0.5, device=device) if lit.light is None else to_device(lit.light.shift, device)
    with torch.no_grad():
        seen = _seen(lit, centers, rays, lengths, (near, far), (lit.steps, step, shift))
        ray = seen // lit.steps
        along = near[ray] + step * (seen % lit.steps + shift)
        xyz = centers[ray] + rays[ray] * (along / lengths[ray])[:, None]
    density, albedo = nerf(xyz)
    optical = _spread(density * step, seen, len(rays), lit.steps)
    before = optical.cumsum(dim=1) - optical
    weights = ((-before).exp() * -torch.expm1(-optical)).flatten().gather(0, seen)
    colour, orientation = albedo, None

    def over_rays(values: Float[Tensor, " num"]) -> Float[Tensor, " rays"]:
        return _spread(values, seen, len(rays), lit.steps).sum(dim=1)

    if lit.light is not None and lit.light.shading != "albedo":
        normals = nerf.normals(xyz, density)
        colour = _shaded(albedo, normals, xyz, centers[ray], lit.light)
        away = (normals * rays[ray] / lengths[ray][:, None]).sum(-1).relu().square()
        orientation = over_rays(weights.detach() * away).reshape(shape)
    alpha = 1 - (-optical.sum(dim=1)).exp()
    rgb = torch.stack([over_rays(weights * channel) for channel in colour.unbind(dim=1)], dim=1)
    depth = over_rays(weights * along / lengths[ray])
    behind = background.to(device).expand(cameras.num, 3)[:, None, None].expand(*shape, 3).reshape(-1, 3)
    if lit.light is not None and lit.light.has_sky:
        behind = nerf.sky(rays / lengths[:, None])
    image = (rgb + (1 - alpha)[:, None] * behind).reshape(*shape, 3).permute(0, 3, 1, 2)
    return Rendering(image, alpha.reshape(shape), depth.reshape(shape), None, None, orientation)


@torch.no_grad()
def render_on_white(lit: Lit, cameras: Cameras) -> Images:
    """The colours of every view on white, as the metrics see an asset: [views, 3, height, width] in [0, 1]."""
    return render(lit, cameras, torch.ones(3)).rgb.clamp(max=1)


def _seen(
    lit: Lit,
    centers: Float[Tensor, "rays 3"],
    rays: Float[Tensor, "rays 3"],
    lengths: Float[Tensor, " rays"],
    ends: tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]],
    samples: tuple[int, float, Float[Tensor, "1"]],
) -> Int[Tensor, " num"]:
    """Numbers of the samples between the ends of their rays, in cells that are not empty; sample s of ray r is r S + s.

    `samples`: their number S per ray, step and shift.
    """
    box, (near, far), (steps, step, shift) = lit.nerf.field.box, ends, samples
    if rays.device.type == "cuda" and has_triton():
        from sctd.render.sampling_triton import occupied

        cells = lit.occupancy.density > lit.occupancy.threshold
        return occupied(centers, rays, lengths, ends, samples, cells, box).flatten().nonzero().squeeze(1)
    distance = near[:, None] + step * (torch.arange(steps, device=rays.device) + shift)
    inside = (distance < far[:, None]).flatten().nonzero().squeeze(1)
    ray = inside // steps
    xyz = centers[ray] + rays[ray] * (distance.flatten()[inside] / lengths[ray])[:, None]
    return inside[lit.occupancy.is_occupied(xyz, box)]


def _spread(values: Float[Tensor, " num"], seen: Int[Tensor, " num"], rays: int, steps: int) -> Tensor:
    """The values of samples, [rays, steps], with 0 for all others. Gradients need no sorting: numbers are different."""
    return values.new_zeros(rays * steps).scatter(0, seen, values).view(rays, steps)


def _inside(
    origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"], box: float
) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Distances at which rays enter and leave the box; the second is not larger for rays that miss it."""
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    ends = torch.stack([(-box - origins) / safe, (box - origins) / safe])
    return ends.amin(dim=0).amax(dim=-1).clamp(min=0), ends.amax(dim=0).amin(dim=-1)


def _shaded(
    albedo: Float[Tensor, "num 3"],
    normals: Float[Tensor, "num 3"],
    xyz: Float[Tensor, "num 3"],
    centers: Float[Tensor, "num 3"],
    light: Light,
) -> Float[Tensor, "num 3"]:
    """Lambertian reflection of a point light and of ambient light; without texture the albedo is white."""
    towards = normalize(centers + light.position.to(centers) - xyz, dim=-1)
    brightness = AMBIENT + DIFFUSE * (normals * towards).sum(-1, keepdim=True).relu()
    return brightness * (torch.ones_like(albedo) if light.shading == "textureless" else albedo)
