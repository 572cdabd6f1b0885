"""Signed distances to the primitives of the synthetic world, compiled by numba for the CPU and for CUDA.

All arithmetic is float32. numba would treat a bare literal as float64, and a GPU would compute in double precision. So
every constant is created with `f32` or has a name here. The distances of the star and the heart follow I. Quilez'
formulas.

numba caches compiled functions beside their source file (or in NUMBA_CACHE_DIR) and recompiles them only if that file
changes. After editing this file or the constants of objects.py, also touch rays.py, whose loops call these functions.
"""

import math

import numba
from numpy import float32 as f32

from pipeline.embedded.objects import (
    BOX,
    CAPSULE,
    CONE,
    DOME,
    ELLIPSOID,
    HEART,
    PRISM,
    PYRAMID,
    STAR,
    TORUS,
    TUBE,
)

ZERO, HALF, ONE, TWO, FAR = f32(0), f32(0.5), f32(1), f32(2), f32(1e3)
TENTH_TURN_COS, TENTH_TURN_SIN = f32(math.cos(math.pi / 5)), f32(math.sin(math.pi / 5))
LOBE = f32(math.sqrt(2) / 4)  # radius of the heart's lobes

function = numba.njit(cache=True, fastmath=True, error_model="numpy")


@function
def smaller(a, b):
    """min(a, b): numba's CUDA target has no min and max of scalars (0.68)."""
    return a if a < b else b


@function
def larger(a, b):
    return a if a > b else b


@function
def length2(x, y):
    return math.sqrt(x * x + y * y)


@function
def length3(x, y, z):
    return math.sqrt(x * x + y * y + z * z)


@function
def clamp(x, low, high):
    return smaller(larger(x, low), high)


@function
def extruded(flat, beyond):
    """Distance to an extrusion, from the distance in the plane and the distance beyond its half thickness."""
    return smaller(larger(flat, beyond), ZERO) + length2(larger(flat, ZERO), larger(beyond, ZERO))


@function
def ellipsoid_distance(x, y, z, a, b, c):
    """First-order distance to an ellipsoid, exact on its surface."""
    k0 = length3(x / a, y / b, z / c)
    k1 = length3(x / (a * a), y / (b * b), z / (c * c))
    return k0 * (k0 - ONE) / larger(k1, f32(1e-6))


@function
def frustum_distance(x, y, z, half_height, bottom, top):
    q = length2(x, y)
    end_x = q - smaller(q, bottom if z < ZERO else top)
    end_z = abs(z) - half_height
    slope_x, slope_z = top - bottom, TWO * half_height
    along = ((top - q) * slope_x + (half_height - z) * slope_z) / (slope_x * slope_x + slope_z * slope_z)
    along = clamp(along, ZERO, ONE)
    side_x, side_z = q - top + slope_x * along, z - half_height + slope_z * along
    nearest = math.sqrt(smaller(end_x * end_x + end_z * end_z, side_x * side_x + side_z * side_z))
    return -nearest if side_x < ZERO and end_z < ZERO else nearest


@function
def star_distance(y, z, radius, inner_ratio):
    """Five-pointed star in the plane: fold into one half of one tip, then take the distance to its edge."""
    p, q = abs(y), z
    for side in range(2):
        fold_x = TENTH_TURN_COS if side == 0 else -TENTH_TURN_COS
        reach = TWO * larger(fold_x * p - TENTH_TURN_SIN * q, ZERO)
        p -= reach * fold_x
        q += reach * TENTH_TURN_SIN
    p = abs(p)
    q -= radius
    edge_x, edge_z = inner_ratio * TENTH_TURN_SIN, inner_ratio * TENTH_TURN_COS - ONE
    along = clamp((p * edge_x + q * edge_z) / (edge_x * edge_x + edge_z * edge_z), ZERO, radius)
    distance = length2(p - edge_x * along, q - edge_z * along)
    return -distance if q * edge_x - p * edge_z < ZERO else distance


@function
def heart_distance(y, z, size):
    p, q = abs(y) / size, z / size + HALF
    if p + q > ONE:
        return (length2(p - f32(0.25), q - f32(0.75)) - LOBE) * size
    u = larger(p + q, ZERO) * HALF
    nearest = math.sqrt(smaller(p * p + (q - ONE) * (q - ONE), (p - u) * (p - u) + (q - u) * (q - u)))
    return -nearest * size if p < q else nearest * size


@function
def signed_distance(kind, x, y, z, a, b, c, rounding):
    """Distance of a point, in the primitive's coordinates, to its surface; negative inside. Sizes: see objects.py."""
    if kind == ELLIPSOID:
        return ellipsoid_distance(x, y, z, a, b, c)
    if kind == BOX:
        p, q, s = abs(x) - a + rounding, abs(y) - b + rounding, abs(z) - c + rounding
        return (
            length3(larger(p, ZERO), larger(q, ZERO), larger(s, ZERO))
            + smaller(larger(p, larger(q, s)), ZERO)
            - rounding
        )
    if kind == CONE:
        bottom, top = larger(b - rounding, ZERO), larger(c - rounding, ZERO)
        return frustum_distance(x, y, z, a - rounding, bottom, top) - rounding
    if kind == TORUS:
        return length2(length2(x, y) - a, z) - b
    if kind == CAPSULE:
        return length3(x, y, z - clamp(z, -a, a)) - b
    if kind == PYRAMID:
        side = (larger(abs(x), abs(y)) * TWO * b + (z - b) * a) / length2(TWO * b, a)
        return larger(side, -z - b)
    if kind == STAR:
        return extruded(star_distance(y, z, a, b), abs(x) - c) - rounding
    if kind == TUBE:
        return extruded(abs(length2(x, y) - a) - b, abs(z) - c) - rounding
    if kind == DOME:
        return larger(ellipsoid_distance(x, y, z, a, b, c), -z)
    if kind == PRISM:
        side = (abs(y) * c + (z - HALF * c) * b) / length2(c, b)
        return larger(larger(side, -z - HALF * c), abs(x) - a)
    if kind == HEART:
        return extruded(heart_distance(y, z, a), abs(x) - c) - rounding
    return FAR
