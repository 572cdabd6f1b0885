#!/usr/bin/env bash
# scikit-image's marching_cubes: `spacing` moves the vertices but not the normals, which are then up to 20 degrees off the surface.
#
# Version: scikit-image 0.26.0 with numpy 2.4.6.
# Guess: vertices and normals of one call are in the same coordinates, those that `spacing` sets.
# Instead: the normals are differences of neighbouring samples, as if all samples were 1 apart, and have length 1. In a box that is
#   half as high as wide and has as many samples in each direction, they are wrong wherever the surface is oblique: by 12 degrees
#   on average for a ball. With equal spacing they are right. The docstring does not say so, and nothing warns.
# Why it matters: a density field is often sampled at N x N x N points of the box of its object, which is no cube for a car or a
#   table. The vertices are right, so the outline looks well, but shading, baking along the normals and scores of normals are
#   those of a stretched object. Divide the normals by the spacing and scale them to length 1: this mends them.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q scikit-image==0.26.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
from skimage.measure import marching_cubes

SAMPLES = 65


def degrees(normals, exact):
    """The mean and the largest angle between two sets of directions of length 1."""
    angles = np.degrees(np.arccos(np.clip((normals * exact).sum(1), -1, 1)))
    return round(float(angles.mean()), 1), round(float(angles.max()), 1)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


found = {}
for name, half in {"a cube": (1, 1, 1), "a box half as high": (1, 1, 0.5)}.items():
    half = np.array(half)
    axes = [np.linspace(-h, h, SAMPLES) for h in half]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    density = np.exp(-8 * (points**2).sum(-1))  # a soft ball around the origin; the surface has radius 0.4
    spacing = 2 * half / (SAMPLES - 1)
    vertices, _, normals, _ = marching_cubes(density, np.exp(-8 * 0.4**2), spacing=spacing)
    vertices = vertices - half
    radii = np.linalg.norm(vertices, axis=1)
    towards_centre = -unit(vertices)
    if (normals * towards_centre).sum() < 0:
        towards_centre = -towards_centre
    found[name] = degrees(normals, towards_centre)
    mended = degrees(unit(normals / spacing), towards_centre)
    print(f"sampled in {name}: radius of the vertices {radii.min():.3f} to {radii.max():.3f}")
    print("  normals off by {} degrees on average, {} at most".format(*found[name]))
    print("  divided by the spacing: {} on average, {} at most".format(*mended))
    assert radii.min() > 0.39 and radii.max() < 0.41 and mended[1] < 5, "this has changed"
cube, box = found.values()
raise SystemExit(0 if cube[1] < 5 and box[0] > 10 and box[1] > 15 else "this has changed")
PYTHON
