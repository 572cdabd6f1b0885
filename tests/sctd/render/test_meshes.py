"""sctd.render.meshes: exact colours, edges by coverage, alpha, culling, light; the frame of the Gaussians."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.embedded import raytrace, world
from sctd.formats.axes import axes
from sctd.formats.mesh_data import Part, Piece, Texture, assemble
from sctd.formats.triangles import read_mesh
from sctd.render import meshes, rasterize
from sctd.render.contract import RenderError
from sctd.render.meshes import SAMPLES, render_mesh
from sctd.scene.cameras import look_at, on_sphere, orbit
from sctd.scene.gaussians import Gaussians, rgb_to_sh
from tests.support import world_meshes

pytest.importorskip("embreex", reason="rendering meshes needs the extra `mesh`")
SQUARE = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], np.float64)  # seen from +x, left bottom first
QUAD = np.array([[0, 1, 2], [0, 2, 3]])
UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float64)  # v downwards
FILLING = 3.5 * np.tan(0.35)  # half the side of the square that fills the image of `front`
RED, GREEN, BLUE = (1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0)


def square(part=None, scale=1.0, x=0.0, *, turned=False, **attributes):
    return Piece(SQUARE * scale + [x, 0, 0], QUAD[:, ::-1] if turned else QUAD, part or Part(0), **attributes)


def front(size=64, views=1):
    """Cameras from (3.5, 0, 0) on around the object, with a field of view of 0.7."""
    return orbit(views, 0.0, 3.5, 0.7, size)


def shown(*pieces, textures=(), linear=False, size=64, views=1, shading="unlit"):
    return render_mesh(assemble(pieces, textures, linear=linear), front(size, views), shading)


def sphere(rings=60):
    """A unit sphere with its normals, and angles as texture coordinates: u with the azimuth, v from the pole."""
    polar, azimuth = np.meshgrid(
        np.linspace(0, np.pi, rings + 1), np.linspace(0, 2 * np.pi, 2 * rings + 1), indexing="ij"
    )
    points = np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], -1)
    uv = np.stack([azimuth / (2 * np.pi), polar / np.pi], -1)
    a = (np.arange(rings)[:, None] * (2 * rings + 1) + np.arange(2 * rings)).reshape(-1, 1)
    b, c, d = a + 1, a + 2 * rings + 1, a + 2 * rings + 2
    faces = np.concatenate([np.hstack([a, c, b]), np.hstack([b, c, d])])
    return points.reshape(-1, 3), faces, uv.reshape(-1, 2)


def hits_of_unit_sphere(cameras):
    """Where the rays of all samples of the first camera meet the unit sphere: [rows, columns, samples, 3]."""
    size = cameras.width
    matrix = cameras.world_to_camera[0].double().numpy()
    inverse = np.linalg.inv(cameras.intrinsics[0].double().numpy())
    y, x = np.indices((size, size)) + 0.5
    pixel = np.stack([x[..., None] + SAMPLES[:, 0], y[..., None] + SAMPLES[:, 1], np.ones((size, size, 4))], -1)
    direction = pixel @ inverse.T @ matrix[:3, :3]
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    center = -matrix[:3, :3].T @ matrix[:3, 3]
    half = direction @ center
    with np.errstate(invalid="ignore"):
        distance = -half - np.sqrt(half**2 - center @ center + 1)
    return center + direction * distance[..., None]


# ---- colours --------------------------------------------------------------------------------------------------------


def test_a_flat_colour_is_exact():
    """Every byte, as shown (OBJ, PLY) and in linear light (glTF)."""
    for linear in (False, True):
        for value in range(0, 256, 5):
            color = np.array([value, 255 - value, value // 2]) / 255
            base = np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4) if linear else color
            image = shown(square(Part(0, base_color=(*base.tolist(), 1.0)), 9.0), linear=linear, size=4)
            assert (image == np.round(255 * color)).all()


@pytest.mark.parametrize("linear", [False, True])
def test_a_texture_is_shown_texel_for_texel(linear):
    """Every byte of red once: texels of 4 x 4 pixels without interpolation, upright and not mirrored."""
    red = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgba = np.stack([red, red[::-1], red.T, np.full_like(red, 255)], axis=-1)
    image = shown(square(Part(0, texture=0), FILLING, uv=UV), textures=[Texture(rgba, nearest=True)], linear=linear)
    assert (image[0] == rgba[..., :3].repeat(4, 0).repeat(4, 1)).all()


def test_a_texture_is_interpolated_between_texels():
    """One row of a ramp, magnified: linear between the centres of texels, constant beyond the last ones."""
    ramp = np.array([[[0, 0, 0, 255], [200, 100, 0, 255]]], np.uint8)
    texture = Texture(ramp, ("clamp", "clamp"))
    image = shown(square(Part(0, texture=0), FILLING, uv=UV), textures=[texture])[0]
    place = ((np.arange(64)[:, None] + 0.5 + SAMPLES[:, 0]) / 64 * 2 - 0.5).clip(0, 1).mean(1)
    assert (np.abs(image[..., :2] - (place[:, None] * [200, 100])) <= 0.51).all()


@pytest.mark.parametrize(("wrap", "expected"), [("repeat", "rgrgrg"), ("mirror", "rggrrg"), ("clamp", "rrrggg")])
def test_a_texture_repeats_is_mirrored_or_ends(wrap, expected):
    rgba = np.array([[[255, 0, 0, 255], [0, 255, 0, 255]]], np.uint8)
    uv = UV * [3, 1] - ([1, 0] if wrap == "clamp" else [0, 0])
    texture = Texture(rgba, (wrap, "clamp"), nearest=True)
    image = shown(square(Part(0, texture=0), FILLING, uv=uv), textures=[texture], size=60)
    found = "".join("rg"[int(np.argmax(pixel))] for pixel in image[0, 30, 5::10])
    assert found == expected


def test_a_small_texture_is_the_mean_of_its_texels_in_linear_light():
    """A checkerboard of black and white far below a pixel is sRGB 188, not 128: half of the light."""
    board = np.indices((256, 256)).sum(0) % 2 * 255
    rgba = np.stack([board] * 3 + [np.full_like(board, 255)], axis=-1).astype(np.uint8)
    image = shown(square(Part(0, texture=0), FILLING, uv=UV * 2), textures=[Texture(rgba)], linear=True)
    assert (np.abs(image.astype(int) - 188) <= 1).all()


@pytest.mark.parametrize(("texels", "level"), [(32, 0), (64, 0), (128, 0), (256, 1), (512, 2), (2048, 4)])
@pytest.mark.parametrize("distance", [3.5, 7.0, 1.0])
def test_the_texels_of_the_chosen_level_are_as_large_as_a_sample(texels, level, distance, monkeypatch):
    """A sample is half a pixel wide; the square has 64 pixels. Levels have their number as colour."""
    sizes = [max(1, texels >> number) for number in range(12)]
    levels = [np.full((size, size, 4), (number, 0, 0, 255), np.uint8) for number, size in enumerate(sizes)]
    monkeypatch.setattr(meshes, "_mips", lambda texture: levels)
    piece = square(Part(0, texture=0), FILLING * distance / 3.5, 3.5 - distance, uv=UV)
    assert (shown(piece, textures=[Texture(levels[0])])[0, ..., 0] == level).all()


def test_colours_multiply_in_linear_light_for_gltf_and_as_shown_otherwise():
    """Texture 200 times vertex colour 0.5: 146 in glTF, 100 in the other formats."""
    rgba = np.full((2, 2, 4), (200, 200, 200, 255), np.uint8)
    for linear, expected in ((True, 146), (False, 100)):
        piece = square(Part(0, texture=0), 9.0, uv=UV, colors=np.full((4, 4), (0.5, 0.5, 0.5, 1.0)))
        assert (shown(piece, textures=[Texture(rgba)], linear=linear, size=4) == expected).all()


def test_vertex_colours_are_interpolated_in_perspective():
    """On a slanted square the colour at a pixel is that of the point it shows, not of the place in the image."""
    corners = SQUARE * [1, FILLING, FILLING] + np.array([[1.5], [-1.5], [-1.5], [1.5]]) * [1, 0, 0]
    colors = np.array([[0, 0, 0, 1], [1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1]], np.float64)
    image = shown(Piece(corners, QUAD, Part(0), colors=colors), size=65)[0, 32, :, 0]
    slope = (np.arange(65) + 0.5 + SAMPLES[:, :1] - 32.5) / 32.5 * np.tan(0.35)  # y / distance
    share = 0.5 + 3.5 * slope / (2 * FILLING - 3 * slope)  # where y = FILLING (2 s - 1), x = 1.5 (1 - 2 s)
    inside = (share.min(0) > 0) & (share.max(0) < 1)
    assert inside.sum() > 30
    assert (np.abs(image[inside] - 255 * share.mean(0)[inside]) <= 0.51).all()


def test_a_textured_sphere_is_the_closed_form():
    """Where rays meet the sphere the texture is known; the triangles of the mesh are 0.0003 inside it."""
    waves = np.stack([np.arange(512), np.arange(512)[::-1] // 2, np.full(512, 128), np.full(512, 255)], -1) % 256
    rgba = np.uint8(waves)[None].repeat(256, 0)
    points, faces, uv = sphere(rings=120)
    cameras = on_sphere(torch.tensor([140.0]), 20.0, 3.5, 0.7, 128)
    mesh = assemble([Piece(points, faces, Part(0, texture=0), uv=uv)], [Texture(rgba, nearest=True)], linear=False)
    image = render_mesh(mesh, cameras)[0]
    at = hits_of_unit_sphere(cameras)
    hit = np.isfinite(at).all(axis=-1)
    azimuth = np.arctan2(at[..., 1], at[..., 0]) % (2 * np.pi)
    column = np.where(hit, np.floor(np.nan_to_num(azimuth) / (2 * np.pi) * 512), 0).astype(int)
    expected = np.where(hit[..., None], rgba[0, column, :3].astype(float), 255).mean(axis=2)
    error = np.abs(image - expected)
    assert error.mean() < 0.5
    assert np.quantile(error, 0.99) <= 64  # one of four samples at the silhouette or at a step of the texture
    inside = hit.all(axis=2)
    assert np.quantile(error[inside], 0.95) <= 1.5


# ---- edges, transparency, sides -------------------------------------------------------------------------------------


def test_edges_show_the_share_of_a_pixel_that_is_covered():
    """Four samples: straight edges have steps of a quarter; the area of a turned square is right within 0.5 %."""
    black = Part(0, base_color=(0.0, 0.0, 0.0, 1.0))
    unit = 32 / FILLING  # pixels
    for quarters in range(5):
        image = shown(square(black, (20 + quarters / 4) / unit))[0, 32, :, 0]
        assert image[11] == image[52] == round(255 * (1 - quarters / 4))
        assert (image[12:52] == 0).all()
        assert (image[:11] == 255).all()
    for degrees in (10, 27, 45, 72):
        turn = np.radians(degrees)
        matrix = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
        covered = 1 - shown(Piece(20 / unit * SQUARE @ matrix.T, QUAD, black))[0, ..., 0] / 255
        assert covered.sum() == pytest.approx(40**2, rel=5e-3)


def test_transparent_surfaces_are_composited_from_front_to_back():
    """Two fifths of red before three tenths of blue before white, in any order of the file; sides do not matter."""
    layers = [
        square(Part(0, base_color=(1.0, 0.0, 0.0, 0.4), alpha_mode="BLEND"), 9.0, 0.5),
        square(Part(0, base_color=(0.0, 0.0, 1.0, 0.3), alpha_mode="BLEND"), 9.0, 0.0, turned=True),
    ]
    two = 0.4 * np.array([1, 0, 0]) + 0.6 * 0.3 * np.array([0, 0, 1])
    expected = np.round(255 * (two + 0.6 * 0.7))
    for pieces in (layers, layers[::-1]):
        assert (shown(*pieces, size=8) == expected).all()
    opaque = square(Part(0, base_color=GREEN), 9.0, -0.5)
    behind = np.round(255 * (two + 0.6 * 0.7 * np.array([0, 1, 0])))
    assert (shown(*layers, opaque, size=8) == behind).all()


def test_many_transparent_layers_one_hundredth_of_a_unit_apart():
    pieces = [
        square(Part(0, base_color=(0.0, 0.0, 0.0, 0.1), alpha_mode="BLEND"), 9.0, 0.01 * number) for number in range(30)
    ]
    assert (shown(*pieces, size=4) == round(255 * 0.9**30)).all()


def test_a_transparent_surface_seen_at_a_grazing_angle_counts_once():
    """Below the horizon of a plane at z = 5, whose points float32 rounds to either side, each ray passes it once."""
    plane = np.array([[-40, -40, 5], [40, -40, 5], [40, 40, 5], [-40, 40, 5]], np.float64)
    part = Part(0, base_color=(0.0, 0.0, 0.0, 0.5), alpha_mode="BLEND")
    mesh = assemble([Piece(plane, QUAD, part)], [], linear=False)
    for height in (1e-1, 1e-2, 1e-3):
        center = torch.tensor([[3.5, 0.0, 5 + height]], dtype=torch.float64)
        toward = look_at(center, center - torch.tensor([1.0, 0, 0]).double(), torch.tensor([[0.0, 0, 1]]).double())
        image = render_mesh(mesh, replace(front(), world_to_camera=toward))[0]
        assert (image[:31] == 255).all()
        assert (image[36:] == 128).all()


def test_a_masked_surface_is_there_or_not():
    """Above the cutoff alpha is 1, below it the surface behind is seen; opaque surfaces ignore alpha."""
    alpha = np.array([[100, 150]], np.uint8)
    rgba = np.stack([np.full_like(alpha, 255), 0 * alpha, 0 * alpha, alpha], axis=-1)
    behind = square(Part(0, base_color=BLUE), 9.0, -1)
    for mode, left in (("MASK", (0, 0, 255)), ("OPAQUE", (255, 0, 0))):
        part = Part(0, texture=0, alpha_mode=mode, alpha_cutoff=0.5)
        image = shown(square(part, FILLING, uv=UV), behind, textures=[Texture(rgba, nearest=True)])[0]
        assert (image[:, :32] == left).all()
        assert (image[:, 32:] == (255, 0, 0)).all()


def test_one_sided_surfaces_are_not_seen_from_behind():
    one, both = Part(0, base_color=RED, double_sided=False), Part(0, base_color=RED)
    behind = square(Part(0, base_color=BLUE), 9.0, -1)
    assert (shown(square(one, 9.0), behind, size=4) == (255, 0, 0)).all()
    assert (shown(square(one, 9.0, turned=True), behind, size=4) == (0, 0, 255)).all()
    assert (shown(square(both, 9.0, turned=True), behind, size=4) == (255, 0, 0)).all()


def test_two_one_sided_surfaces_in_one_place_show_each_its_side():
    """A ray hits either of them first."""
    red, green = Part(0, base_color=RED, double_sided=False), Part(0, base_color=GREEN, double_sided=False)
    for pieces in (
        (square(red, 0.5), square(green, 0.5, turned=True)),
        (square(green, 0.5, turned=True), square(red, 0.5)),
    ):
        image = shown(*pieces, views=2)
        assert (image[0, 28:36, 28:36] == (255, 0, 0)).all()
        assert (image[1, 28:36, 28:36] == (0, 255, 0)).all()


# ---- light ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [True, False])
def test_light_follows_the_normals(smooth):
    """A sphere: ambient, sky by the height of the normal, and a lamp above and behind the camera (views.py)."""
    points, faces, _ = sphere(rings=150)
    cameras = on_sphere(torch.tensor([30.0]), 10.0, 3.5, 0.7, 96)
    normals = points if smooth else None
    piece = Piece(points, faces, Part(0, base_color=(0.8, 0.8, 0.8, 1.0)), normals=normals)
    image = render_mesh(assemble([piece], [], linear=False), cameras, "lit")[0, ..., 0]
    normal = hits_of_unit_sphere(cameras)
    center = cameras.centers[0].double().numpy()
    lamp = 0.65 * center / np.linalg.norm(center) + [0, 0, 1]
    lamp /= np.linalg.norm(lamp)
    light = 0.44 + 0.3 * (0.5 + 0.5 * normal[..., 2]) + 0.32 * np.maximum(normal @ lamp, 0)
    expected = (255 * 0.8 * light).mean(axis=2)
    inside = np.isfinite(expected)
    error = np.abs(image[inside] - expected[inside])
    assert inside.sum() > 4000
    assert error.mean() < (0.4 if smooth else 0.6)
    assert np.quantile(error, 0.999) <= (1 if smooth else 3)


def test_an_unlit_material_and_a_turned_face_have_their_light():
    base = (0.8, 0.8, 0.8, 1.0)
    unlit = shown(square(Part(0, base_color=base, unlit=True), 9.0), size=4, shading="lit")
    assert (unlit == 204).all()
    one, other = (
        shown(square(Part(0, base_color=base), 9.0, turned=turned), size=4, shading="lit") for turned in (0, 1)
    )
    assert (one == other).all()


# ---- cameras, repetition, errors ------------------------------------------------------------------------------------


def test_a_mesh_is_where_the_gaussians_are():
    """Small squares and small Gaussians at the same six points: the centres of their pixels agree to 0.1 pixels."""
    places = torch.tensor(
        [[0.6, 0.2, 0.1], [-0.5, 0.5, 0.3], [0.1, -0.7, -0.4], [0, 0, 0.9], [0.3, 0.8, -0.6], [0, 0, 0]]
    )
    cameras = on_sphere(torch.tensor([0.0, 33.0, 170.0, 281.0]), torch.tensor([0.0, 25.0, -40.0, 80.0]), 3.5, 0.7, 200)
    ball, faces, _ = sphere(rings=12)
    for place in places:
        mesh = assemble(
            [Piece(0.05 * ball + place.numpy(), faces, Part(0, base_color=(0.0, 0.0, 0.0, 1.0)))], [], linear=False
        )
        gaussian = Gaussians(
            means=place[None],
            log_scales=torch.full((1, 3), -4.0),
            quats=torch.tensor([[1.0, 0, 0, 0]]),
            logit_opacities=torch.tensor([5.0]),
            sh=rgb_to_sh(torch.zeros(1, 1, 3)),
        )
        splats = 1 - rasterize.render_on_white(gaussian, cameras)[:, 0].double().numpy()
        solid = 1 - render_mesh(mesh, cameras)[..., 0] / 255
        grid = np.indices((200, 200)) + 0.5
        for one, other in zip(splats, solid, strict=True):
            centers = [(grid * image).sum((1, 2)) / image.sum() for image in (one, other)]
            assert np.abs(centers[0] - centers[1]).max() < 0.1


def test_images_are_equal_whatever_the_number_of_threads(monkeypatch):
    points, faces, uv = sphere(rings=40)
    rgba = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    part = Part(0, texture=0, alpha_mode="BLEND", double_sided=False)
    mesh = assemble([Piece(points, faces, part, uv=uv), square(scale=0.5)], [Texture(rgba)], linear=True)
    first = render_mesh(mesh, front(views=6))
    for threads in (1, 2, 4):
        monkeypatch.setattr(meshes, "_threads", lambda threads=threads: threads)
        assert np.array_equal(render_mesh(mesh, front(views=6)), first)


def test_blocks_of_any_size_give_the_same_image(monkeypatch):
    points, faces, _ = sphere(rings=20)
    mesh = assemble([Piece(points, faces, Part(0, base_color=RED))], [], linear=False)
    whole = render_mesh(mesh, front())
    monkeypatch.setattr(meshes, "CHUNK", 100)
    assert np.array_equal(render_mesh(mesh, front()), whole)


def test_a_mesh_around_the_camera_is_seen_from_inside():
    points, faces, _ = sphere(rings=20)
    image = shown(Piece(9 * points, faces, Part(0, base_color=GREEN)))
    assert (image == (0, 255, 0)).all()


def test_no_views_are_no_images():
    assert shown(square(), views=1)[:0].shape == (0, 64, 64, 3)
    mesh = assemble([square()], [], linear=False)
    assert render_mesh(mesh, front().select(slice(0, 0))).shape == (0, 64, 64, 3)


def test_without_embree_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex.mesh_construction", None)
    with pytest.raises(RenderError, match=r"^Rendering a mesh needs embreex; pip install 'segmentdreamer\[mesh\]'\.$"):
        shown(square())
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(RenderError, match=r"^Rendering a mesh needs embreex, which has no package for Linux on ARM\.$"):
        shown(square())


# ---- the synthetic world --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phrase", "texture", "error"),
    [
        ("a green cactus", False, 0.5),
        ("a red and white checkered cube", True, 1.5),
        ("a red and white checkered cube", False, 5.0),
    ],
)
@pytest.mark.parametrize("shading", ["unlit", "lit"])
def test_objects_of_the_synthetic_world_look_as_its_ray_tracer_shows_them(phrase, texture, error, shading, tmp_path):
    """Mean absolute error in steps of 1/255; vertex colours blur the edges of a pattern. Both have 4 rays per pixel."""
    rows = world_meshes.dull(world.scene_of(np.random.default_rng(3), phrase).rows)
    (tmp_path / "a.glb").write_bytes(world_meshes.to_glb(rows, texture=texture, sky=shading == "unlit"))
    mesh = read_mesh(tmp_path / "a.glb").transformed(axes("y").numpy().T)
    azimuth, elevation = [0.0, 50.0, 200.0], [0.0, 20.0, 40.0]
    cameras = world.orbit_cameras(azimuth, elevation)
    table = world_meshes.sky_cameras(cameras) if shading == "unlit" else cameras.table
    truth = raytrace.render(rows, [0], [len(rows)], [0] * 3, table, 192, 2).permute(0, 2, 3, 1).numpy()
    found = render_mesh(mesh, on_sphere(torch.tensor(azimuth), torch.tensor(elevation), 3.5, 0.55, 192), shading)
    assert np.abs(truth.astype(float) - found).mean() < error
