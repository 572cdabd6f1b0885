"""Damage grows with its strength and is zero at 0; damages that miss the object are not counted."""

import pytest
import torch

from pipeline.embedded import damage


@pytest.fixture
def images():
    """A textured disc left of the centre, on a background that changes from row to row."""
    place = torch.linspace(-1, 1, 64)
    inside = torch.hypot(place[:, None], place[None] + 0.2) < 0.6
    random = torch.Generator().manual_seed(0)
    texture = torch.rand(6, 3, 8, 8, generator=random).repeat_interleave(8, 2).repeat_interleave(8, 3)
    background = (0.5 + 0.2 * place)[:, None].expand(64, 64)
    return torch.where(inside, 0.2 + 0.6 * texture, background)


@pytest.mark.parametrize("name", damage.DAMAGES)
def test_strength_0_leaves_the_image_unchanged(images, name):
    torch.manual_seed(0)
    assert (damage.DAMAGES[name](images, torch.zeros(6)) - images).abs().max() < 1e-5


@pytest.mark.parametrize("name", damage.DAMAGES)
def test_damage_is_visible_and_stays_in_range(images, name):
    torch.manual_seed(0)
    damaged = damage.DAMAGES[name](images, torch.full((6,), 0.8))
    assert damaged.shape == images.shape
    assert damaged.min() > -0.01
    assert damaged.max() < 1.01
    assert damage.visible(name, images, damaged).all()


@pytest.mark.parametrize("name", [name for name in damage.DAMAGES if name not in damage.ALL_OR_NOTHING])
def test_damage_grows_with_strength(images, name):
    change = []
    for strength in (0.2, 0.5, 1.0):
        torch.manual_seed(1)
        change.append(float((damage.DAMAGES[name](images, torch.full((6,), strength)) - images).abs().mean()))
    assert change == sorted(change)
    assert change[2] > 1.5 * change[0]


def test_blur_is_a_gaussian_that_keeps_the_mean():
    """An impulse far from the border becomes the normal density; a constant image stays constant up to the border."""
    impulse = torch.zeros(1, 3, 64, 64)
    impulse[:, :, 32, 32] = 1
    blurred = damage.blur_by(impulse, torch.tensor([2.0]))
    assert blurred.sum() == pytest.approx(3, rel=1e-4)
    distance = torch.arange(64.0) - 32
    density = torch.exp(-(distance**2) / 8) / (2 * torch.pi * 4) ** 0.5
    torch.testing.assert_close(blurred[0, 0], density[:, None] * density, atol=1e-5, rtol=0)
    plain = torch.full((1, 3, 64, 64), 0.7)
    torch.testing.assert_close(damage.blur_by(plain, torch.tensor([3.0])), plain)


def test_two_faces_is_symmetric_and_not_visible_on_a_symmetric_image(images):
    torch.manual_seed(2)
    twins = damage.two_faces(images, torch.ones(6))
    assert torch.equal(twins, twins.flip(-1))
    again = damage.two_faces(twins, torch.ones(6))
    assert not damage.visible("two_faces", twins, again).any()


def test_cut_out_replaces_pixels_by_the_background_of_their_rows(images):
    torch.manual_seed(3)
    cut = damage.cut_out(images, torch.full((6,), 0.5))
    changed = (cut != images).any(1)
    assert changed.any((1, 2)).all()
    rows = images[..., :1].expand_as(images)
    assert torch.equal(cut.permute(1, 0, 2, 3)[:, changed], rows.permute(1, 0, 2, 3)[:, changed])


def test_pairs_are_ordered_by_damage(images):
    torch.manual_seed(4)
    pairs = damage.damaged_pairs(images.repeat(8, 1, 1, 1))
    assert pairs.mild.shape == pairs.bad.shape == (48, 3, 64, 64)
    clean = images.repeat(8, 1, 1, 1)
    mild, bad = ((x - clean).abs().mean((1, 2, 3)) for x in (pairs.mild, pairs.bad))
    assert (mild == 0).any()
    assert (mild > 0).any()
    assert bad.mean() > 2 * mild.mean()
    assert pairs.sure.float().mean() > 0.8
