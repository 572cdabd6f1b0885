"""The contract of rendering backends: their result types and their error."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from sctd.errors import SctdError


class RenderError(SctdError):
    """These Gaussians cannot be rendered on this machine."""


class Rendering(NamedTuple):
    """The result of `render` for `views` cameras and `num` Gaussians.

    `rgb` is composited over the background. As in 3DGS colours are ≥ 0 but may exceed 1, so clamp them for display.
    `depth` is accumulated, Σ z α T in world units, without the background; divide by `alpha` for the expected depth.
    `means2d` (pixels) is a node of the autograd graph: after `backward()` its `.grad` holds the pixel gradient of every
    view, for densification. `radii` are in pixels, 0 if a Gaussian is not visible. Both are None for other
    representations than Gaussians. `orientation` is the share of a pixel whose surface faces away from the camera, if a
    representation has normals.
    """

    rgb: Float[Tensor, "views 3 height width"]
    alpha: Float[Tensor, "views height width"]
    depth: Float[Tensor, "views height width"]
    means2d: Float[Tensor, "views num 2"] | None = None
    radii: Int[Tensor, "views num"] | None = None
    orientation: Float[Tensor, "views height width"] | None = None


class Splats(NamedTuple):
    """The Gaussians as a backend gets them, in float32: scales and opacities, not their logarithms or logits."""

    means: Float[Tensor, "num 3"]
    quats: Float[Tensor, "num 4"]
    scales: Float[Tensor, "num 3"]
    opacities: Float[Tensor, " num"]
    colors: Float[Tensor, "views num channels"]


class Rasterized(NamedTuple):
    """The result of a backend: `image` has any number of channels, the other fields are those of `Rendering`."""

    image: Float[Tensor, "views channels height width"]
    alpha: Float[Tensor, "views height width"]
    depth: Float[Tensor, "views height width"]
    means2d: Float[Tensor, "views num 2"]
    radii: Int[Tensor, "views num"]
