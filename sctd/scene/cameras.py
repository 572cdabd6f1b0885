"""Rigid pinhole cameras, the published evaluation orbits, and random training views.

World: right-handed, z up, front at +x. Azimuth 0 views the front and grows counter-clockwise seen from above, so the
camera centre is r (cos el cos az, cos el sin az, sin el). Camera: OpenCV (x right, y down, z forward), pixel centres at
+0.5. Rotations stay rigid under any jitter, unlike those of the released code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sctd.errors import SctdError
from sctd.transfer import to_device

Range = tuple[float, float]


@dataclass(frozen=True)
class Cameras:
    """`views` pinhole cameras with one image size.

    `intrinsics` are in pixels. `azimuth_degrees` in [0, 360) and `elevation_degrees` in [-90, 90] are those of the
    camera centre as seen from the origin. They determine the view-dependent words of the prompt.
    """

    world_to_camera: Float[Tensor, "views 4 4"]
    intrinsics: Float[Tensor, "views 3 3"]
    width: int
    height: int
    azimuth_degrees: Float[Tensor, " views"]
    elevation_degrees: Float[Tensor, " views"]

    @property
    def num(self) -> int:
        """Number of cameras."""
        return self.world_to_camera.shape[0]

    @property
    def centers(self) -> Float[Tensor, "views 3"]:
        """Camera centres in world coordinates: -Rᵀ t, because the rotations are rigid."""
        rotation, translation = self.world_to_camera[:, :3, :3], self.world_to_camera[:, :3, 3]
        return -torch.einsum("vji,vj->vi", rotation, translation)

    def unprojected(self, depth: Float[Tensor, "views height width"]) -> Float[Tensor, "views 3 height width"]:
        """World coordinates of the pixels' centres at this depth (z in camera coordinates)."""
        x, y = (torch.arange(size, device=depth.device) + 0.5 for size in (self.width, self.height))
        pixels = torch.stack([x.expand(self.height, -1), y[:, None].expand(-1, self.width), torch.ones_like(depth[0])])
        to_rays = torch.linalg.inv_ex(self.intrinsics).inverse  # inv would wait for a GPU
        rays = torch.einsum("vij,jhw->vihw", to_rays, pixels)
        in_camera = rays * depth[:, None] - self.world_to_camera[:, :3, 3, None, None]
        return torch.einsum("vji,vjhw->vihw", self.world_to_camera[:, :3, :3], in_camera)

    def select(self, index: Int[Tensor, " selected"] | slice) -> "Cameras":
        """The cameras at these indices."""
        return self._map(lambda tensor: tensor[index])

    def resized(self, width: int, height: int) -> "Cameras":
        """The same views with other numbers of pixels."""
        scale = torch.tensor([width / self.width, height / self.height, 1.0]).to(self.intrinsics)
        return replace(self, intrinsics=scale[:, None] * self.intrinsics, width=width, height=height)

    def to(self, device: torch.device | str) -> "Cameras":
        """The same cameras on another device."""
        return self._map(lambda tensor: to_device(tensor, device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Cameras":
        changed: dict[str, Any] = {
            name: function(each) for name, each in vars(self).items() if isinstance(each, Tensor)
        }
        return replace(self, **changed)


def look_at(
    centers: Float[Tensor, "views 3"], targets: Float[Tensor, "views 3"], up: Float[Tensor, "views 3"]
) -> Float[Tensor, "views 4 4"]:
    """Rigid world-to-camera matrices of cameras at `centers` that look at `targets`, with `up` upwards in the image.

    `up` need not be a unit vector or perpendicular. If it is parallel to the line of sight, +x replaces it.
    Computed in float64, returned in the dtype of `centers`. Raises SctdError if a centre equals its target.
    """
    forward = (targets - centers).double()
    if bool((forward.norm(dim=-1) == 0).any()):
        raise SctdError("A camera centre equals its target, so the view direction is undefined: move one of them.")
    forward = torch.nn.functional.normalize(forward, dim=-1)
    up = torch.nn.functional.normalize(up.double(), dim=-1)
    parallel = torch.linalg.cross(forward, up).norm(dim=-1, keepdim=True) < 1e-6
    up = torch.where(parallel, torch.tensor([1.0, 0.0, 0.0], dtype=up.dtype, device=up.device), up)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)
    world_to_camera = torch.zeros(centers.shape[0], 4, 4, dtype=torch.float64, device=centers.device)
    rotation = torch.stack([right, down, forward], dim=1)
    world_to_camera[:, :3, :3] = rotation
    world_to_camera[:, :3, 3] = -torch.einsum("vij,vj->vi", rotation, centers.double())
    world_to_camera[:, 3, 3] = 1
    return world_to_camera.to(centers.dtype)


def pinhole(fov_y_radians: Float[Tensor, " views"], width: int, height: int) -> Float[Tensor, "views 3 3"]:
    """Intrinsics in pixels, for square pixels and a principal point at the centre of the image."""
    focal_pixels = height / 2 / torch.tan(fov_y_radians / 2)
    intrinsics = torch.zeros(fov_y_radians.shape[0], 3, 3, dtype=fov_y_radians.dtype, device=fov_y_radians.device)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal_pixels
    intrinsics[:, 0, 2], intrinsics[:, 1, 2], intrinsics[:, 2, 2] = width / 2, height / 2, 1
    return intrinsics


def on_sphere(
    azimuth_degrees: Float[Tensor, " views"],
    elevation_degrees: Float[Tensor, " views"] | float,
    radius: float,
    fov_y_radians: float,
    size: int,
) -> Cameras:
    """Cameras on a sphere around the origin that look at it, z upwards, `size` × `size` pixels."""
    elevation_degrees = torch.zeros_like(azimuth_degrees) + elevation_degrees
    centers = _centers(azimuth_degrees, elevation_degrees, torch.full_like(azimuth_degrees, radius))
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(centers)
    return Cameras(
        look_at(centers, torch.zeros_like(centers), up),
        pinhole(torch.full_like(azimuth_degrees, fov_y_radians), size, size),
        size,
        size,
        _one_turn(azimuth_degrees),
        elevation_degrees,
    )


def orbit(num_views: int, elevation_degrees: float, radius: float, fov_y_radians: float, size: int) -> Cameras:
    """`num_views` cameras evenly spaced over a full turn at one elevation, starting at the front."""
    return on_sphere(360 / num_views * torch.arange(num_views), elevation_degrees, radius, fov_y_radians, size)


def paper120(size: int) -> Cameras:
    """120 views at elevation 0°, azimuth 3° i, radius 3.5, vertical field of view 0.55 rad (evaluation.md §5.1)."""
    return orbit(120, elevation_degrees=0.0, radius=3.5, fov_y_radians=0.55, size=size)


def official240(size: int) -> Cameras:
    """The views of the official code: `paper120`, then the same ring at elevation 30°."""
    elevation_degrees = torch.tensor([0.0, 30.0]).repeat_interleave(120)
    return on_sphere(3.0 * torch.arange(120).repeat(2), elevation_degrees, 3.5, 0.55, size)


def threestudio120(size: int) -> Cameras:
    """threestudio's test views: azimuth linspace(0°, 360°, 120) with both ends, elevation 15°, radius 1.5, fov 70°.

    By this convention the first and last view are equal, and a unit ball does not fit into the image.
    """
    return on_sphere(torch.linspace(0, 360, 120), 15.0, 1.5, math.radians(70), size)


PROTOCOLS: dict[str, Callable[[int], Cameras]] = {
    "paper120": paper120,
    "official240": official240,
    "threestudio120": threestudio120,
}


def random_views(
    generator: torch.Generator,
    count: int,
    *,
    size: int,
    radius: Range,
    fov_y_radians: Range,
    elevation_degrees: Range,
    azimuth_degrees: Range = (0.0, 360.0),
    azimuth_spread: Literal["even", "uniform"] = "even",
    overhead_share: float = 0.0,
    overhead_elevation_degrees: Range = (60.0, 85.0),
    center_jitter: float = 0.0,
    target_jitter: float = 0.0,
    up_jitter: float = 0.0,
) -> Cameras:
    """`count` random training views of `size` × `size` pixels; each quantity is uniform in its range.

    `azimuth_spread="even"` gives every view its own sector of the azimuth range and rotates all sectors by one random
    angle, so that each view alone is still uniform. "uniform" draws azimuths independently. A view is overhead with
    probability `overhead_share` and then has `overhead_elevation_degrees`. Jitter, in world units: the centre moves by
    U(±center_jitter) per axis, the target by N(0, target_jitter²), the up vector by N(0, up_jitter²). The returned
    angles are those of the moved centre.
    """

    def uniform(low: float, high: float) -> Float[Tensor, " views"]:
        return low + (high - low) * torch.rand(count, generator=generator)

    turn = torch.rand(1, generator=generator)
    position = torch.rand(count, generator=generator)
    if azimuth_spread == "even":
        position = (turn + (torch.arange(count) + position) / count) % 1
    azimuth = azimuth_degrees[0] + (azimuth_degrees[1] - azimuth_degrees[0]) * position
    is_overhead = torch.rand(count, generator=generator) < overhead_share
    elevation = torch.where(is_overhead, uniform(*overhead_elevation_degrees), uniform(*elevation_degrees))
    centers = _centers(azimuth, elevation, uniform(*radius))
    fov_y = uniform(*fov_y_radians)

    centers = centers + center_jitter * (2 * torch.rand(count, 3, generator=generator) - 1)
    targets = target_jitter * torch.randn(count, 3, generator=generator)
    up = torch.tensor([0.0, 0.0, 1.0]) + up_jitter * torch.randn(count, 3, generator=generator)
    x, y, z = centers.unbind(-1)
    return Cameras(
        look_at(centers, targets, up),
        pinhole(fov_y, size, size),
        size,
        size,
        _one_turn(torch.rad2deg(torch.atan2(y, x))),
        torch.rad2deg(torch.atan2(z, torch.hypot(x, y))),
    )


def _one_turn(degrees: Float[Tensor, " views"]) -> Float[Tensor, " views"]:
    """Angles in [0, 360). Applied twice because float32 rounds the remainder of -1e-8 to 360."""
    return degrees % 360 % 360


def _centers(
    azimuth_degrees: Float[Tensor, " views"],
    elevation_degrees: Float[Tensor, " views"],
    radius: Float[Tensor, " views"],
) -> Float[Tensor, "views 3"]:
    azimuth, elevation = torch.deg2rad(azimuth_degrees), torch.deg2rad(elevation_degrees)
    directions = [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()]
    return radius[:, None] * torch.stack(directions, dim=-1)
