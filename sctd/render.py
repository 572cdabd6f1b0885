"""Gaussians and cameras → pictures: one contract, two backends, chosen by where the tensors are."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from sctd.cameras import Cameras
from sctd.gaussians import Gaussians


class Rendering(NamedTuple):
    """What every backend returns, for `views` cameras and `num` Gaussians.

    `rgb` lies over the background. `depth` is accumulated, Σ z α T in world units, without the background: divide by
    `alpha` for the expected depth of what is there. `means2d` (pixels) is a node of the autograd graph: after
    `backward()` its `.grad` holds the pixel gradient of every view, as densification needs it. `radii` are in
    pixels, 0 where a Gaussian is not seen.
    """

    rgb: Float[Tensor, "views 3 height width"]
    alpha: Float[Tensor, "views height width"]
    depth: Float[Tensor, "views height width"]
    means2d: Float[Tensor, "views num 2"]
    radii: Int[Tensor, "views num"]


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, "views 3"] | Float[Tensor, "3"],
    *,
    antialiased: bool = False,
) -> Rendering:
    """Render every camera. Tensors on the CPU go to `render_cpu`, on a GPU to gsplat; nothing else is imported.

    `antialiased` dims each Gaussian by what the 0.3 px blur widened it (Mip-Splatting's compensation).
    """
    # gsplat compiles its kernels when touched, so the device decides before any import.
    if gaussians.means.device.type == "cuda":
        from sctd.render_gsplat import rasterize
    else:
        from sctd.render_cpu import rasterize
    backgrounds = background.expand(cameras.num, 3)
    rasterized = rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colors(cameras.centers),
        cameras,
        backgrounds,
        antialiased=antialiased,
    )
    rgb = rasterized.image.permute(0, 3, 1, 2)
    return Rendering(rgb, rasterized.alpha, rasterized.depth, rasterized.means2d, rasterized.radii)
