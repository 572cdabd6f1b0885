"""sctd.render.nerf and nerf_file: absorption in closed form, derivatives by central differences, round trips.

A field without weights has the density softplus(scale (1 - |x| / radius)) and the albedo sigmoid(0) = 0.5. With a huge
radius its density is the same everywhere. The quadrature is then exact but for the ends of a ray's path.
"""

import json
import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from sctd.formats.common import FormatError
from sctd.render import nerf_file
from sctd.render.hash_grid import Levels
from sctd.render.nerf import AMBIENT, DIFFUSE, NORMAL_STEP, Field, Light, Lit, Nerf, Occupancy, render, render_on_white
from sctd.scene.cameras import Cameras, look_at, on_sphere, orbit, pinhole

LEVELS = Levels(3, 4, 16, 9, 2)
BOX, SIGMA, DIAGONAL = 1.2, 0.8, 2.4 * math.sqrt(3)  # world units; per world unit; world units
BLACK, TEAL = torch.zeros(3), torch.tensor([0.1, 0.7, 0.6])
FULL = Occupancy(torch.ones(1, 1, 1), 0.5)
BLOB = Field(LEVELS, 8, BOX, blob_scale=40.0, blob_radius=0.5)  # opaque: ∫ 40 (1 - r / 0.5) dr to the centre is 10


def without_weights(field):
    return Nerf.random(field, torch.Generator()).map(torch.zeros_like)


def homogeneous(sigma=SIGMA):
    return without_weights(Field(LEVELS, 8, BOX, math.log(math.expm1(sigma)), 1e9))


def textured(blob_scale=2.0):
    """Random weights with a table that matters, the same in any precision."""
    nerf, generator = without_weights(Field(LEVELS, 8, BOX, blob_scale, 0.8)), torch.Generator().manual_seed(0)
    return nerf.map(lambda tensor: torch.randn(tensor.shape, dtype=torch.float32, generator=generator) / 2)


def light(shading, position=(0.0, 0.0, 0.0), shift=0.3):
    return Light(shading, torch.tensor(position), torch.tensor([shift]))


def looking(center, target, size=1, fov_y_radians=0.4):
    """One camera. With one pixel, or in the middle of an odd number, its ray goes to the target."""
    pose = look_at(torch.tensor([center]), torch.tensor([target]), torch.tensor([[0.0, 0, 1]]))
    return Cameras(pose, pinhole(torch.tensor([fov_y_radians]), size, size), size, size, torch.zeros(1), torch.zeros(1))


def closed_form(near, length, sigma=SIGMA):
    """Transmittance and accumulated depth from `near` to `near + length`: ∫ (near + s) σ exp(-σ s) ds."""
    through = (-sigma * length).exp()
    return through, near * (1 - through) + (1 - through * (1 + sigma * length)) / sigma


def assert_within(actual, expected, bound):
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound)


@pytest.fixture
def double():
    """Float64 by default."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("shift", [0.0, 0.5, 0.99])
def test_rays_through_the_centre_of_a_homogeneous_box(shift):
    steps, radius = 2000, 4.0
    azimuths, elevations = torch.tensor([0.0, 90, 30, 45, 200]), torch.tensor([0.0, 0, 20, 35.26, -50])
    cameras = on_sphere(azimuths, elevations, radius, 0.5, size=1)
    lengths = 2 * BOX * radius / cameras.centers.abs().amax(dim=-1)  # 2 box along an axis
    rendering = render(Lit(homogeneous(), FULL, steps, light("albedo", shift=shift)), cameras, TEAL)
    through, depth = closed_form(radius - lengths / 2, lengths)
    # The number of samples differs from length / step by less than one, so the optical depth by σ step = 0.0017, and
    # the transmittance by at most that. Depths also have an offset of at most a step from the sample to its mean.
    bound = SIGMA * DIAGONAL / steps
    assert_within(1 - rendering.alpha.flatten(), through, bound)
    assert_within(rendering.rgb[:, :, 0, 0], 0.5 * (1 - through[:, None]) + through[:, None] * TEAL, bound)
    assert_within(rendering.depth.flatten(), depth, (radius + BOX * math.sqrt(3)) * bound + DIAGONAL / steps)
    assert rendering[3:] == (None, None, None)


def test_depth_is_along_the_optical_axis():
    steps, distance, size, half = 4000, 6.0, 5, 0.16
    cameras = looking([distance, 0.0, 0.0], [0.0, 0, 0], size, 2 * math.atan(half))
    # All rays enter by the front face and leave by the back: at the corner pixel, 7.2 * 0.128 < 1.2.
    tangents = half * (2 * torch.arange(size) + 1 - size) / size
    secants = (1 + tangents**2 + tangents[:, None] ** 2).sqrt()  # by which density along z is multiplied
    through, depth = closed_form(torch.tensor(distance - BOX), torch.tensor(2 * BOX), SIGMA * secants)
    rendering = render(Lit(homogeneous(), FULL, steps), cameras, BLACK)
    bound = SIGMA * DIAGONAL / steps / 2  # samples are in the middle of steps
    assert_within(rendering.alpha[0], 1 - through, bound)
    assert_within(rendering.depth[0], depth, (distance + BOX) * bound)
    through, depth = closed_form(torch.tensor(0.0), torch.tensor(BOX + 0.4))
    rendering = render(Lit(homogeneous(), FULL, steps), looking([0.4, 0, 0], [-1.0, 0, 0]), BLACK)  # from inside
    assert_within(rendering.alpha[0, 0, 0], 1 - through, bound)
    assert_within(rendering.depth[0, 0, 0], depth, (BOX + 0.4) * bound)


def test_a_homogeneous_ball():
    cells, steps, radius, sigma = 128, 1000, 0.9, 1.5
    squares = (BOX * ((torch.arange(cells) + 0.5) / cells * 2 - 1)) ** 2
    distance = (squares[:, None, None] + squares[:, None] + squares).sqrt()
    lit = Lit(homogeneous(sigma), Occupancy((distance <= radius).float(), 0.5), steps)
    cameras = on_sphere(torch.tensor([0.0, 33, 145]), torch.tensor([0.0, 25, -40]), 4.0, 0.6, 15)
    alpha = render(lit, cameras, BLACK).alpha
    centers = cameras.centers[:, :, None, None]
    rays = torch.nn.functional.normalize(cameras.unprojected(torch.ones_like(alpha)) - centers, dim=1)
    impact = torch.linalg.cross(centers.expand_as(rays), rays, dim=1).norm(dim=1)

    def absorbed(ball, missing):
        lengths = 2 * (ball**2 - impact**2).clamp(min=0).sqrt() + missing * (impact < ball)
        return 1 - (-sigma * lengths.clamp(min=0)).exp()

    # The surface of the cells is within half their diagonal of the sphere, and a path loses or gains less than a step.
    slack = math.sqrt(3) * BOX / cells
    assert bool((alpha >= absorbed(radius - slack, -DIAGONAL / steps) - 1e-5).all())
    assert bool((alpha <= absorbed(radius + slack, DIAGONAL / steps) + 1e-5).all())
    assert not alpha[impact > radius + slack].any()


def test_weights_and_transmittance_sum_to_one():
    nerf = textured()
    nerf.second[:, 1:] = 0  # albedo 0.5
    rendering = render(Lit(nerf, FULL, 100), orbit(3, 20.0, 3.0, 0.8, 12), torch.full((3,), 0.5))
    assert_within(rendering.rgb, torch.full_like(rendering.rgb, 0.5), 1e-6)  # sums of 100 float32 terms


def loss_of(nerf, shading):
    """A random linear function of all that a rendering has. Its inputs are of the default dtype."""
    lit, cameras = Lit(nerf, FULL, 40, light(shading, (0.5, 1.0, 2.0))), orbit(2, 20.0, 3.0, 0.8, 8)
    rendering = render(lit, cameras, TEAL.to(nerf.table))
    image = torch.cat([rendering.rgb, rendering.alpha[:, None], rendering.depth[:, None]], dim=1)
    slopes = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return (slopes.to(image) * image).sum()


def gradients(nerf, shading="albedo"):
    leaves = nerf.map(lambda tensor: tensor.detach().clone().requires_grad_())
    loss_of(leaves, shading).backward()
    return {name: tensor.grad for name, tensor in leaves.tensors().items()}


@pytest.mark.parametrize("shading", ["albedo", "lambertian"])
def test_gradients_match_central_differences(shading, double):
    nerf = textured().map(torch.Tensor.double)
    generator, shift = torch.Generator().manual_seed(4), 1e-6
    for name, gradient in gradients(nerf, shading).items():
        reached = gradient.flatten().nonzero().flatten()  # no sample is near some entries of the table
        for entry in reached[torch.randperm(len(reached), generator=generator)[:7]].tolist():
            moved = (torch.arange(gradient.numel()) == entry).view_as(gradient) * shift
            near = [replace(nerf, **{name: nerf.tensors()[name] + sign * moved}) for sign in (-1, 1)]
            below, above = (float(loss_of(each, shading)) for each in near)
            # Losses near 10 are rounded to 2e-15, so differences over 2e-6 to 1e-9, below 1e-6 of the largest.
            tolerance = {"rel": 1e-4, "abs": 1e-6 * float(gradient.abs().max())}
            assert (above - below) / (2 * shift) == pytest.approx(float(gradient.flatten()[entry]), **tolerance)


def test_gradients_of_kernels_match_torch_in_double_precision(double):
    expected = gradients(textured().map(torch.Tensor.double))
    torch.set_default_dtype(torch.float32)
    for name, gradient in gradients(textured()).items():
        assert_within(gradient.double(), expected[name], 1e-3 * float(expected[name].abs().max()))


def test_normals_of_the_blob():
    nerf = without_weights(BLOB)
    directions = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(5)), dim=-1)
    radii = torch.linspace(0.2, 0.4, 200)[:, None]  # where softplus is the identity: 40 (1 - 0.4 / 0.5) = 8
    # Differences err by step / 2 times the second derivatives of |x|, (1 - n_i²) / |x|, a vector below √3 / |x|.
    errors = (nerf.normals(radii * directions, nerf(radii * directions)[0]) - directions).norm(dim=-1)
    assert bool((errors <= NORMAL_STEP / 2 * math.sqrt(3) / radii[:, 0]).all())


def test_orientation_counts_only_surfaces_that_face_away():
    nerf, front = without_weights(BLOB), looking([3.0, 0, 0], [0.0, 0, 0])
    assert render(Lit(nerf, FULL, 400), front, BLACK).orientation is None
    outside = render(Lit(nerf, FULL, 400, light("lambertian")), front, BLACK).orientation
    assert 0 <= float(outside) < math.exp(-9)  # of the light, exp(-10) gets to the centre, within a step
    inside = render(Lit(nerf, FULL, 4000, light("textureless")), looking([0.0, 0, 0], [1.0, 2, 3]), BLACK)
    # From the centre n · d is 1 but for the first steps, shorter than a normal's, which absorb up to 40 * 0.01.
    assert math.exp(-0.4) < float(inside.orientation) <= float(inside.alpha) <= 1


def test_textureless_images_show_only_the_light():
    def image(nerf, shading, position):
        return render(Lit(nerf, FULL, 400, light(shading, position)), camera, BLACK).rgb[0]

    camera, nerf = looking([3.0, 0, 0], [0.0, 0, 0], 9, 0.4), without_weights(BLOB)
    grey = image(nerf, "textureless", (0.0, 0, 0))
    assert torch.equal(grey, grey[:1].expand_as(grey))
    assert int(grey[0].argmax()) == 4 * 9 + 4
    # Camera, light and normal are in one line. Normals err by 0.01 / 2 * √3 / 0.3 = 0.03, their cosines by 0.03² / 2.
    assert_within(grey[0, 4, 4], torch.tensor(AMBIENT + DIFFUSE), 1e-3)
    assert_within(image(nerf, "textureless", (-6.0, 0, 0))[0, 4, 4], torch.tensor(AMBIENT), 1e-3)  # from behind
    assert_within(image(nerf, "lambertian", (0.0, 0, 0)), 0.5 * grey, 1e-6)
    red, blue = textured(20.0), textured(20.0)
    red.second[:, 1:], blue.second[:, 1:] = torch.tensor([3.0, -1, -1]), torch.tensor([-2.0, 0, 4])
    assert torch.equal(image(red, "textureless", (1.0, 0, 2)), image(blue, "textureless", (1.0, 0, 2)))
    assert not torch.allclose(image(red, "lambertian", (1.0, 0, 2)), image(blue, "lambertian", (1.0, 0, 2)), atol=0.1)


@pytest.mark.parametrize(("center", "target"), [([4.0, 3, 0], [0.0, 3, 0]), ([4.0, 0, 0], [8.0, 0, 0])])
def test_rays_that_miss_the_box_show_the_background(center, target):
    rendering = render(Lit(homogeneous(), FULL, 50), looking(center, target, 3, 0.01), TEAL)
    assert torch.equal(rendering.rgb, TEAL[None, :, None, None].expand(1, 3, 3, 3))
    assert not torch.stack(rendering[1:3]).any()


@pytest.mark.parametrize("shading", ["albedo", "lambertian"])
def test_an_empty_grid_shows_the_background_and_gives_no_gradients(shading):
    leaves, background = textured().map(torch.Tensor.requires_grad_), torch.rand(2, 3, requires_grad=True)
    lit = Lit(leaves, Occupancy(torch.zeros(4, 4, 4), 0.5), 20, light(shading))
    rendering = render(lit, orbit(2, 0.0, 3.0, 0.8, 4), background)
    assert torch.equal(rendering.rgb, background[:, :, None, None].expand_as(rendering.rgb))
    (rendering.rgb.sum() + rendering.alpha.sum() + rendering.depth.sum()).backward()
    assert not any(tensor.grad.any() for tensor in leaves.tensors().values())
    assert torch.equal(background.grad, torch.full((2, 3), 16.0))


def test_occupancy_is_the_largest_density_of_late():
    nerf, old = textured(), Occupancy(torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(6)), 0.5)
    updated = old.updated(nerf, 0.9, torch.Generator().manual_seed(7))
    jitter = torch.rand(5, 5, 5, 3, generator=torch.Generator().manual_seed(7))
    cells = torch.tensor([[i, j, k] for i in range(5) for j in range(5) for k in range(5)])
    seen = nerf(BOX * (2 * (cells + jitter.view(-1, 3)) / 5 - 1))[0].view(5, 5, 5)
    assert_within(updated.density, torch.maximum(0.9 * old.density, seen), 1e-5)
    assert torch.equal(updated.density, old.updated(nerf, 0.9, torch.Generator().manual_seed(7)).density)


def test_points_are_looked_up_in_their_cells():
    density = torch.zeros(4, 4, 4)
    density[0, 1, 3], density[2, 2, 2] = 1.0, 0.5  # the second is at the threshold, so it is empty
    points = torch.tensor([[[-1.0, -0.5, 1], [-9, -0.5, 9]], [[1, -0.5, -1], [0.5, 0.5, 0.5]]])  # clamped: the second
    assert Occupancy(density, 0.5).is_occupied(points, 1.2).tolist() == [[True, True], [False, False]]
    assert Occupancy(density, 0.4).is_occupied(points, 1.2).tolist() == [[True, True], [False, True]]


def written():
    return Lit(textured(), Occupancy(torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(9)), 0.2), 60)


def test_files_hold_the_whole_field():
    lit, content = written(), nerf_file.to_bytes(written())
    read = nerf_file.from_bytes(content)
    assert nerf_file.to_bytes(read) == content
    assert (read.nerf.field, read.steps, read.light, read.occupancy.threshold) == (lit.nerf.field, 60, None, 0.2)
    assert all(torch.equal(tensor, lit.nerf.tensors()[name]) for name, tensor in read.nerf.tensors().items())
    assert torch.equal(read.occupancy.density, lit.occupancy.density)
    assert torch.equal(*(render_on_white(each, orbit(2, 15.0, 3.0, 0.8, 8)) for each in (lit, read)))


def damaged(tensors=None, **about):
    """A file in which some tensors and some of the architecture are others."""
    content = nerf_file.to_bytes(written())
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about = json.loads(header["__metadata__"]["nerf"]) | about
    return safetensors.torch.save(safetensors.torch.load(content) | (tensors or {}), {"nerf": json.dumps(about)})


UNREADABLE, SHAPE = "its content does not follow the format", "a tensor has another shape than its architecture"
DAMAGED = [
    (b"", "Error while deserializing: header too small"),
    (nerf_file.to_bytes(written())[:-1], "Error while deserializing: .*"),
    (safetensors.torch.save({"occupancy": torch.zeros(2, 2, 2)}), UNREADABLE),
    (damaged(version=2), "format 'segmentdreamer.nerf', version 2"),
    (damaged({"first": torch.full((6, 8), torch.nan)}), "a number is not finite"),
    (damaged({"table": torch.zeros(3, 2)}), SHAPE),
    (damaged(hidden=10**13), SHAPE),
    (damaged(levels=[3, 10**6, 10**6, 60, 2]), SHAPE),
    (damaged(levels=[3, 0, 16, 9, 2]), UNREADABLE),
    (damaged({"occupancy": torch.zeros(4, 4, 3)}), f"({UNREADABLE}|the occupancy grid has shape .*)"),
    (damaged(steps=0), "steps 0, box .*"),
    (damaged(box=-1.0), ".* box -1, .*"),
    (damaged(blob_radius=0.0), ".* blob_radius 0"),
    (damaged({"third": torch.zeros(1)}), UNREADABLE),
    (damaged({"second": torch.zeros(8, 4, dtype=torch.int64)}), "a tensor is not float32"),
]


@pytest.mark.parametrize(("content", "reason"), DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_files_are_refused(content, reason):
    with pytest.raises(FormatError, match=rf"^The file is not a NeRF of this program \({reason}\)\.$"):
        nerf_file.from_bytes(content)


def test_results_are_reproducible():
    nerf, cameras, found = textured(), orbit(3, 15.0, 3.0, 0.8, 24), []
    try:
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            found.append([*render(Lit(nerf, FULL, 60), cameras, TEAL)[:3], *gradients(nerf).values()])
    finally:
        torch.set_num_threads(1)
    for first, again, two_threads in zip(*found, strict=True):
        assert torch.equal(again, first)
        # Torch adds up products of matrices in another order with more threads; differences so far are 1e-6.
        assert_within(two_threads, first, 1e-5 * float(first.abs().max()))


def test_a_file_from_before_there_were_backgrounds_is_read():
    content = nerf_file.to_bytes(Lit(textured(), FULL, 16))
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["nerf"])
    assert about.pop("sky_hidden") == 0
    header["__metadata__"]["nerf"] = json.dumps(about)
    changed = json.dumps(header).encode()
    old = len(changed).to_bytes(8, "little") + changed + content[8 + size :]
    assert torch.equal(nerf_file.from_bytes(old).nerf.table, textured().table)
