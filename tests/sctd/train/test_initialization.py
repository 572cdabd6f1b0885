"""sctd.train.initialization: number, positions, scales and colours; errors of bad files and missing models."""

import math

import numpy as np
import plyfile
import pytest
import torch
import trimesh
from trimesh.visual import ColorVisuals

from sctd.formats import ply
from sctd.point_e import PointDiffusionTransformer, PointE, PointEConfig, SamplerConfig
from sctd.recipe.scene import MESH_SUFFIXES, InitializationConfig
from sctd.scene.gaussians import Gaussians, sh_to_rgb
from sctd.train.initialization import (
    InitializationError,
    InitPoints,
    in_ball,
    in_box,
    initial_gaussians,
    neighbour_scales,
    on_sphere,
    replicate,
)
from tests.support.paths import FIXTURES
from tests.support.splats import compressed, some_splats

POINT_E = FIXTURES / "pointe"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shape(**fields):
    return InitializationConfig(**{"kind": "ball", "count": 200, "point_e_up_shift": 0.0, **fields})


def write_points(path, xyz, **columns):
    names = {"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], **columns}
    rows = np.empty(len(xyz), dtype=[(name, np.asarray(column).dtype) for name, column in names.items()])
    for name, column in names.items():
        rows[name] = column
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")]).write(str(path))
    return str(path)


@pytest.mark.parametrize("kind", ["ball", "sphere", "box"])
def test_shapes_have_the_given_count_radius_opacity_and_colour(kind):
    gaussians = initial_gaussians(shape(kind=kind, radius=0.6, opacity=0.3, colour=0.4), "a cube", generator())
    assert gaussians.num == 200
    length = gaussians.means.abs().amax(1) if kind == "box" else gaussians.means.norm(dim=1)
    assert 0.55 < length.max() <= 0.6 + 1e-6
    torch.testing.assert_close(gaussians.opacities, torch.full((200,), 0.3))
    torch.testing.assert_close(sh_to_rgb(gaussians.sh), torch.full((200, 1, 3), 0.4))
    assert gaussians.quats.equal(torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(200, 4))


@pytest.mark.parametrize(
    ("draw", "second_moment"), [(in_ball, 1 / 5), (on_sphere, 1 / 3), (in_box, 1 / 3)], ids=["ball", "sphere", "box"]
)
def test_shapes_are_filled_uniformly(draw, second_moment):
    """E[x xᵀ] of each: 1/5 (ball) or 1/3 (sphere, cube) times the identity; 20 000 draws, five standard errors."""
    x = draw(20_000, generator(1)).double()
    torch.testing.assert_close(x.T @ x / len(x), second_moment * torch.eye(3, dtype=x.dtype), rtol=0, atol=0.012)
    torch.testing.assert_close(x.mean(0), torch.zeros(3, dtype=x.dtype), rtol=0, atol=0.02)


def test_scales_are_the_rms_distance_to_three_neighbours():
    """Points at 0, 1, 3 and 7: squared distances are 1, 9, 49 for the first, 1, 4, 36 for the second, and so on."""
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0], [7, 0, 0]])
    expected = torch.tensor([1 + 9 + 49, 1 + 4 + 36, 4 + 9 + 16, 16 + 36 + 49]).div(3).sqrt()
    torch.testing.assert_close(neighbour_scales(line), expected)
    torch.testing.assert_close(neighbour_scales(torch.zeros(5, 3)), torch.full((5,), math.sqrt(1e-7)))
    grid = torch.cartesian_prod(*[0.1 * torch.arange(5.0)] * 3)
    torch.testing.assert_close(neighbour_scales(grid), torch.full((125,), 0.1))


def test_scales_of_random_points_match_brute_force():
    x = torch.randn(300, 3, generator=generator(2))
    nearest = torch.cdist(x.double(), x.double()).square().sort(dim=1).values[:, 1:4]
    torch.testing.assert_close(neighbour_scales(x), nearest.mean(1).sqrt().float())


def test_a_fixed_scale_does_not_need_neighbours():
    gaussians = initial_gaussians(shape(count=1, scale=0.02), "a cube", generator())
    torch.testing.assert_close(gaussians.scales, torch.full((1, 3), 0.02))
    with pytest.raises(
        InitializationError,
        match=r"1 points are too few for a scale from three neighbours .* or set initialization\.scale",
    ):
        initial_gaussians(shape(count=1), "a cube", generator())


def test_a_seed_determines_positions_and_colour_noise():
    config = shape(colour_noise=0.1, count=4000)
    first, again, other = (initial_gaussians(config, "a cube", generator(seed)) for seed in (1, 1, 2))
    assert all(first.tensors()[name].equal(tensor) for name, tensor in again.tensors().items())
    assert not first.means.equal(other.means)
    rgb = sh_to_rgb(first.sh[:, 0])
    assert rgb.mean().item() == pytest.approx(0.5, abs=0.005)
    assert rgb.std().item() == pytest.approx(0.1, rel=0.05)


def test_points_are_replicated_within_a_ball():
    points = InitPoints(10 * torch.eye(3), torch.eye(3))
    copies = replicate(shape(replicas=50, replica_radius=0.05), points, generator())
    distances = (copies.xyz - points.xyz.repeat_interleave(50, 0)).norm(dim=1)
    assert copies.xyz.shape == (150, 3)
    assert 0.045 < distances.max() <= 0.05
    assert copies.rgb.equal(points.rgb.repeat_interleave(50, 0))
    assert replicate(shape(replicas=1), points, generator()).xyz.equal(points.xyz)
    few = replicate(shape(replicas=1, count=2), points, generator())
    assert {tuple(row) for row in few.xyz.tolist()} < {tuple(row) for row in points.xyz.tolist()}


def test_a_point_cloud_keeps_its_colours_only_if_requested(tmp_path):
    xyz = torch.randn(10, 3, generator=generator()).numpy()
    red, green, blue = np.arange(30, dtype=np.uint8).reshape(3, 10) * 8
    path = write_points(tmp_path / "points.ply", xyz, red=red, green=green, blue=blue)
    config = shape(kind="ply", path=path, replicas=1)
    grey, coloured = (
        initial_gaussians(config.model_copy(update={"use_point_cloud_colours": keep}), "", generator())
        for keep in (False, True)
    )
    np.testing.assert_array_equal(grey.means, xyz)
    torch.testing.assert_close(sh_to_rgb(grey.sh), torch.full((10, 1, 3), 0.5))
    torch.testing.assert_close(
        sh_to_rgb(coloured.sh[:, 0]).numpy() * 255,
        np.stack([red, green, blue], 1),
        atol=1e-3,
        rtol=0,
        check_dtype=False,
    )


def test_a_3dgs_ply_is_used_unchanged(tmp_path):
    drawn = [
        torch.randn(*size, generator=generator(n)) for n, size in enumerate([(7, 3), (7, 3), (7, 4), (7,), (7, 1, 3)])
    ]
    gaussians = Gaussians(*drawn)
    (tmp_path / "asset.ply").write_bytes(ply.to_ply(gaussians))
    found = initial_gaussians(shape(kind="ply", path=str(tmp_path / "asset.ply")), "", generator())
    torch.testing.assert_close(found.means, gaussians.means)
    torch.testing.assert_close(found.sh, gaussians.sh)
    torch.testing.assert_close(found.logit_opacities, gaussians.logit_opacities)


def test_a_bad_ply_is_refused_in_one_sentence(tmp_path):
    def start(name):
        return initial_gaussians(shape(kind="ply", path=str(tmp_path / name)), "", generator())

    with pytest.raises(
        InitializationError, match=r"cannot read initialization\.path .*none\.ply .*give a readable \.ply"
    ):
        start("none.ply")
    (tmp_path / "text.ply").write_bytes(b"no ply at all")
    with pytest.raises(InitializationError, match=r"initialization\.path .*text\.ply: This is not a \.ply"):
        start("text.ply")
    write_points(tmp_path / "red.ply", np.zeros((5, 3), np.float32), red=np.zeros(5, np.uint8))
    with pytest.raises(InitializationError, match=r"red\.ply: The \.ply lacks the properties green, blue"):
        start("red.ply")
    (tmp_path / "text.npz").write_bytes(b"no npz at all")
    with pytest.raises(
        InitializationError, match=r"text\.npz: The \.npz is not a point cloud of Point-E \(.*\); expected co"
    ):
        start("text.npz")
    np.savez(tmp_path / "other.npz", coords=np.full((4, 3), np.nan))
    with pytest.raises(
        InitializationError, match=r"other\.npz: The \.npz is not a point cloud of Point-E \(coords has shape"
    ):
        start("other.npz")


def test_point_clouds_without_colours_have_the_recipes_colour(tmp_path):
    path = write_points(tmp_path / "bare.ply", np.eye(4, 3, dtype=np.float32))
    found = initial_gaussians(shape(kind="ply", path=path, colour=0.25, colour_noise=0.0, replicas=1), "", generator())
    assert sh_to_rgb(found.sh[:, 0]).flatten().tolist() == pytest.approx([0.25] * 12)


def test_point_clouds_of_point_e_are_read(tmp_path):
    xyz, rgb = np.eye(4, 3, dtype=np.float32), np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    np.savez(tmp_path / "cloud.npz", coords=xyz, R=rgb[:, 0], G=rgb[:, 1], B=rgb[:, 2])
    config = shape(
        kind="ply", path=str(tmp_path / "cloud.npz"), replicas=1, colour_noise=0.0, use_point_cloud_colours=True
    )
    found = initial_gaussians(config, "", generator())
    front, left, up = found.means[1], found.means[0], found.means[2]
    assert (-front).tolist() == [1, 0, 0]  # Point-E's y is the back
    assert left.tolist() == [0, 1, 0]
    assert up.tolist() == [0, 0, 1]
    assert torch.allclose(sh_to_rgb(found.sh[:, 0]), torch.from_numpy(rgb), atol=1e-6)


def test_a_ply_of_the_other_kind_is_refused_with_the_kind_to_set(tmp_path):
    path = tmp_path / "box.ply"
    path.write_bytes(trimesh.creation.box().export(file_type="ply"))
    with pytest.raises(
        InitializationError, match=r"box\.ply: The \.ply is a mesh of 8 vertices and 12 faces; .*kind=mesh\.$"
    ):
        initial_gaussians(shape(kind="ply", path=str(path)), "", generator())
    points = write_points(tmp_path / "points.ply", np.eye(3, dtype=np.float32))
    with pytest.raises(InitializationError, match=r"points\.ply: The file has 3 vertices and no faces; .*kind=ply\.$"):
        initial_gaussians(shape(kind="mesh", path=points), "", generator())


def write_box(path, colour=(0, 255, 0, 255), visual=None):
    """A box with extents 1, 2, 3 along the file's x, y, z, centred at (7, 0, 0)."""
    box = trimesh.creation.box(extents=(1, 2, 3)).apply_translation([7, 0, 0])
    box.visual = visual or ColorVisuals(vertex_colors=np.tile(np.uint8(colour), (8, 1)))
    box.export(str(path))
    return str(path)


def test_a_mesh_gives_points_on_its_surface(tmp_path):
    """z up, with its colours; half extents 0.5, 1, 1.5 scaled to a radius of 0.7."""
    config = shape(kind="mesh", path=write_box(tmp_path / "box.ply"), replicas=3, replica_radius=0.0, mesh_radius=0.7)
    gaussians = initial_gaussians(config.model_copy(update={"use_point_cloud_colours": True}), "", generator())
    half = 0.7 * torch.tensor([0.5, 1.0, 1.5]) / math.sqrt(0.25 + 1 + 2.25)
    assert gaussians.num == 600
    torch.testing.assert_close((gaussians.means.abs() / half).amax(1), torch.ones(600), rtol=1e-5, atol=0)
    torch.testing.assert_close(sh_to_rgb(gaussians.sh[:, 0]), torch.tensor([0.0, 1, 0]).expand(600, 3))
    grey = initial_gaussians(config, "", generator())
    torch.testing.assert_close(sh_to_rgb(grey.sh[:, 0]), torch.full((600, 3), 0.5))
    assert grey.means.equal(gaussians.means)


@pytest.mark.parametrize(
    ("name", "fields", "extents"),
    [
        ("box.ply", {}, (1, 2, 3)),
        ("box.stl", {}, (1, 2, 3)),
        ("box.glb", {}, (3, 1, 2)),
        ("box.obj", {}, (3, 1, 2)),
        ("box.OBJ", {"mesh_up": "z"}, (1, 2, 3)),
        ("box.stl", {"mesh_front": "-y"}, (2, 1, 3)),
        ("box.stl", {"mesh_up": "y"}, (3, 1, 2)),
    ],
)
def test_a_mesh_is_rotated_by_its_format_or_the_recipe(tmp_path, name, fields, extents):
    """In glTF the front is z and up is y, so the file's (z, x, y) become our (x, y, z)."""
    config = shape(kind="mesh", path=write_box(tmp_path / name), replicas=1, mesh_radius=0, **fields)
    means = initial_gaussians(config, "", generator()).means
    torch.testing.assert_close(means.amax(0) - means.amin(0), torch.tensor(extents).float(), rtol=0.02, atol=0)
    assert float(means.abs().max()) > 6.4  # mesh_radius 0 keeps the position


def test_a_bad_mesh_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(
        InitializationError, match=r"cannot read initialization\.path .*none\.glb \(No such file .*give a readable mesh"
    ):
        initial_gaussians(shape(kind="mesh", path=str(tmp_path / "none.glb")), "", generator())
    (tmp_path / "empty.off").write_bytes(b"")
    with pytest.raises(
        InitializationError, match=r"initialization\.path .*empty\.off: The file is empty; expected a mesh\."
    ):
        initial_gaussians(shape(kind="mesh", path=str(tmp_path / "empty.off")), "", generator())


def test_colours_in_another_file_are_refused_only_if_requested(tmp_path):
    path = tmp_path / "person.obj"
    path.write_bytes(b"mtllib person.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nusemtl skin\nf 1 2 3\n")
    config = shape(kind="mesh", path=str(path))
    assert initial_gaussians(config, "", generator()).num == 200 * config.replicas
    with pytest.raises(
        InitializationError, match=r"colours in another file, which is not read; export a \.glb with colours, .*=false$"
    ):
        initial_gaussians(config.model_copy(update={"use_point_cloud_colours": True}), "", generator())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kind": "mesh"}, r"kind is 'mesh' and path is ''; kinds 'ply' .*and 'mesh' need a path, and o"),
        ({"path": "head.glb"}, r"kind is 'ball' and path is 'head\.glb'; kinds 'ply' .* need"),
        ({"kind": "mesh", "path": "head.fbx"}, rf"ends with '\.fbx'; expected {', '.join(MESH_SUFFIXES)}"),
        ({"kind": "ply", "path": "head.glb"}, r"'head\.glb' is a mesh, not a \.ply; set initialization\.kind=mesh"),
        ({"mesh_up": "y", "mesh_front": "-y"}, r"mesh_front is '-y' and the up axis is 'y'; they must be"),
        ({"kind": "mesh", "path": "head.glb", "mesh_front": "y"}, r"mesh_front is 'y' and the up axis is 'y'"),
    ],
)  # fmt: skip
def test_an_invalid_initialization_is_refused_before_reading_files(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        shape(**fields)


def tiny_point_e():
    """A model with output zero: every sampled point is the initial noise, clipped to the data range."""
    sampler = SamplerConfig(steps=3, sigma_max=5.0, s_churn=0.0)
    model = PointDiffusionTransformer(
        PointEConfig(n_ctx=20, width=16, layers=1, heads=2, clip_width=8, axes="world", sampler=sampler)
    ).requires_grad_(False)
    return PointE(lambda texts: np.ones((len(texts), 8), np.float32), model)


def test_point_e_gives_replicated_gaussians():
    config = shape(kind="point_e", count=15, replicas=4, replica_radius=0.01, point_e_up_shift=0.25, point_e_steps=2)
    gaussians = initial_gaussians(config, "a cube", generator(3), tiny_point_e())
    level = config.model_copy(update={"point_e_up_shift": 0.0})
    unshifted = initial_gaussians(level, "a cube", generator(3), tiny_point_e())
    assert gaussians.num == 60
    torch.testing.assert_close(gaussians.means - unshifted.means, torch.tensor([0.0, 0.0, 0.25]).expand(60, 3))
    assert gaussians.means.view(15, 4, 3).std(1).max() < 0.02


def test_point_e_is_given_the_filled_template():
    embedded = []
    point_e = tiny_point_e()._replace(embed=lambda texts: embedded.extend(texts) or np.ones((1, 8), np.float32))
    initial_gaussians(shape(kind="point_e", point_e_prompt_template="{prompt}."), "a bagel", generator(), point_e)
    assert embedded == ["a bagel."]


def test_point_e_without_a_model_is_refused():
    config = shape(kind="point_e")
    with pytest.raises(InitializationError, match=r"no Point-E model for 'a cube'; .*set initialization\.kind=ball"):
        initial_gaussians(config, "a cube", generator())


@pytest.mark.skipif(not POINT_E.is_dir(), reason="needs Point-E point clouds in shared/fixtures/pointe")
@pytest.mark.parametrize("name", ["pc_corgi", "pc_cube_stack"])
def test_published_point_clouds_become_81_920_gaussians(tmp_path, name):
    """As in the paper recipe: 4096 points, 20 copies each, within 0.05 of Point-E's box of half edge 0.5."""
    cloud = np.load(POINT_E / f"{name}.npz")
    path = write_points(tmp_path / "cloud.ply", cloud["coords"], red=cloud["R"], green=cloud["G"], blue=cloud["B"])
    config = shape(kind="ply", path=path, count=4096, replicas=20, use_point_cloud_colours=True)
    gaussians = initial_gaussians(config, "", generator())
    assert gaussians.num == 81_920
    assert 0.45 < gaussians.means.abs().max() < 0.56
    torch.testing.assert_close(sh_to_rgb(gaussians.sh[::20, 0, 0]), torch.from_numpy(cloud["R"]), rtol=0, atol=1e-5)
    assert 1e-3 < gaussians.scales.median() < 0.02


@pytest.mark.parametrize("suffix", [".splat", ".spz", ".sog", ".SPZ"])
def test_other_formats_of_gaussians_name_the_command_that_converts_them(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"x")
    with pytest.raises(InitializationError) as caught:
        initial_gaussians(InitializationConfig(kind="ply", path=str(path)), "", torch.Generator())
    assert str(caught.value) == (
        f"initialization.path {path}: A {suffix.lower()} is not read here. Convert it with segmentdreamer export "
        f"{path} --to ply."
    )


def test_a_compressed_ply_is_used_unchanged(tmp_path):
    splats = some_splats(300, 1)
    (tmp_path / "a.compressed.ply").write_bytes(compressed(splats))
    config = InitializationConfig(kind="ply", path=str(tmp_path / "a.compressed.ply"))
    found = initial_gaussians(config, "", torch.Generator())
    expected = ply.from_ply(compressed(splats))
    assert found.num == 300
    assert all(map(torch.equal, found.tensors().values(), expected.tensors().values()))
