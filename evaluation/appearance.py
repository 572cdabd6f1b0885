"""Appearance of an object in rendered views with opacity: over-exposure, saturation, sharpness and floating bits.

Colours are display values (sRGB, not linear light), un-premultiplied: what the object itself sends, without background.
A pixel is covered if its opacity α exceeds 1/2. All numbers are sums over the pixels of all views, so a view counts by
the number of its pixels. But for `overshoot`, colours are clamped to [0, 1]. A number that cannot be computed, as of an
object that covers no pixel, is None.

- `clipped`: share of covered pixels with a channel below 1/255 or above 254/255.
- `clipped_high`: share of covered pixels with a channel above 254/255, the part of `clipped` that is over-exposed.
- `overshoot`: share of covered pixels with a channel that exceeds 1 by more than half a step of 8 bits, not clamped.
- `saturation`: mean HSV saturation of covered pixels, (max - min) / max of the channels, 0 for black; from 0 to 1.
- `luminance`: mean luminance of covered pixels, 0.2126 R + 0.7152 G + 0.0722 B; from 0 to 1.
- `sharpness`: mean length of the gradient of the luminance, in luminance per pixel, by differences to the next pixel
  right and below, over pixels at least `SILHOUETTE_PIXELS` inside the silhouette. It depends on the size of the views.
- `specks`: share of opacity outside the largest connected component of each view. A component consists of pixels with
  an opacity above `SPECK_OPACITY` that touch, diagonally too; the largest one has the most opacity. A lower limit than
  1/2 counts faint specks, and leaves the soft edge of the object with the object.

None of them says what is right: a true object in pure red is clipped, and a true pair of objects has two components. So
read differences between methods for the same prompts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

COVERED_OPACITY = 1 / 2
SPECK_OPACITY = 1 / 20
SILHOUETTE_PIXELS = 2
STEP = 1 / 255
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # Rec. 709
_TOUCHING = np.ones((3, 3), bool)


class Measure(NamedTuple):
    """A number of `Appearance`: its title in figures, and its unit."""

    title: str
    unit: str


MEASURES = {
    "clipped": Measure("clipped pixels", "share of covered pixels"),
    "clipped_high": Measure("over-exposed pixels", "share of covered pixels"),
    "overshoot": Measure("colours above 1", "share of covered pixels"),
    "saturation": Measure("saturation", "0 to 1"),
    "luminance": Measure("luminance", "0 to 1"),
    "sharpness": Measure("sharpness", "luminance per pixel"),
    "specks": Measure("floating bits", "share of opacity"),
}


class Appearance(NamedTuple):
    """The numbers of one object, as defined above. `covered` is the share of covered pixels among all pixels."""

    covered: float
    clipped: float | None
    clipped_high: float | None
    overshoot: float | None
    saturation: float | None
    luminance: float | None
    sharpness: float | None
    specks: float | None


def appearance(
    light: Float[np.ndarray, "views height width 3"], opacity: Float[np.ndarray, "views height width"]
) -> Appearance:
    """The appearance of an object in its views. `light`: rendered on black, colour times opacity, not clamped."""
    covered = opacity > COVERED_OPACITY
    specks = _specks(opacity)
    if not covered.any():
        return Appearance(0.0, None, None, None, None, None, None, specks)
    emitted = np.divide(light, opacity[..., None], out=np.zeros(light.shape), where=covered[..., None])
    shown = np.clip(emitted, 0, 1)
    pixels = shown[covered]
    brightest, darkest = pixels.max(axis=1), pixels.min(axis=1)
    saturation = np.divide(brightest - darkest, brightest, out=np.zeros(len(pixels)), where=brightest > 0)
    return Appearance(
        covered=float(covered.mean()),
        clipped=float(((darkest < STEP) | (brightest > 1 - STEP)).mean()),
        clipped_high=float((brightest > 1 - STEP).mean()),
        overshoot=float((emitted[covered].max(axis=1) > 1 + STEP / 2).mean()),
        saturation=float(saturation.mean()),
        luminance=float((pixels @ LUMINANCE).mean()),
        sharpness=_sharpness(shown @ LUMINANCE, covered),
        specks=specks,
    )


def _sharpness(
    luminance: Float[np.ndarray, "views height width"], covered: Bool[np.ndarray, "views height width"]
) -> float | None:
    """Pixels at the border of the image count as the silhouette, so the differences stay inside the object."""
    inside = ndimage.binary_erosion(covered, _TOUCHING[None], iterations=SILHOUETTE_PIXELS)
    if not inside.any():
        return None
    right = np.diff(luminance, axis=2, append=0)[inside]
    below = np.diff(luminance, axis=1, append=0)[inside]
    return float(np.hypot(right, below).mean())


def _specks(opacity: Float[np.ndarray, "views height width"]) -> float | None:
    outside = whole = 0.0
    for view in opacity:
        labels, count = ndimage.label(view > SPECK_OPACITY, _TOUCHING)
        if count:
            of_components = ndimage.sum_labels(view, labels, range(1, count + 1))
            outside += float(of_components.sum() - of_components.max())
            whole += float(of_components.sum())
    return outside / whole if whole else None
