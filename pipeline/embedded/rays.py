"""Ray tracing of primitives: the colour that a ray shows and random points of a surface, for the CPU and CUDA.

numba compiles these functions for the CPU here, and for the GPU when a kernel of `raytrace_cuda.py` calls them. All
arithmetic is float32 (see `signed_distance.py`).

A ray is intersected with each primitive separately, in the primitive's coordinates: first with its bounding sphere,
then with the ellipsoid in closed form, or by sphere tracing of the signed distance. So the threads of a warp always
trace the same kind of primitive.
"""

import math
from typing import Any

import numba
import numpy as np
from numpy import float32 as f32

from pipeline.embedded.objects import CHECKERED, DOTTED, ELLIPSOID, STRIPED
from pipeline.embedded.signed_distance import (
    FAR,
    HALF,
    ONE,
    TWO,
    ZERO,
    clamp,
    function,
    larger,
    length3,
    signed_distance,
    smaller,
)

# One camera: 0-2 eye | 3-5 right | 6-8 up | 9-11 forward | 12 tan(fov / 2) | 13-15 background at the top
# | 16-18 at the bottom | 19-21 direction to the light | 22 ambient | 23 strength of the light.
CAM = 24
MAX_PRIMITIVES = 64  # of one scene: as many as a CUDA block stores in shared memory
MAX_STEPS = 48
SURFACE = f32(0.001)  # a point closer than this is a hit
RELAXATION = f32(0.95)  # factor on a step: some distances are not quite exact
DIFFERENCE = f32(0.002)  # step of the finite differences for normals
FULL_TURN = f32(2 * math.pi)
LAUNCH_RADIUS = f32(1.02)

WORD = np.uint64(0xFFFFFFFF)
SHIFT_15, SHIFT_16, SHIFT_8 = np.uint64(15), np.uint64(16), np.uint64(8)
MIX_A, MIX_B, STRIDE = np.uint64(0x7FEB352D), np.uint64(0x846CA68B), np.uint64(0x9E3779B9)
UNIT = f32(2.0**-24)
MAX_LAUNCHES = 256

parallel: Any = numba.njit(cache=True, fastmath=True, error_model="numpy", parallel=True)


@function
def to_local(prims, i, x, y, z):
    """A world direction in the coordinates of primitive i (for a point, subtract its position first)."""
    return (
        prims[i, 4] * x + prims[i, 5] * y + prims[i, 6] * z,
        prims[i, 7] * x + prims[i, 8] * y + prims[i, 9] * z,
        prims[i, 10] * x + prims[i, 11] * y + prims[i, 12] * z,
    )


@function
def intersect_ellipsoid(x, y, z, dx, dy, dz, a, b, c):
    """Distance at which a ray from outside enters the ellipsoid, or FAR."""
    x, y, z, dx, dy, dz = x / a, y / b, z / c, dx / a, dy / b, dz / c
    speed = dx * dx + dy * dy + dz * dz
    half_b = x * dx + y * dy + z * dz
    discriminant = half_b * half_b - speed * (x * x + y * y + z * z - ONE)
    if discriminant < ZERO:
        return FAR
    return larger((-half_b - math.sqrt(discriminant)) / speed, ZERO)


@function
def intersect_primitive(prims, i, ox, oy, oz, dx, dy, dz, limit):
    """Distance along the unit ray of its first intersection with primitive i before `limit`, or FAR."""
    mx, my, mz = ox - prims[i, 1], oy - prims[i, 2], oz - prims[i, 3]
    nearest = -(mx * dx + my * dy + mz * dz)
    px, py, pz = mx + nearest * dx, my + nearest * dy, mz + nearest * dz
    half_chord_squared = prims[i, 26] * prims[i, 26] - (px * px + py * py + pz * pz)
    if half_chord_squared < ZERO:
        return FAR
    half_chord = math.sqrt(half_chord_squared)
    start, end = larger(nearest - half_chord, ZERO), smaller(nearest + half_chord, limit)
    if start >= end:
        return FAR
    x, y, z = to_local(prims, i, mx + start * dx, my + start * dy, mz + start * dz)
    dx, dy, dz = to_local(prims, i, dx, dy, dz)
    kind = int(prims[i, 0])
    a, b, c, rounding = prims[i, 13], prims[i, 14], prims[i, 15], prims[i, 16]
    if kind == ELLIPSOID:
        t = intersect_ellipsoid(x, y, z, dx, dy, dz, a, b, c)
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
        t = intersect_primitive(prims, i, ox, oy, oz, dx, dy, dz, best)
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
    """floor(x) as an integer; math.floor alone gives an integer on the CPU and a float on CUDA."""
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
    """Colour of the ray through (u, v) in [-1, 1], v upwards, with soft light from one side and from the sky."""
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
    hx, hy, hz = camera[19] - dx, camera[20] - dy, camera[21] - dz  # halfway between the light and the eye
    highlight = larger((nx * hx + ny * hy + nz * hz) / larger(length3(hx, hy, hz), f32(1e-6)), ZERO)
    cubed = highlight * highlight * highlight
    twelfth = cubed * cubed * cubed * cubed
    highlight = prims[i, 25] * twelfth * twelfth  # the 24th power
    if prims[i, 25] > f32(0.4):  # metals are brighter where they face the eye
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
    """A 32-bit integer hash (C. Wellons' lowbias32) in 64 bits."""
    state = ((state ^ (state >> SHIFT_16)) * MIX_A) & WORD
    state = ((state ^ (state >> SHIFT_15)) * MIX_B) & WORD
    return state ^ (state >> SHIFT_16)


@function
def uniform(state):
    """The next state and a number in [0, 1)."""
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

    A chord between two random points of a sphere is a uniformly random line, and such lines intersect a surface in
    proportion to its area (Crofton). The first intersection is a point that is visible from outside.
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
    # None of 256 chords intersects the object: return position and colour of its first primitive.
    return prims[0, 1], prims[0, 2], prims[0, 3], prims[0, 17], prims[0, 18], prims[0, 19]


@parallel
def draw_on_cpu(rows, starts, counts, scene_index, cameras, samples, images):
    """Fill `images` [n, 3, size, size]: see `raytrace.render`."""
    size = images.shape[2]
    for line in numba.prange(images.shape[0] * size):
        image, row = line // size, line % size
        scene = scene_index[image]
        start, count = starts[scene], counts[scene]
        for column in range(size):
            color = pixel_color(rows[start : start + count], count, cameras[image], column, row, size, samples)
            for channel in range(3):
                images[image, channel, row, column] = color[channel]


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
