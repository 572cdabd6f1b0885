"""sctd.render.rasterize on the CPU: against the dense float64 reference and its derivatives; determinism; edge cases.

Tolerances: the kernels compute in float32 (ε = 6e-8) sums of some hundred terms; 1e-5 of the largest entry is twenty
times the observed error. A Gaussian whose alpha is within rounding of 1/255 may be drawn by one and skipped by the
other; none of these fixed scenes has one.
"""

import math
import sys

import pytest
import torch

from sctd.render.contract import RenderError
from sctd.render.cpu_autograd import rasterize
from sctd.render.rasterize import render
from sctd.scene.cameras import Cameras, orbit
from sctd.scene.gaussians import Gaussians, rgb_to_sh
from tests.support import render_reference as reference
from tests.support.render_reference import leaves_of, random_loss, random_scene

INPUTS = [*reference.Splats._fields, "background", "means2d"]


def gradients(rasterized, leaves, background, means2d):
    random_loss(*rasterized[:3]).backward()
    return dict(zip(INPUTS, [leaf.grad for leaf in (*leaves, background, means2d)], strict=True))


def run_cpu(splats, cameras, backgrounds, **options):
    leaves, backgrounds = leaves_of(splats), backgrounds.clone().requires_grad_()
    rasterized = rasterize(leaves, cameras, backgrounds, **options)
    return rasterized, gradients(rasterized, leaves, backgrounds, rasterized.means2d)


def run_reference(splats, cameras, backgrounds, **options):
    leaves, backgrounds = leaves_of(splats, torch.float64), backgrounds.double().requires_grad_()
    shift = torch.zeros(cameras.num, len(splats.means), 2, dtype=torch.float64, requires_grad=True)
    rasterized = reference.rasterize(leaves, cameras, backgrounds, shift=shift, **options)
    return rasterized, gradients(rasterized, leaves, backgrounds, shift)


def relative_error(actual, expected):
    return float((actual - expected).abs().max() / expected.abs().max())


def assert_matches_reference(splats, cameras, backgrounds, **options):
    actual, actual_gradients = run_cpu(splats, cameras, backgrounds, **options)
    expected, expected_gradients = run_reference(splats, cameras, backgrounds, **options)
    for name in ("image", "alpha", "depth"):
        torch.testing.assert_close(getattr(actual, name).double(), getattr(expected, name), atol=1e-5, rtol=0)
    assert torch.equal(actual.radii, expected.radii)
    errors = {name: relative_error(actual_gradients[name], expected_gradients[name]) for name in INPUTS}
    assert max(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("scale", [0.01, 0.06, 0.2])
def test_images_and_gradients_match_the_reference(scale, antialiased):
    assert_matches_reference(*random_scene(0, scale=scale), antialiased=antialiased)


@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_any_number_of_channels(channels):
    assert_matches_reference(*random_scene(1, channels=channels, num=100))


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (50, 9)])
def test_image_sizes_need_not_be_multiples_of_tiles(size):
    splats, cameras, backgrounds = random_scene(2, num=100)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, :2, 2] = torch.tensor(size) / 2
    cropped = Cameras(cameras.world_to_camera, intrinsics, *size, cameras.azimuth_degrees, cameras.elevation_degrees)
    assert_matches_reference(splats, cropped, backgrounds)


def test_cameras_among_the_gaussians_render_only_those_in_front():
    # Some are behind, some beside (where the Jacobian is clamped), some cross the near plane.
    splats, cameras, backgrounds = random_scene(3, num=100)
    world_to_camera = cameras.world_to_camera.clone()
    world_to_camera[:, 2, 3] = 0.3
    inside = Cameras(world_to_camera, cameras.intrinsics, 40, 40, cameras.azimuth_degrees, cameras.elevation_degrees)
    assert_matches_reference(splats, inside, backgrounds)


def test_pixels_stop_at_low_transmittance():
    # Opaque layers: clamped alphas, skipped Gaussians, and no gradients for hidden Gaussians.
    splats, cameras, backgrounds = random_scene(4, scale=0.3)
    splats = splats._replace(opacities=torch.full_like(splats.opacities, 0.9999))
    assert_matches_reference(splats, cameras, backgrounds)


@pytest.mark.parametrize("antialiased", [False, True])
def test_derivatives_of_the_reference_match_central_differences(antialiased):
    # Few Gaussians and a small step, so that no alpha crosses 1/255.
    splats, cameras, backgrounds = random_scene(5, num=15, views=2, size=16)
    leaves, step = leaves_of(splats, torch.float64), 1e-7
    backgrounds = backgrounds.double().requires_grad_()
    shift = torch.zeros(2, 15, 2, dtype=torch.float64, requires_grad=True)
    tensors = [*leaves, backgrounds, shift]

    def loss(tensors):
        *leaves, backgrounds, shift = tensors
        rasterized = reference.rasterize(leaves, cameras, backgrounds, shift=shift, antialiased=antialiased)
        return random_loss(*rasterized[:3])

    derivatives = torch.autograd.grad(loss(tensors), tensors)
    generator = torch.Generator().manual_seed(0)
    for i, (name, derivative) in enumerate(zip(INPUTS, derivatives, strict=True)):
        direction = torch.randn(derivative.shape, generator=generator).double()
        ends = [[t + sign * step * direction if j == i else t for j, t in enumerate(tensors)] for sign in (1, -1)]
        with torch.no_grad():
            difference = (loss(ends[0]) - loss(ends[1])) / (2 * step)
        assert float(difference) == pytest.approx(float((derivative * direction).sum()), rel=1e-6), name


def test_results_are_bit_identical_for_any_number_of_threads():
    scene = random_scene(6, num=500, size=64)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            rasterized, slopes = run_cpu(*scene)
            results.append([*rasterized, *slopes.values()])
    finally:
        torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_view_does_not_depend_on_the_other_views():
    splats, cameras, backgrounds = random_scene(7)
    together, slopes = run_cpu(splats, cameras, backgrounds)
    for view in range(cameras.num):
        one = slice(view, view + 1)
        alone, _ = run_cpu(splats._replace(colors=splats.colors[one]), cameras.select(one), backgrounds[one])
        for name in ("image", "alpha", "depth", "means2d", "radii"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[view]), name
    assert slopes["means2d"].shape == (3, 200, 2)


def test_gradients_of_several_views_are_their_sum():
    splats, cameras, backgrounds = random_scene(8)
    leaves = leaves_of(splats)
    together = rasterize(leaves, cameras, backgrounds)
    together.image.square().sum().backward()
    alone = leaves_of(splats)
    for view in range(cameras.num):
        one = slice(view, view + 1)
        single = rasterize(alone._replace(colors=alone.colors[one]), cameras.select(one), backgrounds[one])
        single.image.square().sum().backward()
        assert torch.equal(single.means2d.grad[0], together.means2d.grad[view])
    for name, a, b in zip(INPUTS, leaves, alone, strict=False):
        assert relative_error(a.grad, b.grad) < 1e-6, name  # both float32 sums of three


def ball(num=20, **changes):
    generator = torch.Generator().manual_seed(9)
    fields = {
        "means": 0.3 * torch.randn(num, 3, generator=generator),
        "log_scales": torch.full((num, 3), -2.0),
        "quats": torch.randn(num, 4, generator=generator),
        "logit_opacities": torch.zeros(num),
        "sh": 0.3 * torch.randn(num, 1, 3, generator=generator),
    }
    return Gaussians(**{**fields, **changes})


TWO_VIEWS = orbit(2, 20.0, 3.5, 0.55, 32)
BACKGROUND = torch.tensor([0.2, 0.5, 1.0])


def assert_empty(rendering):
    assert torch.equal(rendering.rgb, BACKGROUND[None, :, None, None].expand_as(rendering.rgb))
    assert not rendering.alpha.any()
    assert not rendering.depth.any()
    assert not rendering.radii.any()


def test_an_empty_scene_is_the_background():
    gaussians = ball(0).map(torch.Tensor.requires_grad_)
    rendering = render(gaussians, TWO_VIEWS, BACKGROUND)
    assert_empty(rendering)
    rendering.rgb.sum().backward()
    assert gaussians.means.grad.shape == (0, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"means": torch.tensor([[9.0, 0, 0], [0, 9, 0]])},  # behind the camera, outside its image
        {"logit_opacities": torch.full((2,), -torch.inf)},
        {"logit_opacities": torch.full((2,), -5.6)},  # 0.0037 < 1/255
        {"log_scales": torch.full((2, 3), torch.inf)},
        {"means": torch.full((2, 3), torch.nan)},
        {"quats": torch.zeros(2, 4)},
    ],
    ids=["outside", "transparent", "too faint", "infinite", "not a number", "no rotation"],
)
def test_invisible_gaussians_are_not_drawn_and_get_no_gradient(changes):
    gaussians = ball(2, **changes).map(torch.Tensor.requires_grad_)
    rendering = render(gaussians, orbit(1, 0.0, 3.5, 0.55, 32), BACKGROUND)
    assert_empty(rendering)
    rendering.rgb.sum().backward()
    assert not rendering.means2d.grad.any()
    assert not gaussians.sh.grad.any()
    assert not gaussians.means.grad.any()


def test_one_central_gaussian_matches_the_formula():
    # Isotropic and far away: variance (focal s / z)² + 0.3 px² in both directions, centre between four pixels.
    s, z, opacity, rgb = 0.1, 3.5, 0.6, torch.tensor([0.9, 0.1, 0.4])
    gaussians = Gaussians(
        torch.zeros(1, 3),
        torch.full((1, 3), s).log(),
        torch.tensor([[2.0, 0, 0, 0]]),
        torch.tensor([opacity]).logit(),
        rgb_to_sh(rgb)[None, None],
    )
    camera = orbit(1, 0.0, z, 0.55, 32)
    rendering = render(gaussians, camera, BACKGROUND)
    variance = (float(camera.intrinsics[0, 0, 0]) * s / z) ** 2 + 0.3
    distance = torch.arange(32) + 0.5 - 16
    alpha = opacity * torch.exp(-(distance[:, None] ** 2 + distance**2) / (2 * variance))
    alpha = torch.where(alpha >= 1 / 255, alpha, 0)
    torch.testing.assert_close(rendering.alpha[0], alpha, atol=1e-6, rtol=0)
    torch.testing.assert_close(rendering.depth[0], z * alpha, atol=1e-5, rtol=0)
    expected = alpha * rgb[:, None, None] + (1 - alpha) * BACKGROUND[:, None, None]
    torch.testing.assert_close(rendering.rgb[0], expected, atol=1e-6, rtol=0)
    assert rendering.radii.tolist() == [[math.ceil(math.sqrt(2 * math.log(255 * opacity) * variance))]]


def test_backgrounds_may_differ_by_view():
    gaussians = ball()
    white, black = render(gaussians, TWO_VIEWS, torch.ones(3)), render(gaussians, TWO_VIEWS, torch.zeros(3))
    mixed = render(gaussians, TWO_VIEWS, torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
    assert torch.equal(mixed.rgb[0], white.rgb[0])
    assert torch.equal(mixed.rgb[1], black.rgb[1])
    torch.testing.assert_close(white.rgb - black.rgb, (1 - white.alpha)[:, None].expand_as(white.rgb))
    assert 0 < float(white.alpha.mean()) < 1


def test_the_nearer_gaussian_occludes_the_farther():
    near_red = ball(
        2,
        means=torch.tensor([[-0.5, 0, 0], [0.5, 0, 0]]),
        sh=rgb_to_sh(torch.tensor([[[0.0, 1, 0]], [[1, 0, 0]]])),
        logit_opacities=torch.full((2,), 5.0),
    )
    front, back = render(near_red, orbit(2, 0.0, 3.5, 0.55, 32), torch.zeros(3)).rgb[:, :, 16, 16]
    assert front[0] > 0.9 > 0.1 > front[1]
    assert back[1] > 0.9 > 0.1 > back[0]


def test_depth_divided_by_alpha_is_the_distance():
    rendering = render(ball(1, means=torch.zeros(1, 3)), orbit(1, 0.0, 3.5, 0.55, 32), torch.zeros(3))
    visible = rendering.alpha > 0
    expected_depth = rendering.depth[visible] / rendering.alpha[visible]
    torch.testing.assert_close(expected_depth, torch.full_like(expected_depth, 3.5))


def test_every_parameter_gets_a_gradient_at_sh_degree_2():
    sh = torch.randn(20, 9, 3, generator=torch.Generator().manual_seed(1)) / 5
    gaussians = ball(20, sh=sh).map(torch.Tensor.requires_grad_)
    rendering = render(gaussians, TWO_VIEWS, BACKGROUND)
    rendering.rgb.square().sum().backward()
    for name, tensor in gaussians.tensors().items():
        assert bool(tensor.grad.flatten(1 if tensor.ndim > 1 else 0).any()), name
    assert rendering.means2d.grad.shape == (2, 20, 2)
    assert bool(rendering.means2d.grad.any(dim=-1).all())  # every view of every Gaussian


def test_pixel_gradients_are_kept_only_in_training():
    with torch.no_grad():
        rendering = render(ball().map(torch.Tensor.requires_grad_), TWO_VIEWS, BACKGROUND)
    assert not rendering.means2d.requires_grad


def test_other_devices_are_refused():
    with pytest.raises(RenderError, match=r"The Gaussians are on meta; rendering runs on cpu or cuda: move them"):
        render(ball().to("meta"), TWO_VIEWS, BACKGROUND)


def test_rendering_on_the_cpu_does_not_import_gsplat(monkeypatch):
    # If nvcc is installed, importing gsplat's backend compiles for minutes (dependencies.md).
    for name in ("gsplat", "sctd.render.gsplat_backend"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    assert render(ball(), TWO_VIEWS, BACKGROUND).rgb.shape == (2, 3, 32, 32)
