"""What a rendering backend takes and returns."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor


class RenderError(ValueError):
    """These Gaussians cannot be rendered on this machine."""


class Rendering(NamedTuple):
    """What `render` returns, for `views` cameras and `num` Gaussians.

    `rgb` lies over the background; as in 3DGS colours are ≥ 0 but may exceed 1, so clamp them to show them. `depth` is
    accumulated, Σ z α T in world units, without the background: divide by `alpha` for the expected depth of what is
    there. `means2d` (pixels) is a node of the autograd graph: after `backward()` its `.grad` holds the pixel gradient
    of every view, as densification needs it. `radii` are in pixels, 0 where a Gaussian is not seen.
    """

    rgb: Float[Tensor, "views 3 height width"]
    alpha: Float[Tensor, "views height width"]
    depth: Float[Tensor, "views height width"]
    means2d: Float[Tensor, "views num 2"]
    radii: Int[Tensor, "views num"]


class Rasterized(NamedTuple):
    """What a backend returns: `image` has any number of channels, the other fields are those of `Rendering`."""

    image: Float[Tensor, "views channels height width"]
    alpha: Float[Tensor, "views height width"]
    depth: Float[Tensor, "views height width"]
    means2d: Float[Tensor, "views num 2"]
    radii: Int[Tensor, "views num"]
