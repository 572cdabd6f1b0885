"""evaluation.appearance: synthetic views whose numbers are known in closed form."""

import numpy as np
import pytest

from evaluation.appearance import LUMINANCE, MEASURES, Appearance, appearance

SIZE = 64


def disc(x: float, radius: float, y: float = SIZE / 2) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    return np.hypot(columns - x, rows - y) < radius


def views(colour: np.ndarray | tuple[float, ...], *opacities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views of a colour (or an image of colours) with these opacities, as the renderer gives them on black."""
    opacity = np.stack(opacities).astype(np.float32)
    return (np.asarray(colour) * opacity[..., None]).astype(np.float32), opacity


def test_a_grey_disc():
    shape = disc(32, 20)
    found = appearance(*views((0.5, 0.5, 0.5), shape))
    assert found.covered == shape.mean()
    assert found[1:] == pytest.approx((0, 0, 0, 0, 0.5, 0, 0), abs=1e-6)


def test_colours_are_those_of_the_object_whatever_its_opacity():
    found = appearance(*views((0.8, 0.4, 0.2), 0.6 * disc(32, 20)))
    assert found.saturation == pytest.approx(0.75, abs=1e-6)
    assert found.luminance == pytest.approx(LUMINANCE @ (0.8, 0.4, 0.2), abs=1e-6)
    assert found.clipped == 0
    assert found.sharpness == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("colour", "clipped", "high", "overshoot", "luminance"),
    [
        ((1.4, 0.5, 0.5), 1, 1, 1, 0.2126 + 0.5 * 0.7874),
        ((1.0, 0.5, 0.5), 1, 1, 0, 0.2126 + 0.5 * 0.7874),
        ((0.99, 0.5, 0.5), 0, 0, 0, 0.2126 * 0.99 + 0.5 * 0.7874),
        ((0.003, 0.5, 0.5), 1, 0, 0, 0.2126 * 0.003 + 0.5 * 0.7874),
        ((0.005, 0.5, 0.5), 0, 0, 0, 0.2126 * 0.005 + 0.5 * 0.7874),
    ],
)
def test_clipping_and_overshoot_of_a_channel(colour, clipped, high, overshoot, luminance):
    found = appearance(*views(colour, disc(32, 20)))
    assert (found.clipped, found.clipped_high, found.overshoot) == (clipped, high, overshoot)
    assert found.luminance == pytest.approx(luminance, abs=1e-6)


def test_shares_are_of_the_pixels_of_all_views():
    """A view with a large and one with a small disc, the small one clipped: the share is that of their areas."""
    large, small = disc(32, 20), disc(32, 6)
    light, opacity = views((0.5, 0.5, 0.5), large, small)
    light[1] *= 4
    assert appearance(light, opacity).clipped == pytest.approx(small.sum() / (large.sum() + small.sum()))


def test_black_has_no_saturation():
    found = appearance(*views((0, 0, 0), disc(32, 20)))
    assert (found.saturation, found.luminance, found.clipped) == (0, 0, 1)


def test_a_ramp_has_its_slope_and_a_checkerboard_a_closed_form():
    """Luminance 0.01 per column; squares of one pixel differ from both neighbours, so the gradient is √2 times 0.6."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    ramp = 0.01 * columns[..., None] * np.ones(3)
    assert appearance(*views(ramp, disc(32, 20))).sharpness == pytest.approx(0.01, rel=1e-4)
    squares = 0.2 + 0.6 * ((rows + columns) % 2)[..., None] * np.ones(3)
    assert appearance(*views(squares, disc(32, 20))).sharpness == pytest.approx(0.6 * np.sqrt(2), rel=1e-5)


def test_the_silhouette_is_no_sharpness_nor_is_the_border_of_the_image():
    assert appearance(*views((1, 1, 1), np.ones((SIZE, SIZE)))).sharpness == pytest.approx(0)
    assert appearance(*views((1, 1, 1), disc(60, 20))).sharpness == pytest.approx(0)


def test_the_smaller_of_two_discs_is_specks_by_its_opacity():
    large, small = disc(20, 12), disc(52, 5)
    share = 0.25 * small.sum() / (0.25 * small.sum() + large.sum())
    found = appearance(*views((0.5, 0.5, 0.5), large + 0.25 * small))
    assert found.specks == pytest.approx(share, rel=1e-6)
    assert found.covered == large.mean()  # a faint speck covers nothing


def test_the_soft_edge_of_an_object_is_no_speck():
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    blur = np.exp(-((rows - 32) ** 2 + (columns - 32) ** 2) / (2 * 8**2))
    assert appearance(*views((0.5, 0.5, 0.5), blur)).specks == 0


def test_numbers_of_an_invisible_object_are_absent():
    nothing = np.zeros((SIZE, SIZE))
    assert appearance(*views((0.5, 0.5, 0.5), nothing)) == Appearance(0, None, None, None, None, None, None, None)
    faint = appearance(*views((0.5, 0.5, 0.5), 0.3 * disc(32, 20)))
    assert (faint.covered, faint.clipped, faint.specks) == (0, None, 0)
    thin = appearance(*views((0.5, 0.5, 0.5), disc(32, 2)))
    assert (thin.clipped, thin.sharpness) == (0, None)


def test_every_measure_has_a_title_and_a_unit():
    assert ("covered", *MEASURES) == Appearance._fields
