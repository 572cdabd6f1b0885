"""Damage grows with its strength and is nothing at 0; what missed its object is not counted."""

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
def test_no_strength_is_no_damage(images, name):
    torch.manual_seed(0)
    assert (damage.DAMAGES[name](images, torch.zeros(6)) - images).abs().max() < 1e-5


@pytest.mark.parametrize("name", damage.DAMAGES)
def test_strength_shows_and_stays_in_range(images, name):
    torch.manual_seed(0)
    spoiled = damage.DAMAGES[name](images, torch.full((6,), 0.8))
    assert spoiled.shape == images.shape
    assert spoiled.min() > -0.01
    assert spoiled.max() < 1.01
    assert damage.visible(name, images, spoiled).all()


@pytest.mark.parametrize("name", [name for name in damage.DAMAGES if name not in damage.ALL_OR_NOTHING])
def test_more_strength_is_more_damage(images, name):
    change = []
    for strength in (0.2, 0.5, 1.0):
        torch.manual_seed(1)
        change.append(float((damage.DAMAGES[name](images, torch.full((6,), strength)) - images).abs().mean()))
    assert change == sorted(change)
    assert change[2] > 1.5 * change[0]


def test_blur_is_a_gaussian_that_keeps_the_mean():
    """An impulse far from the border becomes the normal density; a plain picture stays plain up to the border."""
    impulse = torch.zeros(1, 3, 64, 64)
    impulse[:, :, 32, 32] = 1
    blurred = damage.blur_by(impulse, torch.tensor([2.0]))
    assert blurred.sum() == pytest.approx(3, rel=1e-4)
    distance = torch.arange(64.0) - 32
    density = torch.exp(-(distance**2) / 8) / (2 * torch.pi * 4) ** 0.5
    torch.testing.assert_close(blurred[0, 0], density[:, None] * density, atol=1e-5, rtol=0)
    plain = torch.full((1, 3, 64, 64), 0.7)
    torch.testing.assert_close(damage.blur_by(plain, torch.tensor([3.0])), plain)


def test_two_faces_is_its_own_mirror_image_and_a_symmetric_picture_is_not_counted(images):
    torch.manual_seed(2)
    twins = damage.two_faces(images, torch.ones(6))
    assert torch.equal(twins, twins.flip(-1))
    again = damage.two_faces(twins, torch.ones(6))
    assert not damage.visible("two_faces", twins, again).any()


def test_a_cut_out_shows_the_background_of_its_rows(images):
    torch.manual_seed(3)
    cut = damage.cut_out(images, torch.full((6,), 0.5))
    changed = (cut != images).any(1)
    assert changed.any((1, 2)).all()
    rows = images[..., :1].expand_as(images)
    assert torch.equal(cut.permute(1, 0, 2, 3)[:, changed], rows.permute(1, 0, 2, 3)[:, changed])


def test_pairs_are_ordered_in_damage(images):
    torch.manual_seed(4)
    worse = damage.worse_and_worse(images.repeat(8, 1, 1, 1))
    assert worse.mild.shape == worse.bad.shape == (48, 3, 64, 64)
    clean = images.repeat(8, 1, 1, 1)
    mild, bad = ((x - clean).abs().mean((1, 2, 3)) for x in (worse.mild, worse.bad))
    assert (mild == 0).any()
    assert (mild > 0).any()
    assert bad.mean() > 2 * mild.mean()
    assert worse.sure.float().mean() > 0.8
