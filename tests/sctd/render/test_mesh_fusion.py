"""sctd.render.mesh_fusion: closed surfaces with the right position, size, colours and topology."""

import io
import math

import numpy as np
import pytest
import torch
import trimesh

from sctd.formats.mesh import to_mesh_file
from sctd.render.mesh_fusion import FusionError, fuse
from sctd.scene.gaussians import Gaussians, rgb_to_sh


def shell(points: torch.Tensor, size: float, rgb: torch.Tensor, opacity: float = 0.95) -> Gaussians:
    num = len(points)
    return Gaussians(
        means=points,
        log_scales=torch.full((num, 3), math.log(size)),
        quats=torch.tensor([[1.0, 0, 0, 0]]).expand(num, 4),
        logit_opacities=torch.full((num,), opacity).logit(),
        sh=rgb_to_sh(rgb)[:, None],
    )


@pytest.fixture(scope="module")
def ball():
    """A ball of radius 2 around (5, 0, 1), red on the side of larger x and blue on the other, and its mesh."""
    directions = torch.nn.functional.normalize(torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    red = (directions[:, :1] > 0).float()
    gaussians = shell(2 * directions + torch.tensor([5.0, 0, 1]), 0.06, torch.cat([red, 0 * red, 1 - red], dim=1))
    return gaussians, fuse(gaussians, cells=48, pixels=96)


def test_a_ball_gives_a_closed_ball_at_its_position(ball):
    _, (vertices, faces, _) = ball
    radii = (vertices - torch.tensor([5.0, 0, 1])).norm(dim=-1)
    outside = 2 + 2 * 0.06  # the Gaussians are opaque up to two standard deviations outside the sphere
    assert 2 < float(radii.mean()) < outside
    assert float(radii.std()) < 4.3 / 48, "less than a cell"
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight
    assert mesh.euler_number == 2
    assert 2**3 < mesh.volume / (4 / 3 * math.pi) < outside**3, "positive: faces point outwards"


def test_vertices_have_the_colour_of_their_side(ball):
    _, (vertices, _, rgb) = ball
    right, left = vertices[:, 0] > 5.5, vertices[:, 0] < 4.5
    torch.testing.assert_close(rgb[right].mean(0), torch.tensor([1.0, 0, 0]), atol=0.05, rtol=0)
    torch.testing.assert_close(rgb[left].mean(0), torch.tensor([0.0, 0, 1]), atol=0.05, rtol=0)


def test_a_hole_stays_open():
    turn = 2 * math.pi * torch.arange(600) / 600
    ring = torch.stack([turn.cos(), turn.sin(), 0 * turn], dim=-1)
    mesh = fuse(shell(ring, 0.08, torch.full((600, 3), 0.5)), cells=48, pixels=96)
    assert trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).euler_number == 0


def test_a_stray_gaussian_does_not_change_the_grid(ball):
    gaussians, (vertices, _, _) = ball
    stray = shell(torch.tensor([[90.0, 90, 90]]), 0.06, torch.ones(1, 3))
    again = fuse(gaussians.concatenate(stray), cells=48, pixels=96).vertices
    assert again.max() < 10
    assert len(again) == pytest.approx(len(vertices), rel=0.1)


def test_transparent_gaussians_are_refused(ball):
    gaussians, _ = ball
    with pytest.raises(FusionError, match=r"^No surface found: every Gaussian is transparent\. Check the turntable"):
        fuse(Gaussians(**{**gaussians.tensors(), "logit_opacities": torch.full((4000,), -9.0)}))
    few = shell(torch.tensor([[0.0, 0, 0], [1, 1, 1]]), 0.05, torch.ones(2, 3), opacity=0.1)
    with pytest.raises(FusionError, match=r"^No surface found: the object is too transparent\."):
        fuse(few, cells=16, pixels=32)


@pytest.mark.parametrize("suffix", [".obj", ".glb"])
def test_exported_meshes_keep_their_colours(ball, suffix):
    _, (vertices, faces, rgb) = ball
    data = to_mesh_file(vertices, faces, rgb, suffix)
    (read,) = trimesh.load_scene(io.BytesIO(data), file_type=suffix[1:], process=False).dump()
    np.testing.assert_array_equal(read.faces, faces.numpy())
    np.testing.assert_allclose(read.vertices, vertices.numpy(), atol=1e-5)
    stored = read.visual.vertex_colors[:, :3] / 255
    shown = (
        stored
        if suffix == ".obj"
        else np.where(stored <= 0.0031308, 12.92 * stored, 1.055 * stored ** (1 / 2.4) - 0.055)
    )
    np.testing.assert_allclose(shown, rgb.numpy(), atol=0.03)
