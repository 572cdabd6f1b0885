"""Rays against rows of primitives: what one ray sees, as small functions that run on the CPU and on the GPU alike.

numba compiles them for the CPU here, and for the GPU when a CUDA kernel of `raytrace.py` calls them. All arithmetic is
float32: a bare literal would be float64 to numba, and the GPU would then spend its time in double precision, so every
constant is made with `f32` or named here.

A ray meets each primitive separately, in the primitive's own coordinates: first its bounding sphere, then the
ellipsoid in closed form or sphere tracing of the signed distance. Threads of a warp thus always trace the same kind.
The signed distances of the star and the heart follow I. Quilez' formulas.
"""

import math
from typing import Any

import numba
import numpy as np
from numpy import float32 as f32

from pipeline.embedded.objects import (
    BOX,
    CAPSULE,
    CHECKERED,
    CONE,
    DOME,
    DOTTED,
    ELLIPSOID,
    HEART,
    PRISM,
    PYRAMID,
    STAR,
    STRIPED,
    TORUS,
    TUBE,
)

# One camera: 0-2 eye | 3-5 right | 6-8 up | 9-11 forward | 12 tan(fov / 2) | 13-15 background at the top
# | 16-18 at the bottom | 19-21 direction to the light | 22 ambient | 23 strength of the light.
CAM = 24
MAX_PRIMITIVES = 64  # of one scene: what a CUDA block keeps in shared memory
ZERO, HALF, ONE, TWO, FAR = f32(0), f32(0.5), f32(1), f32(2), f32(1e3)
MAX_STEPS = 48
SURFACE = f32(0.001)  # closer than this is a hit
RELAXATION = f32(0.95)  # of a step: some distances are only nearly exact
DIFFERENCE = f32(0.002)  # for normals
TENTH_TURN_COS, TENTH_TURN_SIN = f32(math.cos(math.pi / 5)), f32(math.sin(math.pi / 5))
LOBE = f32(math.sqrt(2) / 4)  # radius of the heart's lobes
FULL_TURN = f32(2 * math.pi)
LAUNCH_RADIUS = f32(1.02)

WORD = np.uint64(0xFFFFFFFF)
SHIFT_15, SHIFT_16, SHIFT_8 = np.uint64(15), np.uint64(16), np.uint64(8)
MIX_A, MIX_B, STRIDE = np.uint64(0x7FEB352D), np.uint64(0x846CA68B), np.uint64(0x9E3779B9)
UNIT = f32(2.0**-24)
MAX_LAUNCHES = 256

# numba's cache asks only whether the file of a function has changed, so the loops stand here with what they call.
function = numba.njit(cache=True, fastmath=True, error_model="numpy")
parallel: Any = numba.njit(cache=True, fastmath=True, error_model="numpy", parallel=True)


@function
def smaller(a, b):
    """min(a, b): numba's own CUDA target knows no min and max of plain numbers (0.68)."""
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
    """First-order distance to an ellipsoid: exact on its surface."""
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
    """Five-pointed star in the plane: fold into one half of one point, then the distance to its edge."""
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
    """Distance of a point, in the primitive's coordinates, to its surface; negative inside. See objects.py."""
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


@function
def to_local(prims, i, x, y, z):
    """A direction in the world, in the coordinates of primitive i (subtract its position first for a point)."""
    return (
        prims[i, 4] * x + prims[i, 5] * y + prims[i, 6] * z,
        prims[i, 7] * x + prims[i, 8] * y + prims[i, 9] * z,
        prims[i, 10] * x + prims[i, 11] * y + prims[i, 12] * z,
    )


@function
def meet_ellipsoid(x, y, z, dx, dy, dz, a, b, c):
    """Where a ray from outside enters the ellipsoid, or FAR."""
    x, y, z, dx, dy, dz = x / a, y / b, z / c, dx / a, dy / b, dz / c
    speed = dx * dx + dy * dy + dz * dz
    half_b = x * dx + y * dy + z * dz
    discriminant = half_b * half_b - speed * (x * x + y * y + z * z - ONE)
    if discriminant < ZERO:
        return FAR
    return larger((-half_b - math.sqrt(discriminant)) / speed, ZERO)


@function
def meet_primitive(prims, i, ox, oy, oz, dx, dy, dz, limit):
    """Distance along the unit ray at which it first meets primitive i before `limit`, or FAR."""
    mx, my, mz = ox - prims[i, 1], oy - prims[i, 2], oz - prims[i, 3]
    nearest = -(mx * dx + my * dy + mz * dz)
    px, py, pz = mx + nearest * dx, my + nearest * dy, mz + nearest * dz
    room = prims[i, 26] * prims[i, 26] - (px * px + py * py + pz * pz)
    if room < ZERO:
        return FAR
    half_chord = math.sqrt(room)
    start, end = larger(nearest - half_chord, ZERO), smaller(nearest + half_chord, limit)
    if start >= end:
        return FAR
    x, y, z = to_local(prims, i, mx + start * dx, my + start * dy, mz + start * dz)
    dx, dy, dz = to_local(prims, i, dx, dy, dz)
    kind = int(prims[i, 0])
    a, b, c, rounding = prims[i, 13], prims[i, 14], prims[i, 15], prims[i, 16]
    if kind == ELLIPSOID:
        t = meet_ellipsoid(x, y, z, dx, dy, dz, a, b, c)
        return start + t if start + t < end else FAR
    t, length = ZERO, end - start
    for _ in range(MAX_STEPS):
        distance = signed_distance(kind, x + t * dx, y + t * dy, z + t * dz, a, b, c, rounding)
        if distance < SURFACE:
            return start + t
        t += distance * RELAXATION
        if t > length:
            return FAR
    return FAR


@function
def first_hit(prims, count, ox, oy, oz, dx, dy, dz):
    """Nearest primitive on the ray: (distance, its index), or (FAR, -1)."""
    best, index = FAR, -1
    for i in range(count):
        t = meet_primitive(prims, i, ox, oy, oz, dx, dy, dz, best)
        if t < best:
            best, index = t, i
    return best, index


@function
def local_normal(prims, i, x, y, z):
    """Unit normal in the primitive's coordinates at a point of its surface."""
    kind = int(prims[i, 0])
    a, b, c, rounding = prims[i, 13], prims[i, 14], prims[i, 15], prims[i, 16]
    if kind == ELLIPSOID:
        nx, ny, nz = x / (a * a), y / (b * b), z / (c * c)
    else:
        e = DIFFERENCE
        nx = signed_distance(kind, x + e, y, z, a, b, c, rounding) - signed_distance(
            kind, x - e, y, z, a, b, c, rounding
        )
        ny = signed_distance(kind, x, y + e, z, a, b, c, rounding) - signed_distance(
            kind, x, y - e, z, a, b, c, rounding
        )
        nz = signed_distance(kind, x, y, z + e, a, b, c, rounding) - signed_distance(
            kind, x, y, z - e, a, b, c, rounding
        )
    scale = ONE / larger(length3(nx, ny, nz), f32(1e-9))
    return nx * scale, ny * scale, nz * scale


@function
def cell(x):
    """The integer below; math.floor alone is an integer on the CPU and a float on CUDA."""
    return int(math.floor(x))  # noqa: RUF046


@function
def surface_color(prims, i, x, y, z):
    """Colour of primitive i at a point in its coordinates, its pattern included."""
    pattern, frequency = int(prims[i, 23]), prims[i, 24]
    second = False
    if pattern == STRIPED:
        second = (cell(z * frequency + HALF) & 1) == 1
    elif pattern == CHECKERED:
        cells = cell(x * frequency + HALF) + cell(y * frequency + HALF) + cell(z * frequency + HALF)
        second = (cells & 1) == 1
    elif pattern == DOTTED:
        u = x * frequency - f32(cell(x * frequency)) - HALF
        v = y * frequency - f32(cell(y * frequency)) - HALF
        w = z * frequency - f32(cell(z * frequency)) - HALF
        second = u * u + v * v + w * w < f32(0.13)
    first = 20 if second else 17
    return prims[i, first], prims[i, first + 1], prims[i, first + 2]


@function
def ray_color(prims, count, camera, u, v):
    """Colour seen along the ray through (u, v) in [-1, 1], v upwards: soft light from one side and from the sky."""
    spread = camera[12]
    dx = camera[9] + spread * (u * camera[3] + v * camera[6])
    dy = camera[10] + spread * (u * camera[4] + v * camera[7])
    dz = camera[11] + spread * (u * camera[5] + v * camera[8])
    scale = ONE / length3(dx, dy, dz)
    dx, dy, dz = dx * scale, dy * scale, dz * scale
    t, i = first_hit(prims, count, camera[0], camera[1], camera[2], dx, dy, dz)
    if i < 0:
        top = HALF + HALF * v
        bottom = ONE - top
        return (
            camera[13] * top + camera[16] * bottom,
            camera[14] * top + camera[17] * bottom,
            camera[15] * top + camera[18] * bottom,
        )
    mx, my, mz = camera[0] - prims[i, 1], camera[1] - prims[i, 2], camera[2] - prims[i, 3]
    x, y, z = to_local(prims, i, mx + t * dx, my + t * dy, mz + t * dz)
    red, green, blue = surface_color(prims, i, x, y, z)
    x, y, z = local_normal(prims, i, x, y, z)
    nx = prims[i, 4] * x + prims[i, 7] * y + prims[i, 10] * z
    ny = prims[i, 5] * x + prims[i, 8] * y + prims[i, 11] * z
    nz = prims[i, 6] * x + prims[i, 9] * y + prims[i, 12] * z
    diffuse = larger(nx * camera[19] + ny * camera[20] + nz * camera[21], ZERO)
    shade = camera[22] + f32(0.3) * (HALF + HALF * nz) + camera[23] * diffuse
    hx, hy, hz = camera[19] - dx, camera[20] - dy, camera[21] - dz  # half way between the light and the eye
    highlight = larger((nx * hx + ny * hy + nz * hz) / larger(length3(hx, hy, hz), f32(1e-6)), ZERO)
    cubed = highlight * highlight * highlight
    twelfth = cubed * cubed * cubed * cubed
    highlight = prims[i, 25] * twelfth * twelfth  # the 24th power
    if prims[i, 25] > f32(0.4):  # metals brighten where they face the eye
        shade += f32(0.25) * (larger(-(nx * dx + ny * dy + nz * dz), ZERO) - HALF)
    return (
        clamp(red * shade + highlight, ZERO, ONE),
        clamp(green * shade + highlight, ZERO, ONE),
        clamp(blue * shade + highlight, ZERO, ONE),
    )


@function
def pixel_color(prims, count, camera, column, row, size, samples):
    """Mean of samples x samples rays through a pixel, as three uint8."""
    red, green, blue = ZERO, ZERO, ZERO
    step = ONE / f32(samples)
    pixel = TWO / f32(size)
    for j in range(samples):
        for k in range(samples):
            u = (f32(column) + (f32(k) + HALF) * step) * pixel - ONE
            v = ONE - (f32(row) + (f32(j) + HALF) * step) * pixel
            r, g, b = ray_color(prims, count, camera, u, v)
            red, green, blue = red + r, green + g, blue + b
    level = f32(255) * step * step
    return np.uint8(red * level + HALF), np.uint8(green * level + HALF), np.uint8(blue * level + HALF)


@function
def scramble(state):
    """A 32-bit integer hash (C. Wellons' lowbias32), carried in 64 bits."""
    state = ((state ^ (state >> SHIFT_16)) * MIX_A) & WORD
    state = ((state ^ (state >> SHIFT_15)) * MIX_B) & WORD
    return state ^ (state >> SHIFT_16)


@function
def uniform(state):
    """Next state and a number in [0, 1)."""
    state = scramble((state + STRIDE) & WORD)
    return state, f32(state >> SHIFT_8) * UNIT


@function
def point_on_sphere(state):
    state, u = uniform(state)
    state, v = uniform(state)
    z = TWO * u - ONE
    radius = math.sqrt(larger(ONE - z * z, ZERO))
    return state, radius * math.cos(FULL_TURN * v), radius * math.sin(FULL_TURN * v), z


@function
def surface_point(prims, count, seed):
    """One visible point of the surface and its colour: (x, y, z, red, green, blue).

    A chord between two random points of a sphere is a uniformly random line, and such lines meet a surface in
    proportion to its area (Crofton). The first thing the chord meets is a point that can be seen from outside.
    """
    state = scramble(np.uint64(seed) & WORD)
    for _ in range(MAX_LAUNCHES):
        state, ox, oy, oz = point_on_sphere(state)
        state, dx, dy, dz = point_on_sphere(state)
        dx, dy, dz = dx - ox, dy - oy, dz - oz
        scale = ONE / larger(length3(dx, dy, dz), f32(1e-6))
        dx, dy, dz = dx * scale, dy * scale, dz * scale
        ox, oy, oz = ox * LAUNCH_RADIUS, oy * LAUNCH_RADIUS, oz * LAUNCH_RADIUS
        t, i = first_hit(prims, count, ox, oy, oz, dx, dy, dz)
        if i >= 0:
            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
            lx, ly, lz = to_local(prims, i, x - prims[i, 1], y - prims[i, 2], z - prims[i, 3])
            red, green, blue = surface_color(prims, i, lx, ly, lz)
            return x, y, z, red, green, blue
    # No chord of 256 met the object: the place and colour of its first primitive.
    return prims[0, 1], prims[0, 2], prims[0, 3], prims[0, 17], prims[0, 18], prims[0, 19]


@parallel
def draw_on_cpu(rows, starts, counts, scene_index, cameras, samples, pictures):
    """Fill `pictures` [n, 3, size, size]: see `raytrace.render`."""
    size = pictures.shape[2]
    for line in numba.prange(pictures.shape[0] * size):
        image, row = line // size, line % size
        scene = scene_index[image]
        start, count = starts[scene], counts[scene]
        for column in range(size):
            color = pixel_color(rows[start : start + count], count, cameras[image], column, row, size, samples)
            for channel in range(3):
                pictures[image, channel, row, column] = color[channel]


@parallel
def sample_on_cpu(rows, starts, counts, seed, points):
    """Fill `points` [scenes, per scene, 6]: see `raytrace.surface_points`."""
    per_scene = points.shape[1]
    for scene in numba.prange(points.shape[0]):
        start, count = starts[scene], counts[scene]
        for k in range(per_scene):
            point = surface_point(rows[start : start + count], count, seed + scene * per_scene + k)
            for axis in range(6):
                points[scene, k, axis] = point[axis]
