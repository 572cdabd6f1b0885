"""The renderer compared with a brute-force tracer in float64, and its contract."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.embedded import rays, raytrace, signed_distance, world
from pipeline.embedded.objects import (
    BOX,
    CAPSULE,
    CONE,
    DOME,
    ELLIPSOID,
    HEART,
    PRIM,
    PRISM,
    PYRAMID,
    STAR,
    TORUS,
    TUBE,
)


def inside(row: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points are inside a primitive, by its definition only (no distances): bool [n]."""
    kind, (a, b, c), r = int(row[0]), row[13:16], row[16]
    x, y, z = ((points - row[1:4]) @ row[4:13].reshape(3, 3).T).T
    flat = np.hypot(x, y)
    if kind == ELLIPSOID:
        return (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1
    if kind == BOX:
        over = np.maximum(np.abs([x, y, z]) - np.array([[a - r], [b - r], [c - r]]), 0)
        return np.linalg.norm(over, axis=0) < r
    if kind == CONE:  # rounding is below 0.01 here: a sharp frustum is accurate enough
        return (np.abs(z) < a) & (flat < b + (c - b) * (z + a) / (2 * a))
    if kind == TORUS:
        return np.hypot(flat - a, z) < b
    if kind == CAPSULE:
        return flat**2 + (z - np.clip(z, -a, a)) ** 2 < b**2
    if kind == PYRAMID:
        return (z > -b) & (np.maximum(np.abs(x), np.abs(y)) < a * (b - z) / (2 * b))
    if kind == TUBE:
        return (np.abs(flat - a) < b + r) & (np.abs(z) < c + r)
    if kind == DOME:
        return (z > 0) & ((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1)
    if kind == PRISM:
        return (np.abs(x) < a) & (z > -c / 2) & (np.abs(y) < b * (c / 2 - z) / c)
    if kind == STAR:
        turn = np.abs((np.arctan2(y, z) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        u, v = np.hypot(y, z) * np.cos(turn), np.hypot(y, z) * np.sin(turn)
        # The edge runs from the tip (a, 0) along the direction (cos 36 - 1 / b, sin 36).
        along = np.array([b * np.cos(np.pi / 5) - 1, b * np.sin(np.pi / 5)])
        return (np.abs(x) < c + r) & (((u - a) * along[1] - v * along[0]) / np.hypot(*along) < r)
    assert kind == HEART
    p, q = np.abs(y) / a, z / a + 0.5
    lobe = np.hypot(p - 0.25, q - 0.75) < 2**0.5 / 4 + r / a
    return (np.abs(x) < c + r) & (lobe | ((p + q < 1) & (q > p - 2**0.5 * r / a)))


def first_inside(rows: np.ndarray, eye: np.ndarray, directions: np.ndarray, step: float = 2e-3):
    """March all rays in small steps: distance and index of the first primitive that each enters, or inf and -1."""
    t = np.arange(np.linalg.norm(eye) - 1.05, np.linalg.norm(eye) + 1.05, step)
    best, index = np.full(len(directions), np.inf), np.full(len(directions), -1)
    for k, direction in enumerate(directions):
        points = eye + t[:, None] * direction
        for i, row in enumerate(rows):
            hits = inside(row, points)
            if hits.any() and t[hits.argmax()] < best[k]:
                best[k], index[k] = t[hits.argmax()], i
    return best, index


def traced(rows: np.ndarray, eye: np.ndarray, directions: np.ndarray):
    """The first hits of the renderer's rays."""
    rows, eye = rows.astype(np.float32), eye.astype(np.float32)
    found = [rays.first_hit(rows, len(rows), *eye, *direction.astype(np.float32)) for direction in directions]
    return np.array([t for t, _ in found]), np.array([i for _, i in found])


def ray_directions(camera: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    u, v = rng.uniform(-1, 1, (2, count, 1))
    directions = camera[9:12] + camera[12] * (u * camera[3:6] + v * camera[6:9])
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("mushroom", "red"),  # cone, dome
        ("capsule", "red"),
        ("pyramid", "red"),
        ("star", "yellow"),
        ("heart", "red"),
        ("mug", "blue"),  # tube, torus
        ("house", "white"),  # boxes, prism
        ("duck", "yellow"),  # ellipsoids
    ],
)
def test_rays_hit_the_same_primitives_as_a_brute_force_search(name, color):
    rng = np.random.default_rng(0)
    scene = world.single(rng, name, color)
    camera = world.orbit_cameras(35, 25).table[0].astype(np.float64)
    directions = ray_directions(camera, 60, rng)
    expected, expected_index = first_inside(scene.rows.astype(np.float64), camera[:3], directions)
    found, index = traced(scene.rows, camera[:3], directions)
    same = (index >= 0) == (expected_index >= 0)
    # A ray that grazes an outline may hit or miss (threshold 1e-3, steps of 2e-3); such rays are few.
    assert same.mean() > 0.96
    both = same & (index >= 0)
    assert both.sum() > 10
    # The search is late by up to a step, and the tracer early by its threshold. Both grow at grazing incidence.
    assert np.median(np.abs(found[both] - expected[both])) < 0.004
    assert np.quantile(np.abs(found[both] - expected[both]), 0.9) < 0.012
    assert (index[both] == expected_index[both]).mean() > 0.95


def test_a_shaded_ball_matches_the_closed_form():
    """Image of a sphere: outline, normal, soft light and highlight, computed in float64."""
    scene = world.single(np.random.default_rng(0), "ball", "green")
    camera = world.orbit_cameras(20, 30, radius=4.0, background=(0.2, 0.4, 0.6)).table[0].astype(np.float64)
    size = 32
    image = raytrace.render(*world.table([scene]), [0], camera[None], size=size, samples=1)[0].movedim(0, 2).numpy()
    row = scene.rows[0].astype(np.float64)
    centre = (np.arange(size) + 0.5) / size * 2 - 1
    u, v = centre[None, :, None], -centre[:, None, None]
    d = camera[9:12] + camera[12] * (u * camera[3:6] + v * camera[6:9])
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    eye = camera[:3] - row[1:4]
    half_b = d @ eye
    discriminant = half_b**2 - (eye @ eye - row[13] ** 2)
    t = -half_b - np.sqrt(np.maximum(discriminant, 0))
    normal = (eye + t[..., None] * d) / row[13]
    light = camera[19:22]
    shade = camera[22] + 0.3 * (0.5 + 0.5 * normal[..., 2]) + camera[23] * np.maximum(normal @ light, 0)
    half = light - d
    highlight = row[25] * np.maximum((normal * half).sum(-1) / np.linalg.norm(half, axis=-1), 0) ** 24
    color = np.clip(row[17:20] * shade[..., None] + highlight[..., None], 0, 1)
    expected = np.where((discriminant > 0)[..., None], color, camera[13:16]) * 255
    away = np.abs(discriminant) > 1e-4  # not on the outline
    assert away.mean() > 0.9
    assert np.abs(image - expected)[away].max() < 1.0  # rounding to whole levels, float32


def test_objects_face_plus_x_and_plus_y_is_on_the_right():
    """In an image taken from +x, an object at +y is on the right."""
    rng = np.random.default_rng(0)
    beside = world.pair(rng, "cube", "blue", "next to", "cylinder", "red")  # the cube at +y
    image = raytrace.render(*world.table([beside]), [0], world.orbit_cameras(0, 10).table)[0].float()
    blueness = image[2] - image[0]
    assert blueness[:, 32:].max() > 60
    assert blueness[:, :24].max() < 20


def test_patterns_and_second_colours_are_visible():
    rng = np.random.default_rng(0)
    plain, striped = world.single(rng, "cube", "red"), world.single(rng, "cube", "red", "white", "striped")
    cameras = world.orbit_cameras([30, 30], 20, background=(0, 0, 0)).table
    plain, striped = raytrace.render(*world.table([plain, striped]), [0, 1], cameras).float()
    assert plain[1].max() < 90
    assert 0.2 < (striped[1] > 120).sum() / (striped[0] > 0).sum() < 0.8


def test_rendering_is_deterministic_and_images_are_independent():
    rng = np.random.default_rng(1)
    scenes = [world.random_scene(rng) for _ in range(4)]
    cameras, index = world.random_cameras(rng, 8).table, np.array([0, 1, 2, 3, 3, 2, 1, 0])
    together = raytrace.render(*world.table(scenes), index, cameras)
    assert together.shape == (8, 3, 64, 64)
    assert together.dtype == torch.uint8
    assert torch.equal(together, raytrace.render(*world.table(scenes), index, cameras))
    alone = raytrace.render(*world.table([scenes[2]]), [0], cameras[5:6])
    assert torch.equal(alone[0], together[5])


def test_four_samples_equal_the_mean_of_an_image_of_twice_the_size():
    scene = world.single(np.random.default_rng(0), "house", "white")
    camera = world.orbit_cameras(30, 20).table
    fine = raytrace.render(*world.table([scene]), [0], camera, size=96, samples=1).float()
    coarse = raytrace.render(*world.table([scene]), [0], camera, size=48, samples=2).float()
    # The rays are the same: a 2x2 block of fine pixels is one coarse pixel, up to rounding.
    assert (torch.nn.functional.avg_pool2d(fine, 2) - coarse).abs().max() <= 1.0


def test_gradient_background_runs_from_top_to_bottom():
    camera = world.orbit_cameras(0, 0).table
    camera[:, 13:16], camera[:, 16:19] = 1.0, 0.0
    camera[:, 9:12] *= -1  # look away
    scene = world.single(np.random.default_rng(0), "ball", "red")
    column = raytrace.render(*world.table([scene]), [0], camera, size=16)[0, 0, :, 0].float() / 255
    np.testing.assert_allclose(column, 1 - (np.arange(16) + 0.5) / 16, atol=0.003)


def test_surface_points_are_uniform_on_the_surface():
    rng = np.random.default_rng(0)
    ball, cube = world.single(rng, "ball", "red"), world.single(rng, "cube", "blue")
    cloud = raytrace.surface_points(*world.table([ball, cube]), points=4000, seed=1).numpy()
    assert cloud.shape == (2, 4000, 6)
    np.testing.assert_allclose(np.linalg.norm(cloud[0, :, :3], axis=1), ball.rows[0, 13], rtol=2e-3)
    np.testing.assert_allclose(cloud[0, :, 3:], np.tile(ball.rows[0, 17:20], (4000, 1)), atol=1e-6)
    # Uniform in area: heights on a sphere are uniform, and each face of a cube has a sixth. Five standard errors.
    height = np.histogram(cloud[0, :, 2] / ball.rows[0, 13], bins=8, range=(-1, 1))[0] / 4000
    np.testing.assert_allclose(height, 1 / 8, atol=5 * (1 / 8 * 7 / 8 / 4000) ** 0.5)
    faces = np.abs(cloud[1, :, :3]).argmax(1) * 2 + (
        np.take_along_axis(cloud[1, :, :3], np.abs(cloud[1, :, :3]).argmax(1)[:, None], 1)[:, 0] > 0
    )
    np.testing.assert_allclose(np.bincount(faces, minlength=6) / 4000, 1 / 6, atol=5 * (1 / 6 * 5 / 6 / 4000) ** 0.5)


def test_surface_points_have_pattern_colours_and_are_in_the_unit_ball():
    rng = np.random.default_rng(2)
    scenes = [world.single(rng, "ball", "red", "white", "checkered"), *(world.random_scene(rng) for _ in range(20))]
    cloud = raytrace.surface_points(*world.table(scenes), points=256, seed=3)
    assert torch.equal(cloud, raytrace.surface_points(*world.table(scenes), points=256, seed=3))
    assert not torch.equal(cloud, raytrace.surface_points(*world.table(scenes), points=256, seed=4))
    assert cloud[..., :3].norm(dim=-1).max() <= 1
    assert cloud[..., 3:].min() >= 0
    assert cloud[..., 3:].max() <= 1
    white = (cloud[0, :, 4] > 0.5).float().mean()
    assert 0.3 < white < 0.7


def test_all_arithmetic_is_single_precision():
    """Every ray function returns float32: a literal in double precision would be slow on a GPU."""
    scene = world.single(np.random.default_rng(0), "mug", "red", "white", "polka dot")
    raytrace.render(*world.table([scene]), [0], world.orbit_cameras(0, 0).table, size=8)
    one = np.float32(1)
    rows = scene.rows
    for kind in range(11):
        signed_distance.signed_distance(kind, one, one, one, one, one, one, one)
    rays.first_hit(rows, len(rows), *[one] * 6)
    rays.surface_color(rows, 0, one, one, one)
    distances = signed_distance.signed_distance, signed_distance.heart_distance, signed_distance.star_distance
    for compiled in (*distances, rays.surface_color):
        for signature in compiled.nopython_signatures:
            assert "float64" not in str(signature), signature


def test_errors_state_what_was_expected():
    scene = world.single(np.random.default_rng(0), "ball", "red")
    rows, starts, counts = world.table([scene])
    camera = world.orbit_cameras(0, 0).table
    with pytest.raises(ValueError, match=f"scene rows have 5 numbers, expected {PRIM}: pass what world.table"):
        raytrace.render(rows[:, :5], starts, counts, [0], camera)
    with pytest.raises(ValueError, match="cameras have 7 numbers, expected 24: pass the `table` of WorldCameras"):
        raytrace.render(rows, starts, counts, [0], camera[:, :7])
    with pytest.raises(ValueError, match="a scene has 65 primitives, expected at most 64"):
        raytrace.render(rows.repeat(65, 0), starts, counts * 65, [0], camera)


def test_no_cameras_give_no_images():
    table = world.table([world.single(np.random.default_rng(0), "ball", "red")])
    assert raytrace.render(*table, [], np.zeros((0, rays.CAM))).shape == (0, 3, 64, 64)


SIMULATED = """
import sys
import numpy as np
from pipeline.embedded import raytrace, world
assert "numba.cuda" not in sys.modules, "the CPU renderer must not load numba.cuda"
from pipeline.embedded import raytrace_cuda as cuda
rng = np.random.default_rng(1)
table = world.table([world.random_scene(rng) for _ in range(2)])
cameras, index = world.random_cameras(rng, 2).table, np.arange(2, dtype=np.int32)
images, points = np.zeros((2, 3, 9, 9), np.uint8), np.zeros((2, 9, 6), np.float32)
cuda.draw_on_cuda[2, cuda.THREADS](*table, index, cameras, 2, images)
cuda.sample_on_cuda[2, cuda.THREADS](*table, 5, points)
assert np.array_equal(images, raytrace.render(*table, index, cameras, 9).numpy())
assert np.abs(points - raytrace.surface_points(*table, 9, 5).numpy()).max() <= 2e-7
"""


def test_the_cuda_kernels_render_the_same_in_numbas_simulator():
    """Tests indexing, tiles and shared memory of the kernels. The arithmetic is the CPU's, so bytes are equal.

    Points may differ by one ulp: on some processors numba compiles fast math differently within another caller.
    """
    result = subprocess.run(
        [sys.executable, "-c", SIMULATED],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_and_cpu_render_the_same_images():
    rng = np.random.default_rng(1)
    table = world.table([world.random_scene(rng) for _ in range(50)])
    index, cameras = np.arange(50), world.random_cameras(rng, 50).table
    cpu = raytrace.render(*table, index, cameras).int()
    gpu = raytrace.render(*table, index, cameras, device="cuda").cpu().int()
    # By rounding, an outline may be on the other side of a sample.
    assert ((cpu - gpu).abs() <= 2).float().mean() > 0.998
