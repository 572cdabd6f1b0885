"""A radiance field as Gaussians: what they look like, and what is left out."""

import math

import pytest
import torch
import trimesh

from sctd.render.hash_grid import Levels
from sctd.render.nerf import Field, Lit, Nerf, Occupancy, render_on_white
from sctd.render.nerf_export import EmptyFieldError, to_gaussians, to_mesh
from sctd.render.rasterize import render_on_white as render_gaussians
from sctd.scene.cameras import orbit

FULL = Occupancy(torch.ones(8, 8, 8), 0.5)


def blob(scale: float = 60.0, occupancy: Occupancy = FULL, radius: float = 0.5) -> Lit:
    """A ball of radius 0.5 with a soft edge, whose colour varies."""
    field = Field(Levels(2, 4, 8, 10, 2), 8, 1.0, scale, radius)
    nerf = Nerf.random(field, torch.Generator().manual_seed(0))
    return Lit(nerf.map(lambda tensor: tensor * (300 if tensor.shape[-1] == 2 else 1)), occupancy, 128)


def test_the_gaussians_look_like_the_field() -> None:
    cameras = orbit(3, 15.0, 3.5, 0.55, 96)
    field, gaussians = render_on_white(blob(), cameras), render_gaussians(to_gaussians(blob()), cameras)
    assert -10 * math.log10(float((field - gaussians).square().mean())) > 28  # a duck has 33 dB; the edge is sharper


def test_hidden_and_faint_cells_are_left_out() -> None:
    found = to_gaussians(blob(scale=300.0), 48)
    distance, edge = found.means.norm(dim=-1), 2 / 48
    assert distance.max() < 0.5 + 3 * edge
    assert distance.min() > 0.3, "inside, all neighbours are opaque"
    assert float(found.opacities.min()) > 0.05
    whole = (4 / 3 * math.pi * 0.5**3) / edge**3
    assert found.num < whole
    assert found.sh_degree == 0


def test_cells_that_the_occupancy_grid_calls_empty_are_left_out() -> None:
    half = torch.zeros(8, 8, 8)
    half[4:] = 1  # x > 0
    found = to_gaussians(blob(occupancy=Occupancy(half, 0.5)), 32)
    assert found.means[:, 0].min() > 0
    assert found.num > 0


def test_the_mesh_is_closed_and_has_the_size_of_the_field() -> None:
    cells = 48
    edge, lit = 2 / cells, blob(scale=2000.0)  # so that the surface is sharp
    mesh = to_mesh(lit, cells)
    found = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    assert found.is_watertight
    assert found.volume > 0, "faces are counter-clockwise seen from outside"
    radius = mesh.vertices.norm(dim=-1)
    assert 0.5 - 2 * edge < radius.min() <= radius.max() < 0.5 + 2 * edge
    assert mesh.rgb.shape == mesh.vertices.shape
    assert torch.equal(mesh.rgb, lit.nerf(mesh.vertices)[1])


def test_a_field_without_anything_to_see_is_refused() -> None:
    with pytest.raises(EmptyFieldError, match="The NeRF is empty: no cell has any density"):
        to_gaussians(blob(occupancy=Occupancy(torch.zeros(8, 8, 8), 0.5)))
    with pytest.raises(EmptyFieldError, match="The NeRF is transparent: no cell shows anything"):
        to_gaussians(blob(scale=-60.0, radius=1e6), 16)
    with pytest.raises(EmptyFieldError, match=r"The NeRF has no surface: its largest density is \d"):
        to_mesh(blob(scale=-60.0, radius=1e6), 16)
