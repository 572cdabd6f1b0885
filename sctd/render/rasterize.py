"""Render Gaussians: one function, with the backend chosen by the device of the tensors."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.render.contract import Rasterized, RenderError, Rendering, Splats
from sctd.scene.cameras import Cameras
from sctd.scene.gaussians import Gaussians
from sctd.types import Images


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Float[Tensor, "views 3"] | Float[Tensor, "3"],
    *,
    antialiased: bool = False,
) -> Rendering:
    """Render every camera on the device of the Gaussians: with our kernels on the CPU, with gsplat on a GPU.

    Both have the semantics of gsplat 1.5.3. `antialiased` dims each Gaussian by as much as the 0.3 px² blur widened it
    (Yu et al. 2024). Gaussians and background get gradients. Raises RenderError on any other device, and on a GPU
    without gsplat.
    """
    device = gaussians.means.device
    # gsplat may compile its kernels on import, so only the backend of this device is imported.
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
    """`render` with a given backend, a function with the signature of `cpu_autograd.rasterize`."""
    device = gaussians.means.device
    cameras = cameras.to(device)
    colors = gaussians.colors(cameras.centers)
    splats = Splats(gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, colors)
    return Rendering(*rasterize(splats, cameras, background.to(device).expand(cameras.num, 3), antialiased=antialiased))


@torch.no_grad()
def render_on_white(gaussians: Gaussians, cameras: Cameras) -> Images:
    """The colours of every view on white, as the metrics see an asset: [views, 3, height, width] in [0, 1]."""
    return render(gaussians, cameras, torch.ones(3)).rgb.clamp(max=1)
