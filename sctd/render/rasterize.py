"""Gaussians and cameras → pictures: one contract, two backends, chosen by where the tensors are."""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from sctd.scene.cameras import Cameras
from sctd.scene.gaussians import Gaussians


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


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, "views 3"] | Float[Tensor, "3"],
    *,
    antialiased: bool = False,
) -> Rendering:
    """Render every camera on the device of the Gaussians: the CPU by our kernels, a GPU by gsplat.

    The semantics are gsplat 1.5.3's on both. `antialiased` dims each Gaussian by as much as the 0.3 px blur widened it
    (Yu et al. 2024). Gradients reach the Gaussians and the background. RenderError on any other device, and on a
    GPU without gsplat.
    """
    device = gaussians.means.device
    # gsplat compiles its kernels when touched, so the device decides before any import.
    if device.type == "cpu":
        from sctd.render.cpu_autograd import rasterize
    elif device.type == "cuda":
        from sctd.render.gsplat_backend import rasterize
    else:
        raise RenderError(f"The Gaussians are on {device}; rendering runs on cpu or cuda: move them with .to('cpu').")
    return render_by(rasterize, gaussians, cameras, background, antialiased=antialiased)


def render_by(
    rasterize: Callable[..., Rasterized],
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, "views 3"] | Float[Tensor, "3"],
    *,
    antialiased: bool = False,
) -> Rendering:
    """`render` by this backend, whatever it is: called as `render_cpu_autograd.rasterize`."""
    device = gaussians.means.device
    cameras = cameras.to(device)
    rasterized = rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colors(cameras.centers),
        cameras,
        background.to(device).expand(cameras.num, 3),
        antialiased=antialiased,
    )
    return Rendering(*rasterized)
