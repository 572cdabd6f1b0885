"""sctd.render.rasterize: the images that metrics and notebooks see."""

import torch

from evaluation import to_bytes
from sctd import Gaussians, orbit, render_on_white
from sctd.render.rasterize import render

CAMERAS = orbit(3, elevation_degrees=10.0, radius=3.5, fov_y_radians=0.55, size=16)


def one(brightness: float) -> Gaussians:
    """A grey Gaussian at the origin, half transparent, whose colour may exceed 1."""
    return Gaussians(
        means=torch.zeros(1, 3),
        log_scales=torch.full((1, 3), -1.5),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        logit_opacities=torch.zeros(1),
        sh=torch.full((1, 1, 3), brightness, requires_grad=True),
    )


def test_alpha_is_composited_on_white():
    """Sec. 5.5 no. 18: premultiplied colour and alpha over white; a pixel that no Gaussian covers is white."""
    rendering = render(one(-1.0), CAMERAS, torch.zeros(3))
    images = render_on_white(one(-1.0), CAMERAS)
    torch.testing.assert_close(images, (rendering.rgb + (1 - rendering.alpha[:, None])).detach())
    assert images.amin() < 0.7
    assert (to_bytes(images)[:, 0, 0] == 255).all()


def test_images_are_in_range_and_need_no_gradient():
    images = render_on_white(one(4.0), CAMERAS)
    assert render(one(4.0), CAMERAS, torch.ones(3)).rgb.amax() > 1
    assert images.amax() == 1
    assert not images.requires_grad
