"""sctd.render.meshes: exact colours, edges by coverage, alpha, culling, light; the frame of the Gaussians."""

from dataclasses import replace

import numpy as np
import pytest

from sctd.formats.mesh_data import Mesh, Part, Piece, Texture, assemble
from sctd.render.meshes import render_mesh
from sctd.scene.cameras import orbit

pytest.importorskip("embreex", reason="rendering meshes needs the extra `mesh`")
SQUARE = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], np.float64)  # seen from +x: left bottom first
QUAD = np.array([[0, 1, 2], [0, 2, 3]])
UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float64)  # v downwards


def square(part=None, scale=1.0, x=0.0, **attributes):
    return Piece(SQUARE * scale + [x, 0, 0], QUAD, part or Part(0), **attributes)


def front(size=64, views=1):
    """Cameras at (3.5, 0, 0): the plane x = 0 is shown at size / 2 / (3.5 tan 0.35) pixels per unit."""
    return orbit(views, 0.0, 3.5, 0.7, size)


def test_a_flat_colour_is_exact():
    mesh = assemble([square(Part(0, base_color=(200 / 255, 100 / 255, 50 / 255, 1.0)), scale=9)], [], linear=False)
    assert (render_mesh(mesh, front())[0] == (200, 100, 50)).all()


def test_a_texture_is_shown_texel_for_texel():
    """Every byte of red once: texels of 4 x 4 pixels without interpolation, upright and not mirrored."""
    red = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgba = np.stack([red, red[::-1], red.T, np.full_like(red, 255)], axis=-1)
    scale = 3.5 * np.tan(0.35)  # the square fills the image
    for linear in (False, True):
        piece = square(Part(0, texture=0), scale, uv=UV)
        mesh = assemble([piece], [Texture(rgba, nearest=True)], linear=linear)
        assert (render_mesh(mesh, front(64))[0] == rgba[..., :3].repeat(4, 0).repeat(4, 1)).all()


def test_a_mesh_comes_back_from_its_bytes():
    mesh = assemble([square(Part(0, texture=0), uv=UV)], [Texture(np.full((2, 2, 4), 9, np.uint8))], linear=True)
    again = Mesh.from_bytes(mesh.to_bytes())
    assert again.to_bytes() == mesh.to_bytes() == replace(mesh).to_bytes()
